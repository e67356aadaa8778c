"""The DAG of one dataset under one backbone: discover, plan, [extract, publish] per shard, report.

A run stands for one day's partition (see `timetable`), not for a data interval. Partitioned timetables support the
backfills of UI and API as intervals do (`airflow.models.backfill` walks `iter_partition_dagrun_infos`); besides, a run
names its day by a key that a person reads and can type into the trigger form, and assets carry that key on. One
difference is meant: a backfill that redoes a day makes a new run beside the old one instead of clearing it, so that
history stays.
"""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache, wraps
from typing import Any

from airflow.sdk import DAG, get_current_context, task, task_group
from airflow.sdk.log import mask_secret
from pendulum import timezone

from extractor.core import redact
from featurise.airflow import params, run_context
from featurise.airflow.metrics import Measure
from featurise.airflow.notifier import notifiers
from featurise.airflow.operators.discover import DiscoverOperator
from featurise.airflow.operators.report import ReportOperator
from featurise.airflow.retry_policy import Taxonomy, outages_waited_out
from featurise.airflow.timetable import PreviousDayTimetable
from featurise.declaration.feature_set import FeatureSetSpec

RETRY_DELAY = timedelta(seconds=30)
LONGEST_RETRY_DELAY = timedelta(minutes=30)
PRIORITY = "featurise.airflow.priority.NightFirst"
SHARD = "{{ (task.shard if task.shard is defined else task.op_kwargs.shard)['name'] }}"


def build(spec: FeatureSetSpec) -> DAG:
    """The feature set's DAG."""
    _mask_secrets()
    zone = timezone(spec.schedule.timezone)
    with DAG(
        dag_id=spec.dag_id,
        description=f"Region features of {spec.dataset} by {spec.backbone}, revision {spec.revision}",
        doc_md=_about(spec),
        tags=[spec.dataset, spec.backbone, spec.launcher],
        schedule=PreviousDayTimetable(spec.schedule.cron, timezone=zone),
        # The first day's run comes a day later: at two in the morning, yesterday is whole.
        start_date=datetime.combine(spec.start_date + timedelta(days=1), datetime.min.time(), zone),
        catchup=spec.catchup,
        max_active_runs=spec.max_active_runs,
        # Pools bound what runs at a time, not this.
        max_active_tasks=spec.limits.max_shards,
        params=params.trigger_form(spec),
        default_args={
            "retries": spec.limits.retries,
            "retry_delay": RETRY_DELAY,
            "retry_exponential_backoff": 2,
            "max_retry_delay": LONGEST_RETRY_DELAY,
            "retry_policy": Taxonomy(),
            "weight_rule": PRIORITY,
        },
    ) as dag:
        found = DiscoverOperator(
            task_id="discover",
            spec=spec,
            doc_md="Waits until the batch is complete, lists it and compares it with the registry.",
            execution_timeout=_step_timeout(spec),
        )
        shards = _shard(spec).expand(shard=_plan(spec)(found.output))
        report = ReportOperator(
            task_id="report",
            spec=spec,
            doc_md="Closes the run: its page, its claims, and the asset's event that tells other DAGs what was added.",
            execution_timeout=_step_timeout(spec),
            on_success_callback=[Measure(spec, "run"), *notifiers(spec, "run")],
            on_failure_callback=notifiers(spec, "run"),
        )
        # A teardown: it runs whatever happened, also when a person ends the run, and leaves a failed run failed.
        shards >> report.as_teardown()
    return dag


@cache
def _mask_secrets() -> None:
    """Tell Airflow what to mask in logs: tracebacks have the words of libraries, which know nothing of secrets."""
    for secret in redact.secrets():
        mask_secret(secret)


def _about(spec: FeatureSetSpec) -> str:
    return (
        f"Every night: new images below `s3://{spec.bucket}/{spec.prefix}` become region features by "
        f"**{spec.backbone}** (weights `{spec.weights.uri}`), published below "
        f"`{spec.outputs.features}{spec.dataset}/{spec.backbone}/{spec.revision}/`.\n\n"
        "A run is one day; its partition key names it. To redo a day, trigger or backfill it: "
        "what is done already is recognised and left alone, unless `force` is set. "
        "A backfill passes over days that have had a run, unless its dialog's *Missing Runs* is changed to *All Runs*."
    )


def _step(spec: FeatureSetSpec, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """The decorator of the tasks that run in Airflow's own worker."""

    def decorate(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def patient(*args: Any, **kwargs: Any) -> Any:
            with outages_waited_out(get_current_context()):
                return function(*args, **kwargs)

        return task(execution_timeout=_step_timeout(spec), **options)(patient)

    return decorate


def _step_timeout(spec: FeatureSetSpec) -> timedelta:
    return timedelta(minutes=spec.limits.step_timeout_minutes)


def _plan(spec: FeatureSetSpec) -> Any:
    @_step(spec, doc_md="Divides the new images into shards, a manifest each.")
    def plan(found: dict[str, Any]) -> list[dict[str, Any]]:
        from featurise.steps import plan as step
        from featurise.steps.discover.step import Discovered

        run = run_context.current_run(spec)
        shards = step.run(run, Discovered.model_validate(found), run_context.run_options())
        return [shard.model_dump(mode="json") for shard in shards]

    return plan


def _shard(spec: FeatureSetSpec) -> Any:
    """The bracket of the flow: what happens to one shard.

    Two mapped tasks, since the scheduler does nothing else while it maps a large plan.
    """

    @task_group(group_id="shard")
    def group(shard: Any) -> None:
        _extract(spec, shard) >> _publish(spec)(shard=shard)

    return group


def _extract(spec: FeatureSetSpec, shard: Any) -> Any:
    return _launcher(spec)(
        task_id="extract",
        doc_md=f"The GPU work: a {params.WORKER[spec.launcher]} reads the shard's images and writes its file.",
        spec=spec,
        shard=shard,
        map_index_template=SHARD,
        pool=spec.limits.pool,
        pool_slots=spec.limits.pool_slots,
        on_success_callback=[Measure(spec, "attempt")],
        on_retry_callback=[Measure(spec, "attempt"), *notifiers(spec, "attempt")],
        on_failure_callback=[Measure(spec, "attempt"), *notifiers(spec, "attempt")],
    )


def _launcher(spec: FeatureSetSpec) -> Any:
    # Only the launcher that is declared: the Kubernetes client is heavy.
    if spec.launcher == "kubernetes":
        from featurise.airflow.operators.kubernetes import PodOperator

        return PodOperator
    from featurise.airflow.operators.process import ProcessOperator

    return ProcessOperator


def _publish(spec: FeatureSetSpec) -> Any:
    @_step(
        spec,
        map_index_template=SHARD,
        doc_md="Checks the file against its manifest and the contract, copies it to its final, immutable place, and "
        "commits its rows to the registry: from here on it counts.",
    )
    def publish(shard: dict[str, Any]) -> dict[str, Any]:
        from featurise.airflow import metrics
        from featurise.steps import publish as publication
        from featurise.steps import register
        from featurise.steps.plan import Shard
        from featurise.steps.validate import step as validate

        began = time.monotonic()
        run, planned = run_context.current_run(spec), Shard.model_validate(shard)
        file = publication.run(run, planned, validate.run(run, planned))
        rows = register.run(run, planned, file)
        metrics.published(spec, rows.images, rows.rejects, time.monotonic() - began)
        return {**rows.model_dump(mode="json"), "uri": file.uri, "feature_set": run.spec.feature_set}

    return publish
