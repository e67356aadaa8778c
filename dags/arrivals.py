"""Starts a run as soon as its batch says that it is complete, instead of waiting for the night.

Off unless FEATURISE_ARRIVALS names the queue to which the bucket sends its event notifications. The nights go on as
scheduled: what an arrival has started is done by then.
"""

from typing import Any

from airflow.sdk import DAG, Asset, AssetWatcher, task

from featurise.settings import settings

if (queue := settings().arrivals) is not None:
    from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator

    from featurise.airflow.triggers.sqs import QueueTrigger

    watcher = AssetWatcher(name="queue", trigger=QueueTrigger(queue=queue))
    with DAG(
        dag_id="arrivals",
        description="Starts the run of a batch when the object that says complete arrives",
        schedule=[Asset(name="featurise-arrivals", uri="x-featurise://arrivals", watchers=[watcher])],
        catchup=False,
        tags=["arrivals"],
    ):

        @task
        def read(*, triggering_asset_events: Any = None) -> list[dict[str, Any]]:
            """The runs to start, as the operator below takes them."""
            from featurise.airflow import s3_events

            events = [event for events in triggering_asset_events.values() for event in events]
            found = s3_events.of_messages(body for event in events for body in event.extra["payload"])
            return [
                {
                    "trigger_dag_id": arrival.spec.dag_id,
                    "trigger_run_id": arrival.run_id,
                    "conf": {"batch": arrival.batch},
                }
                for arrival in found
            ]

        # The operator knows no partition keys; the run finds its batch in its configuration.
        TriggerDagRunOperator.partial(task_id="start", logical_date=None, skip_when_already_exists=True).expand_kwargs(
            read()
        )
