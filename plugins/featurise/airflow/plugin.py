"""What the package adds to Airflow itself."""

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from featurise.airflow import listener
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
    external_views = [{"name": "GPU tasks", "href": "/featurise/", "destination": "nav", "category": "browse"}]
    # A tab of its own making: as an external view, the page would not know Airflow's theme, and its links not open.
    react_apps = [
        {"name": "Run report", "bundle_url": "featurise/report.js", "destination": "dag_run", "url_route": "report"}
    ]
