"""What a bucket's notifications mean for the declaration."""

import json
from urllib.parse import quote_plus

import pytest

from featurise.airflow import s3_events
from featurise.declaration.feature_set import FeatureSetSpec, Weights

FACTS = {"backbone": "resnet101", "bucket": "images", "start_date": "2026-11-01"}
WEIGHTS = Weights(uri="s3://models/resnet101/", sha256="a" * 64)
BIRDS = FeatureSetSpec(dataset="birds", weights=WEIGHTS, ready={"success": "_SUCCESS"}, **FACTS)
DAILY = FeatureSetSpec(
    dataset="daily-photos",
    prefix="in box/",
    weights=WEIGHTS,
    ready={"success": "done.txt"},
    batches={"pattern": "%Y/%m/%d"},
    **FACTS,
)
SETTLING = FeatureSetSpec(dataset="settling", weights=WEIGHTS, ready={"settle_seconds": 60}, **FACTS)


def news(key: str, *, bucket: str = "images", event: str = "ObjectCreated:Put") -> str:
    what = {"bucket": {"name": bucket}, "object": {"key": quote_plus(key), "eTag": "e1"}}
    return json.dumps({"Records": [{"eventName": event, "s3": what}]})


def told(message: str) -> list[tuple[str, str, str]]:
    found = s3_events.of_message(message, [BIRDS, DAILY, SETTLING])
    return [(arrival.spec.dag_id, arrival.batch, arrival.run_id) for arrival in found]


@pytest.mark.parametrize(
    ("key", "dag", "batch"),
    [
        ("images/birds/2026-11-23/_SUCCESS", "birds__resnet101", "2026-11-23"),
        ("in box/2026/11/23/done.txt", "daily-photos__resnet101", "2026-11-23"),
    ],
)
def test_the_object_that_says_complete_is_the_batch_s_arrival(key: str, dag: str, batch: str):
    assert told(news(key)) == [(dag, batch, f"arrival__{batch}__e1")]


@pytest.mark.parametrize(
    "message",
    [
        news("images/birds/2026-11-23/one.jpg"),
        news("images/birds/_SUCCESS"),
        news("images/birds/2026-11-23/deeper/_SUCCESS"),
        news("images/birds/2026-11-23/not_SUCCESS"),
        news("images/birds/2026-13-40/_SUCCESS"),
        news("images/settling/2026-11-23/_SUCCESS"),
        news("images/birds/2026-11-23/_SUCCESS", bucket="elsewhere"),
        news("images/birds/2026-11-23/_SUCCESS", event="ObjectRemoved:Delete"),
        json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent"}),
        "[]",
    ],
)
def test_anything_else_is_none(message: str):
    assert told(message) == []
