"""Which kernels torch computes with."""

import os
import subprocess
import sys

import pytest

ASK = """
from extractor import kernels
kernels.use_the_same()
import torch
print(torch.backends.cpu.get_cpu_capability())
"""


@pytest.mark.parametrize(("asked", "chosen"), [({}, "AVX2"), ({"ATEN_CPU_CAPABILITY": "default"}, "DEFAULT")])
def test_they_are_the_same_everywhere_unless_somebody_asks_for_others(asked: dict[str, str], chosen: str) -> None:
    clean = {name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
    said = subprocess.run([sys.executable, "-c", ASK], env=clean | asked, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == chosen
