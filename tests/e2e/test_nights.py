"""Real runs on real parts: what a night brings, and that it brings it once, whatever happens."""

import io
import json
from typing import Any

import h5py

from featurise_demo import embedded, processes

FIRST, SECOND = "2026-11-02", "2026-11-03"
DAG = "nights__resnet101"


def test_a_mistake_is_an_import_error_and_the_other_dags_are_there(installation: Any) -> None:
    def told() -> bool:
        return bool(installation.api.import_errors()) and DAG in installation.api.dag_ids()

    processes.wait_until(told, 300, "the DAGs and the import error", every=1)
    (error,) = installation.api.import_errors()
    assert error["filename"].endswith("declaration_errors.py")
    assert "datasets.mistaken.images_per_shard: expected a valid integer" in error["stack_trace"]
    assert set(installation.api.dag_ids()) >= {DAG, "outage__resnet101", "nowhere__resnet101"}


def test_two_nights_become_features(installation: Any, image: bytes, photo: bytes) -> None:
    installation.put("nights", FIRST, tiny_png=image, torn_jpg=photo[: len(photo) // 3])
    installation.put("nights", SECOND, flower_jpg=photo, note_jpg=b"no image")
    installation.switch_on(f"export__{DAG}")
    installation.switch_on(DAG)
    installation.api.backfill(DAG, FIRST, SECOND, "none", max_active_runs=2)
    runs = {run["partition_key"]: run["dag_run_id"] for run in installation.api.runs(DAG)}
    for day in (FIRST, SECOND):
        assert installation.ended(DAG, runs[day]) == "success", installation.explain(DAG, runs[day])

    images = {row["image_id"]: row for row in installation.images("nights")}
    assert set(images) == {"tiny", "flower"}
    reasons = {row["image_id"]: row["reason"] for row in installation.rejects("nights")}
    assert reasons == {"torn": "truncated", "note": "not_an_image"}

    for day, name in ((FIRST, "tiny"), (SECOND, "flower")):
        (registered,) = (
            installation.api.xcom(DAG, runs[day], task["task_id"], task["map_index"])
            for task in installation.api.tasks(DAG, runs[day])
            if task["task_id"] == "shard.publish"
        )
        with h5py.File(io.BytesIO(installation.read(registered["uri"]))) as file:
            assert set(file) == {name}
            assert file[name]["features"].shape == (36, 2048)
            assert file[name]["boxes"].shape == (36, 4)
            assert file.attrs["batch"] == day
            assert file.attrs["synthetic"]
        report = installation.api.xcom(DAG, runs[day], "report")
        assert "1 of 2 new images featurised, 1 rejected" in report["text"]
        page = installation.read(report["uri"]).decode()
        assert f'aria-label="{name} with its surest boxes"' in page
        assert page.count('<image href="data:image/jpeg;base64,/9j/') == 1
    assert installation.objects("work/") == {}


def test_what_follows_the_feature_set_runs_for_the_same_days(installation: Any) -> None:
    dag = f"export__{DAG}"

    def days() -> set[str]:
        return {run["partition_key"] for run in installation.api.runs(dag)}

    processes.wait_until(lambda: days() == {FIRST, SECOND}, 300, "the exports", every=1)
    for run in installation.api.runs(dag):
        assert installation.ended(dag, run["dag_run_id"]) == "success", installation.explain(dag, run["dag_run_id"])
    assert "1 images in 1 new files" in installation.api.log(dag, run["dag_run_id"], "export")
    (exported,) = (installation.folder / "training").glob("*/nights.h5")
    with h5py.File(exported) as file:
        assert set(file) == {"tiny", "flower"}


def test_tasks_are_named_by_shard_and_tell_their_progress(installation: Any) -> None:
    run = next(run for run in installation.api.runs(DAG) if run["partition_key"] == FIRST)
    (extract,) = (t for t in installation.api.tasks(DAG, run["dag_run_id"]) if t["task_id"] == "shard.extract")
    assert extract["rendered_map_index"] == "shard-00001"
    log = installation.api.log(DAG, run["dag_run_id"], "shard.extract", extract["try_number"], 0)
    assert "2 of 2 images" in log
    _, _, own = log.split("::endgroup::", 2)  # what Airflow folds away at the beginning is its own
    assert "shard-00001: 2 images of nights, 2026-11-02, by resnet101; attempt 1" in own.splitlines()[1]
    assert installation.store.credentials.secret_key not in log


def test_the_same_night_again_and_twice_at_once_changes_nothing(installation: Any) -> None:
    before = installation.objects("features/")
    installation.switch_on(DAG)
    runs = [installation.api.trigger(DAG, FIRST) for _ in range(2)]
    for run in runs:
        assert installation.ended(DAG, run) == "success", installation.explain(DAG, run)
        assert installation.attempts(run) == []
        assert installation.states(DAG, run)["shard.extract"] == "skipped"
    assert installation.objects("features/") == before


def test_a_finished_shard_that_is_cleared_is_known_as_done(installation: Any) -> None:
    before, rows = installation.objects("features/"), installation.images("nights")
    # The run that did the work: later ones for the same day had nothing to do.
    (run,) = (
        run["dag_run_id"]
        for run in installation.api.runs(DAG)
        if (run["run_type"], run["partition_key"]) == ("backfill", FIRST)
    )
    asked = {"dag_run_id": run, "task_ids": ["shard.extract"], "only_failed": False, "include_downstream": True}
    installation.api.call("POST", f"/dags/{DAG}/clearTaskInstances", {**asked, "dry_run": False})
    assert installation.ended(DAG, run) == "success", installation.explain(DAG, run)
    assert "already registered" in installation.api.log(DAG, run, "shard.extract", 2, 0)
    assert len(installation.attempts(run)) == 1
    assert (installation.objects("features/"), installation.images("nights")) == (before, rows)


def test_an_empty_night_succeeds_and_says_so(installation: Any) -> None:
    run = installation.night(DAG, "2026-11-04")
    assert installation.api.run(DAG, run)["state"] == "success"
    assert installation.api.xcom(DAG, run, "report")["text"] == "no new images"
    assert installation.events(DAG, run) == []


def test_a_bucket_that_does_not_exist_is_named(installation: Any) -> None:
    run = installation.night("nowhere__resnet101", FIRST)
    assert installation.api.run("nowhere__resnet101", run)["state"] == "failed"
    log = installation.api.log("nowhere__resnet101", run, "discover")
    assert f"bucket 'no-such-bucket' does not exist at {installation.store.endpoint}" in log


def test_a_store_that_is_down_is_named_and_waited_out_without_a_try(installation: Any, image: bytes) -> None:
    dag = "outage__resnet101"
    installation.put("outage", FIRST, tiny_png=image)
    installation.switch_on(dag)
    embedded.end(installation.store.process)
    run = installation.api.trigger(dag, FIRST)

    def put_off() -> bool:
        return bool(installation.states(dag, run).get("discover") == "up_for_reschedule")

    processes.wait_until(put_off, 300, "discover to look again later", every=1)
    log = installation.api.log(dag, run, "discover")
    assert f"no answer from {installation.store.endpoint}" in log
    assert "featurise" in log

    installation.restart_store()
    assert installation.ended(dag, run) == "success", installation.explain(dag, run)
    assert [row["image_id"] for row in installation.images("outage")] == ["tiny"]
    assert len(installation.attempts(run)) == 1
    (latest,) = (key for key in installation.objects("features/outage/") if key.endswith("latest.json"))
    assert len(json.loads(installation.read(f"s3://featurise/{latest}"))["files"]) == 1
