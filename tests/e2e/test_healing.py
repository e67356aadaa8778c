"""Whatever a person clears, the run ends with the truth: its report, its asset event, its claims."""

from pathlib import Path
from typing import Any

from featurise.declaration.feature_set import FeatureSetSpec
from featurise.registry.models import FeatureSet, Lease
from featurise.steps import plan
from featurise_demo import processes

DAY = "2026-11-02"
DAG = "healing__resnet101"
GOLDEN = Path(__file__).parents[2] / "tests/golden/images"
WEIGHTS = {"uri": "s3://models/w.pkl", "sha256": "a" * 64}
IMAGES = ("tiny_40x30", "flower", "coffee")


def test_clearing_only_what_failed_heals_the_run(installation: Any) -> None:
    for name in IMAGES:
        (file,) = GOLDEN.glob(f"{name}.*")
        installation.put("healing", DAY, **{file.name.replace(".", "_"): file.read_bytes()})
    shards = _shards()
    run = None
    for healed in (1, 2, 3):
        broken = "".join(f"{shard}/manifest.*--dataset healing\n" for shard in shards[healed:])
        (installation.folder / "crashing").write_text(broken)
        run = installation.night(DAG, DAY) if run is None else _clear_what_failed(installation, run)
        assert installation.api.run(DAG, run)["state"] == ("success" if healed == 3 else "failed")
        assert f"{healed} of 3 new images featurised" in installation.api.xcom(DAG, run, "report")["text"]
        told = [event["extra"] for event in installation.events(DAG, run)]
        assert [(extra["images"], len(extra["files"])) for extra in told] == [(1, 1), (2, 2), (3, 3)][:healed]
        assert _claims(installation) == []
    assert {row["image_id"] for row in installation.images("healing")} == set(IMAGES)


def _shards() -> list[str]:
    """The names of the run's three shards, an image each: they follow from the images' ids."""
    facts = {"dataset": "healing", "backbone": "resnet101", "bucket": "featurise", "start_date": DAY}
    spec = FeatureSetSpec.model_validate({**facts, "weights": WEIGHTS, "images_per_shard": 1})
    return [name for name, _ in plan.split([(name, b"") for name in IMAGES], spec)[1]]


def _clear_what_failed(installation: Any, run: str) -> str:
    """What the dialog of a run does with "only failed", until the run has ended again."""
    before = installation.api.run(DAG, run)["end_date"]
    installation.api.call("POST", f"/dags/{DAG}/dagRuns/{run}/clear", {"dry_run": False, "only_failed": True})

    def ended() -> bool:
        installation.airflow.must_run()
        found = installation.api.run(DAG, run)
        return found["state"] in ("success", "failed") and found["end_date"] != before

    processes.wait_until(ended, 300, "the run's second end", every=1)
    return run


def _claims(installation: Any) -> list[Any]:
    (number,) = (row["id"] for row in installation.rows(FeatureSet) if row["dataset"] == "healing")
    return [row["owner"] for row in installation.rows(Lease) if row["feature_set_id"] == number]
