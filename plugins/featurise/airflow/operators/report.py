"""The last task of a run: its report, its asset event and the end of its claims, whatever happened before."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowRescheduleException

from featurise.airflow import abandoned, assets, run_context
from featurise.airflow.retry_policy import outages_waited_out
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.steps.report.links import Links

if TYPE_CHECKING:  # boto3 and HDF5 come with it, and parsing has no need of them
    from featurise.steps.report.step import Reported

WARNINGS = 20
"""Of validation, that an event tells; the report has them all."""
AGAIN = timedelta(seconds=5)


def links_of(dag_id: str, run_id: str) -> Links:
    """Where a run's pages are, by the address that Airflow is configured to have."""
    return Links(dag_id, run_id, str(conf.get("api", "base_url", fallback="") or "").rstrip("/"))


class ReportLink(BaseOperatorLink):
    """The button on the task that opens the page."""

    name = "Report"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:  # noqa: ARG002 - Airflow's signature
        """The page's address."""
        links = links_of(ti_key.dag_id, ti_key.run_id)
        return links.home + links.path


class ReportOperator(BaseOperator):
    """Closes a run: writes its page and JSON, closes attempts left open, releases its leases, and tells what it added.

    The asset event lists every file of the run, so that the latest event of a run is the whole truth about it. A run
    that has added nothing tells nothing. See `listener` for how a run that is cleared comes to be closed again.

    :param spec: the dataset under its backbone.
    """

    operator_extra_links = (ReportLink(),)

    def __init__(self, *, spec: FeatureSetSpec, **kwargs: Any) -> None:
        super().__init__(outlets=[assets.feature_set(spec)], **kwargs)
        self.spec = spec
        self._closed: tuple[Run, Reported] | None = None

    def execute(self, context: Any) -> dict[str, Any]:
        """Close the run; returns the page's address, a line of text, and counts.

        Raises AirflowRescheduleException when a task was cleared meanwhile: the run is then closed once more, after it.
        """
        from featurise.registry import attempts
        from featurise.steps.report import step as report

        with outages_waited_out(context):
            run = run_context.current_run(self.spec, context)
            if not self._at_work(context["ti"]):
                abandoned.close(each for each in attempts.open_ones(self.spec) if each.run_id == run.run_id)
            links = links_of(context["ti"].dag_id, run.run_id)
            done = report.run(run, links)
            self._closed = run, done
        self.log.info("%s\n%s", done.text, done.uri)
        if at_work := self._at_work(context["ti"]):
            self.log.info("Reporting again after %s, which started meanwhile.", ", ".join(at_work))
            raise AirflowRescheduleException(datetime.now(UTC) + AGAIN)  # type: ignore[no-untyped-call]
        asset = assets.feature_set(self.spec)
        if done.added and run.spec.feature_set == self.spec.feature_set:
            event = context["outlet_events"][asset]
            event.extra = {
                "feature_set": self.spec.feature_set,
                "images": done.counts["done"],
                "rejects": done.counts["rejected"] + done.counts["refused"],
                "files": done.added,
                "report": links.page or done.uri,
                "drift": done.warnings[:WARNINGS],
            }
            # A run that was triggered without a partition has worked on one all the same.
            event.add_partitions(run.batch)
        else:
            self.outlets = []  # an outlet of a task that succeeds is an event
        return done.model_dump(mode="json")

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:  # noqa: ARG002 - the provider's signature
        """What Airflow's OpenLineage provider asks for, where it is switched on; None of a run that is not closed."""
        from featurise.airflow import lineage

        return lineage.of_run(*self._closed) if self._closed is not None else None

    def _at_work(self, ti: Any) -> list[str]:
        """The run's other tasks that have not ended."""
        states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id])[ti.run_id]
        return sorted(name for name, state in states.items() if name != self.task_id and state not in abandoned.OVER)
