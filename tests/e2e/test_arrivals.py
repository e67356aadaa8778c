"""A batch that says of itself that it is complete has its run at once."""

import json
from typing import Any

from featurise_demo import processes

DAG, DAY = "arriving__resnet101", "2026-11-05"


def test_a_batch_s_arrival_starts_its_run_once(installation: Any, image: bytes) -> None:
    installation.put("arriving", DAY, tiny_png=image)
    installation.s3.put_object(Bucket="featurise", Key=f"images/arriving/{DAY}/_SUCCESS", Body=b"")
    for dag in (DAG, "arrivals"):
        installation.switch_on(dag)
    installation.read_again("arrivals")
    created = {"bucket": {"name": "featurise"}, "object": {"key": f"images/arriving/{DAY}/_SUCCESS", "eTag": "e1"}}
    notification = json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": created}]})
    for message in ("no notification", notification, notification):
        installation.queue.send(message)

    def runs() -> list[Any]:
        return [run for run in installation.api.runs(DAG) if run["run_type"] != "scheduled"]

    processes.wait_until(lambda: bool(runs()), 300, "the arrival's run", every=1)
    (run,) = runs()
    assert run["dag_run_id"] == f"arrival__{DAY}__e1"
    assert installation.ended(DAG, run["dag_run_id"]) == "success", installation.explain(DAG, run["dag_run_id"])
    assert [row["batch"] for row in installation.images("arriving")] == [DAY]
    processes.wait_until(lambda: not installation.queue.messages, 60, "the messages to be deleted", every=1)
    assert len(runs()) == 1
