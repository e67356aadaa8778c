"""Each contract of import-linter fails when it is broken."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "plugins/featurise",
    "plugins/featurise_demo",
    "reader/featurise_reader",
    "images/extractor/extractor",
    "images/resnet101-detectron2/resnet101_detectron2",
    "images/resnext101-mmf/resnext101_mmf",
)
BROKEN = {
    "The control plane imports the extractor's light core only, and never torch": ("featurise/cli", "torch"),
    "Nothing imports the demo": ("featurise/settings", "featurise_demo.embedded"),
    "The reader needs neither the platform nor Airflow": ("featurise_reader/store", "featurise.errors"),
    "The extractor and the backbones know neither Airflow nor the control plane": ("extractor/log", "featurise.errors"),
    "The backbones do not know each other": ("resnext101_mmf/nms", "resnet101_detectron2.pooling"),
    "The order of the extractor's folders is the order of imports, too": (
        "extractor/core/weights",
        "extractor.pipeline.parts",
    ),
    "The extractor's light core needs no torch": ("extractor/core/manifest", "torch"),
    "The order of the folders is the order of imports": ("featurise/registry/coverage", "featurise.airflow.priority"),
    "The launchers do not know each other": (
        "featurise/airflow/operators/process",
        "featurise.airflow.operators.kubernetes",
    ),
    "The export formats do not know each other": ("featurise/export/tsv", "featurise.export.hdf5"),
    "The steps know the ones before them, and none that follows": ("featurise/steps/plan", "featurise.steps.publish"),
    "The registry's transactions stand on its schema, and that on its engine": (
        "featurise/registry/engine",
        "featurise.registry.schema",
    ),
    "Only airflow/ imports Airflow": ("featurise/steps/register", "airflow.sdk"),
}
"""By contract: a module, and an import that it forbids there."""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What import-linter says of a copy of our packages in which every contract is broken."""
    folder = tmp_path_factory.mktemp("broken")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / Path(package).name, ignore=shutil.ignore_patterns("__pycache__"))
    for module, imported in BROKEN.values():
        with (folder / f"{module}.py").open("a") as file:
            file.write(f"\nimport {imported}\n")
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--config", ROOT / "pyproject.toml", "--no-cache"],
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "500"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    return done.stdout


def test_every_contract_is_tried(said: str) -> None:
    assert set(re.findall(r"^(.+) (?:KEPT|BROKEN)$", said, re.MULTILINE)) == set(BROKEN)


@pytest.mark.parametrize("contract", BROKEN)
def test_a_contract_that_is_broken_fails(said: str, contract: str) -> None:
    assert f"{contract} BROKEN" in said
    module, imported = BROKEN[contract]
    importer = module.replace("/", ".")
    assert re.search(rf"{re.escape(importer)} -> {re.escape(imported.split('.')[0])}", said), said
