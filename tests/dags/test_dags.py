"""The DAG files: what they make of the declaration, what a mistake in it does, what parsing them costs."""

import os
import subprocess
import sys
import tempfile
from typing import Any

import pytest

pytestmark = pytest.mark.xdist_group("dags")  # each parse of the DAG files serves many tests


def test_one_dag_for_each_dataset_and_backbone(good: Any) -> None:
    assert set(good["dags"]) == {"flickr__resnet101", "flickr__resnext101", "coco__resnet101", "watch"}
    assert good["errors"] == {}


def test_the_flow(good: Any) -> None:
    tasks = good["dags"]["flickr__resnet101"]["tasks"]
    assert {name: task["downstream"] for name, task in tasks.items()} == {
        "discover": ["plan"],
        "plan": ["shard.extract", "shard.publish"],
        "shard.extract": ["shard.publish"],
        "shard.publish": ["report"],
        "report": [],
    }
    mapped = {name for name, task in tasks.items() if task["mapped"]}
    assert mapped == {"shard.extract", "shard.publish"}


def test_the_run_is_judged_by_its_shards_not_by_its_report(good: Any) -> None:
    tasks = good["dags"]["flickr__resnet101"]["tasks"]
    assert {name for name, task in tasks.items() if task["teardown"]} == {"report"}


def test_only_extraction_takes_a_gpu(good: Any) -> None:
    tasks = good["dags"]["flickr__resnet101"]["tasks"]
    assert {name for name, task in tasks.items() if task["pool"] == "gpu"} == {"shard.extract"}


def test_tasks_are_named_by_shard(good: Any) -> None:
    tasks = good["dags"]["flickr__resnet101"]["tasks"]
    assert all(("['name']" in task["map_index_template"]) == task["mapped"] for task in tasks.values())


def test_days_are_those_of_the_declared_zone_also_when_the_clocks_change(good: Any) -> None:
    days = good["dags"]["flickr__resnet101"]
    # The first partition is the start date's; its run comes a day later.
    assert days["start_date"] == "2026-03-28T23:00:00+00:00"
    # In Berlin there was no two o'clock on the 29th.
    assert [key for _, key in days["partitions"]] == ["2026-03-28", "2026-03-29", "2026-03-30"]
    assert days["first_run"] == ["2026-03-29T01:00:00+00:00", "2026-03-28"]


def test_without_catch_up_unless_declared(good: Any) -> None:
    assert not good["dags"]["flickr__resnet101"]["catchup"]
    assert good["dags"]["coco__resnet101"]["catchup"]
    assert good["dags"]["coco__resnet101"]["max_active_runs"] == 7


def test_its_page_says_how_a_backfill_takes_days_again(good: Any) -> None:
    assert "*Missing Runs* is changed to *All Runs*" in good["dags"]["flickr__resnet101"]["about"]


def test_the_form_is_typed(good: Any) -> None:
    form = good["dags"]["flickr__resnet101"]["params"]
    assert next(iter(form)) == "batch"
    assert form["batch"]["format"] == "date"
    assert form["limit"]["type"] == ["integer", "null"]
    assert form["limit"]["minimum"] == 1
    assert form["max_boxes"]["maximum"] == 300
    assert form["precision"]["enum"] == ["fp32", "tf32", "bf16", "fp16", None]
    assert form["keys"]["type"] == ["array", "null"]
    assert form["force"]["type"] == ["boolean", "null"]


def test_no_field_of_the_form_is_marked_as_required(good: Any) -> None:
    form = good["dags"]["flickr__resnet101"]["params"]
    assert [name for name, schema in form.items() if "null" not in schema["type"]] == []


def test_the_launcher_that_is_declared(good: Any) -> None:
    assert good["dags"]["flickr__resnet101"]["tasks"]["shard.extract"]["operator"] == "ProcessOperator"
    assert good["dags"]["coco__resnet101"]["tasks"]["shard.extract"]["operator"] == "PodOperator"


def test_the_asset_is_named_by_dataset_and_backbone(good: Any) -> None:
    (name,) = good["dags"]["flickr__resnet101"]["tasks"]["report"]["outlets"]
    assert name == "flickr/resnet101"


def test_the_watch_has_a_pool_of_its_own_and_a_dry_run(good: Any) -> None:
    watch = good["dags"]["watch"]
    assert [task["pool"] for task in watch["tasks"].values()] == ["watch"]
    assert watch["params"]["dry_run"]["type"] == "boolean"
    assert (watch["catchup"], watch["max_active_runs"]) == (False, 1)


def test_tasks_call_for_people_only_where_somebody_is_to_be_told(good: Any) -> None:
    called = {name: task["calls"] for name, task in good["dags"]["coco__resnet101"]["tasks"].items() if task["calls"]}
    measured, told = "Measure", "AlertNotifier"
    assert called == {"shard.extract": [measured, told, measured, measured, told], "report": [measured, told, told]}
    quiet = [name for task in good["dags"]["flickr__resnet101"]["tasks"].values() for name in task["calls"]]
    assert set(quiet) == {measured}


def test_a_mistake_is_an_import_error_and_the_other_datasets_go_on(broken: Any) -> None:
    assert set(broken["dags"]) == {"flickr__resnet101", "flickr__resnext101", "pets__resnet101", "watch"}
    ((file, error),) = broken["errors"].items()
    assert file.endswith("declaration_errors.py")
    assert "featurise.yaml, line 17: datasets.coco.images_per_shard: expected a valid integer" in error
    assert "found 'none'" in error


def test_every_mistake_is_told(broken: Any) -> None:
    (error,) = broken["errors"].values()
    assert "line 19: datasets.places.bucket: expected a value from the environment" in error
    assert "IMAGES is not set" in error


def test_a_field_of_a_pod_template_that_would_be_lost_is_an_import_error_by_its_name(broken: Any) -> None:
    (error,) = broken["errors"].values()
    assert "resnet101.yaml has fields that would be lost" in error
    assert "spec.nodeselector; look how they are spelt" in error


def test_a_worker_builds_only_the_dag_that_it_runs_and_imports_nothing_heavy_for_it(worker: Any) -> None:
    assert set(worker["dags"]) == {"flickr__resnet101"}
    heavy = {"torch", "h5py", "kubernetes", "boto3", "lmdb", "pyarrow"}
    assert heavy.isdisjoint(worker["imported"]), sorted(heavy.intersection(worker["imported"]))


def test_secrets_of_the_environment_are_masked_in_airflow_s_logs() -> None:
    script = (
        "from featurise.airflow.dag import _mask_secrets; from airflow.sdk.log import redact; _mask_secrets(); "
        "print('RESULT', redact('refused for open-sesame'))"
    )
    with tempfile.TemporaryDirectory() as home:
        address = "postgresql+psycopg://me@db/x?sslpassword=open-sesame"
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "AIRFLOW_HOME": home, "FEATURISE_REGISTRY": address},
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.rpartition("RESULT")[2].strip() == "refused for ***"
