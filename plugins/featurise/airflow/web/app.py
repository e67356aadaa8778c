"""The page of a run's report, shown inside Airflow to those who may see the run."""

import json
from html import escape
from typing import Annotated, Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.models.xcom import XComModel
from fastapi import Depends, FastAPI, Path
from fastapi.responses import HTMLResponse

from extractor.core import storage
from extractor.core.exit_codes import StorageError

# Airflow's own routes check who asks; FastAPI's pages about the routes would answer everybody.
app = FastAPI(title="Featurise", docs_url=None, redoc_url=None, openapi_url=None)

MAY_READ = Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.XCOM))
# The page is ours, but it shows names that others gave their files.
HEADERS = {"Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"}
NOTHING = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="color-scheme" content="light dark">
<title>No report</title>
<body style="font: 15px/1.5 system-ui, sans-serif; margin: 2rem">
<p>{}</p>
</body>
</html>
"""


@app.get("/report/{dag_id}/{run_id}", dependencies=[MAY_READ])
def report(
    dag_id: Annotated[str, Path(min_length=1)], run_id: Annotated[str, Path(min_length=1)], session: SessionDep
) -> HTMLResponse:
    """The report that a run has written, or a page that says why there is none."""
    query = XComModel.get_many(run_id=run_id, dag_ids=dag_id, task_ids="report", key="return_value", limit=1)
    found: Any = session.scalars(query).first()
    if found is None:
        why = "The task `report` writes it at the end; a run can also have ended without one: see that task's log."
        return _nothing(404, f"{dag_id}, {run_id}: no report yet. {why}")
    value = json.loads(found.value) if isinstance(found.value, str) else found.value
    try:
        page = storage.read_bytes(value["uri"])
    except StorageError as error:
        return _nothing(502, str(error))
    return HTMLResponse(page, headers=HEADERS)


def _nothing(status: int, why: str) -> HTMLResponse:
    return HTMLResponse(NOTHING.format(escape(why)), status, HEADERS)
