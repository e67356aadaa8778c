"""The extractor's job: what is declared arrives as arguments that the extractor itself understands."""

import json
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from extractor.core.backbone_specs import Precision
from extractor.core.exit_codes import Exit, Summary
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.steps import extract
from featurise.steps.extract import Attempt
from featurise.steps.plan import Shard

EXTRACTOR = Path("images/extractor/.venv/bin/extractor")


def facts(argv: list[str]) -> dict[str, str]:
    return {name: value for name, value in pairwise(argv) if name.startswith("--")}


@pytest.fixture
def shard(spec: FeatureSetSpec) -> Shard:
    return Shard.of(Run(spec, "2026-11-23", "run"), "shard-00002", 3)


def test_everything_that_changes_a_number_is_an_argument(spec: FeatureSetSpec):
    boxes = spec.boxes.model_copy(update={"min_boxes": 10, "max_boxes": 100, "confidence_threshold": 0.3})
    other = spec.model_copy(update={"boxes": boxes, "precision": Precision.BF16})
    run = Run(other, "2026-11-23", "run")
    shard = Shard.of(run, "shard-00002", 3)
    found = facts(extract.specification(run, shard, Attempt(number=2, batch_size=4)).argv)
    assert (found["--min-boxes"], found["--max-boxes"], found["--confidence-threshold"]) == ("10", "100", "0.3")
    assert (found["--precision"], found["--batch-size"]) == ("bf16", "4")
    assert (found["--weights"], found["--weights-sha256"]) == (spec.weights.uri, "a" * 64)
    assert (found["--revision"], found["--output"]) == (other.revision, extract.output(shard))


def test_no_secret_is_in_a_job(spec: FeatureSetSpec, shard, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-show")
    made = extract.specification(Run(spec, "2026-11-23", "run"), shard, Attempt())
    assert "do-not-show" not in made.model_dump_json()


@pytest.mark.parametrize(
    ("backbone", "extra"), [("resnet101", {}), ("resnext101", {"cls_prob": "none", "preprocessing": "mmf"})]
)
def test_the_extractor_understands_the_arguments(spec: FeatureSetSpec, tmp_path, backbone, extra):
    summary = tmp_path / "summary.json"
    other = FeatureSetSpec.model_validate({**spec.model_dump(), "backbone": backbone, **extra})
    run = Run(other, "2026-11-23", "run")
    shard = Shard.of(run, "shard-00002", 3)
    made = extract.specification(run, shard, Attempt(batch_size=2), summary_path=str(summary))
    done = subprocess.run([EXTRACTOR, *made.argv], capture_output=True, text=True, check=False)
    assert done.returncode == Exit.STORAGE, done.stdout + done.stderr
    found = Summary.model_validate(json.loads(summary.read_text()))
    assert shard.manifest_uri in found.message
