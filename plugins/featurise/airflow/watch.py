"""The DAG that looks, once an hour, at what no task's end can tell: what is left behind, late, or not told."""

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task

from featurise.airflow import abandoned
from featurise.airflow.retry_policy import outages_waited_out

DAG_ID = POOL = "watch"
HOURLY = "5 * * * *"
KEPT = 200
"""Things that the task hands on; its log has them all."""


def build() -> DAG:
    """The watch. Its pool is its own, so that it waits for no night."""
    with DAG(
        dag_id=DAG_ID,
        description="What is left behind, late or untold: repaired where that is safe, reported otherwise",
        schedule=HOURLY,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        tags=["watch"],
        params={
            "dry_run": Param(
                False, type="boolean", title="Dry run", description="find and report; repair nothing, tell nobody"
            )
        },
    ) as dag:
        _look()()
    return dag


def _look() -> Any:
    @task(
        pool=POOL,
        retries=2,
        retry_delay=timedelta(minutes=5),
        execution_timeout=timedelta(minutes=50),
        doc_md="Looks for leftovers, repairs what is safe, and tells people what needs them.",
    )
    def look() -> dict[str, Any]:
        context = get_current_context()
        with outages_waited_out(context):
            return at_everything(context["ti"], dry_run=bool(context["params"]["dry_run"]))

    return look


def at_everything(ti: Any, *, dry_run: bool) -> dict[str, Any]:
    """One look; returns counts, and the first things found.

    Raises NotSent when something could not be told, storage.StorageError, engine.RegistryUnavailable, or
    retry_policy.OutOfSight.
    """
    from featurise.airflow import alerts, metrics
    from featurise.monitoring import conditions, look, watch

    now, specs = datetime.now(UTC), alerts.declared()
    found = []
    for one in watch.look(specs, _outside(ti, specs), now, dry_run=dry_run):
        abandoned.log.warning("%s: %s (%s)", one.kind, one.what, "repaired" if one.repaired else "left")
        found.append(one)
    if not dry_run:
        everywhere = conditions.merged(spec.alerts.channels for spec in specs)
        alert = conditions.of_leftovers(everywhere, found)
        look.at_everything(specs, [alert] if alert is not None else [], now)
        metrics.standing(specs, sum(not one.repaired for one in found))
        alerts.deliver()
    repaired = sum(one.repaired for one in found)
    return {
        "found": len(found),
        "repaired": repaired,
        "things": [one.model_dump(mode="json") for one in found[:KEPT]],
    }


def _outside(ti: Any, specs: Any) -> Any:
    from featurise.monitoring.watch import Outside

    backbones = sorted({spec.backbone for spec in specs if spec.launcher == "kubernetes"})
    if not backbones:
        return Outside(over=abandoned.run_is_over(ti), pods=None, close=abandoned.close)
    from featurise.airflow.pods import pods_there, remove_pod

    return Outside(
        over=abandoned.run_is_over(ti),
        pods=pods_there(backbones),
        remove=lambda pod: remove_pod(pod.name, pod.backbone, pod.attempt),
        close=abandoned.close,
    )
