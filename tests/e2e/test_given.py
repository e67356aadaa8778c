"""Boxes that the user gives, from COCO-like annotations of two days to features, through Airflow."""

import io
import json
from typing import Any

import h5py
import numpy as np

FIRST, SECOND = "2026-11-02", "2026-11-03"
DAG = "annotated__resnet101"


def annotate(installation: Any, **boxes: list[list[float]]) -> None:
    """Put annotations: boxes (x, y, width, height) by image; a box's id is of its image and row."""
    images = [{"id": number, "file_name": name.replace("_", ".")} for number, name in enumerate(boxes)]
    annotations = [
        {"id": 100 * number + row, "image_id": number, "bbox": box}
        for number, own in enumerate(boxes.values())
        for row, box in enumerate(own)
    ]
    body = json.dumps({"images": images, "annotations": annotations})
    installation.s3.put_object(Bucket="featurise", Key="annotations.json", Body=body.encode())


def test_two_nights_of_annotations_do_again_what_changed(installation: Any, image: bytes, photo: bytes) -> None:
    installation.put("annotated", FIRST, tiny_png=image, flower_jpg=photo, without_jpg=photo)
    annotate(installation, tiny_png=[[1, 2, 10, 20]], flower_jpg=[[5, 6, 100, 50], [5, 6, 0, 50]])
    first = installation.night(DAG, FIRST)
    assert installation.api.run(DAG, first)["state"] == "success", installation.explain(DAG, first)
    text = installation.api.xcom(DAG, first, "report")["text"]
    assert "2 of 2 new images featurised" in text
    assert "1 without given boxes" in text
    assert "1 given boxes that are none" in text

    installation.put("annotated", SECOND, late_jpg=photo[:-2] + b"\xff\xd9")
    annotate(
        installation,
        tiny_png=[[1, 2, 10, 20], [3, 3, 4, 4]],
        flower_jpg=[[5, 6, 100, 50], [5, 6, 0, 50]],
        late_jpg=[[0, 0, 9, 9]],
    )
    second = installation.night(DAG, SECOND)
    assert installation.api.run(DAG, second)["state"] == "success", installation.explain(DAG, second)
    (shard,) = (
        installation.api.xcom(DAG, second, task["task_id"], task["map_index"])
        for task in installation.api.tasks(DAG, second)
        if task["task_id"] == "shard.publish"
    )
    with h5py.File(io.BytesIO(installation.read(shard["uri"]))) as file:
        assert set(file) == {"tiny", "late"}
        np.testing.assert_array_equal(file["tiny/boxes"], np.float32([[1, 2, 11, 22], [3, 3, 7, 7]]))
        assert file["tiny/box_ids"][()].tolist() == [b"0", b"1"]
        assert json.loads(file.attrs["box_rule"]) == {"given": True, "with_global": False}
    live = {row["image_id"]: row["boxes"] for row in installation.images("annotated") if not row["superseded"]}
    assert live == {"tiny": 2, "flower": 2, "late": 1}


def test_a_backfill_does_again_the_days_whose_annotations_changed(installation: Any) -> None:
    """The other test's two days: what has kept its boxes is left as it is."""
    annotate(
        installation,
        tiny_png=[[1, 2, 10, 20], [3, 3, 4, 4]],
        flower_jpg=[[5, 6, 100, 50], [5, 6, 50, 50], [0, 0, 9, 9]],
        late_jpg=[[0, 0, 9, 9]],
    )
    before = {run["dag_run_id"] for run in installation.api.runs(DAG)}
    installation.api.backfill(DAG, FIRST, SECOND, "completed", max_active_runs=2)
    runs = {
        run["partition_key"]: run["dag_run_id"] for run in installation.api.runs(DAG) if run["dag_run_id"] not in before
    }
    texts = {}
    for day in (FIRST, SECOND):
        assert installation.ended(DAG, runs[day]) == "success", installation.explain(DAG, runs[day])
        texts[day] = installation.api.xcom(DAG, runs[day], "report")["text"]
    assert "1 of 1 new images featurised" in texts[FIRST]
    assert "new images featurised" not in texts[SECOND]
    live = {row["image_id"]: row["boxes"] for row in installation.images("annotated") if not row["superseded"]}
    assert live == {"tiny": 2, "flower": 3, "late": 1}
