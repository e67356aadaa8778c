"""What the package adds to Airflow itself."""

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from featurise.airflow import listener
from featurise.airflow.operators.report import PAGE
from featurise.airflow.priority import NightFirst
from featurise.airflow.refusals import Refusals
from featurise.airflow.timetable import PreviousDayTimetable


async def pages(scope: Any, receive: Any, send: Any) -> None:
    """The package's web pages; imported with the first request, since every Airflow process loads the plugin."""
    from featurise.airflow.web.app import app

    await app(scope, receive, send)


class FeaturisePlugin(AirflowPlugin):
    """Loaded by every Airflow process through the entry point `airflow.plugins`."""

    name = "featurise"
    timetables = [PreviousDayTimetable]
    listeners = [listener]
    priority_weight_strategies = [NightFirst]
    fastapi_apps = [{"app": pages, "url_prefix": "/featurise", "name": "featurise"}]
    fastapi_root_middlewares = [{"middleware": Refusals, "name": "featurise"}]
    external_views = [
        {"name": "GPU tasks", "href": "/featurise/", "destination": "nav", "category": "browse"},
        {
            "name": "Report",
            "href": PAGE.format(dag_id="{DAG_ID}", run_id="{RUN_ID}"),
            "destination": "dag_run",
            "url_route": "report",
        },
    ]
