"""The last task of a run: its report, whatever happened before."""

from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.configuration import conf

from featurise.airflow import run_context
from featurise.airflow.retry_policy import outages_waited_out
from featurise.declaration.feature_set import FeatureSetSpec

PAGE = "/featurise/report/{dag_id}/{run_id}"
"""Where `web` shows a report, below Airflow's address."""


class ReportLink(BaseOperatorLink):
    """The button on the task that opens the page."""

    name = "Report"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:  # noqa: ARG002 - Airflow's signature
        """The page's address."""
        base = str(conf.get("api", "base_url", fallback="")).rstrip("/")
        return base + PAGE.format(dag_id=quote(ti_key.dag_id), run_id=quote(ti_key.run_id, safe=""))


class ReportOperator(BaseOperator):
    """Writes the run's page and JSON, closes attempts that were left open, and releases the run's leases.

    :param spec: the dataset under its backbone.
    """

    operator_extra_links = (ReportLink(),)

    def __init__(self, *, spec: FeatureSetSpec, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec

    def execute(self, context: Any) -> dict[str, Any]:
        """Report; returns the page's address, a line of text, and counts."""
        from featurise.steps.report import step as report

        with outages_waited_out(context):
            done = report.run(run_context.current_run(self.spec, context))
        self.log.info("%s\n%s", done.text, done.uri)
        return done.model_dump(mode="json")
