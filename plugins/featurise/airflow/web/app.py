"""The package's web pages inside Airflow; here the page of a run's report, for those who may see the run.

A run that has ended has its report in the store; of one under way the page is made as it stands now, so that the first
failed attempt is to be seen at once.
"""

from collections.abc import Iterator
from contextlib import suppress
from html import escape
from pathlib import Path as File
from typing import Annotated, Any, Literal

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.models.dagrun import DagRun
from airflow.sdk.exceptions import AirflowFailException
from airflow.utils.state import State
from fastapi import Depends, FastAPI, Path, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from extractor.core import storage
from extractor.core.exit_codes import StorageError
from featurise.airflow import run_context
from featurise.airflow.operators.report import links_of
from featurise.airflow.web import access, api, pages, render
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.errors import FeaturiseError
from featurise.objects import layout
from featurise.registry import engine, feature_sets
from featurise.registry.session import reading
from featurise.steps.report import html, run_summary, step

# Airflow's own routes check who asks; FastAPI's pages about the routes would answer everybody.
app = FastAPI(title="Featurise", docs_url=None, redoc_url=None, openapi_url=None)
app.include_router(pages.router, include_in_schema=False)
app.include_router(api.router)

MAY_READ = Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.XCOM))
MAY_START = Depends(requires_access_dag(method="POST", access_entity=DagAccessEntity.RUN))
# The page is ours, but it shows names that others gave their files.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
HEADERS = {"Content-Security-Policy": f"{POLICY}sandbox allow-popups allow-popups-to-escape-sandbox"}
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
    dag_id: Annotated[str, Path(min_length=1)],
    run_id: Annotated[str, Path(min_length=1)],
    session: SessionDep,
    theme: Literal["light", "dark"] | None = None,
) -> HTMLResponse:
    """The report that a run has written or, under way, would write now; or a page that says why there is none.

    Its address follows from the declaration and the run's own facts. What tasks returned is not asked: anyone who may
    edit an XCom could name any object, or file, that the API server can read.
    """
    run = session.scalars(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)).first()
    spec = run_context.declared(dag_id)
    if run is None or spec is None:
        return _nothing(404, f"{dag_id}, {run_id}: no run of a declared dataset and backbone.")
    try:
        found = _under_way(spec, run) if run.state in State.unfinished_dr_states else _written(spec, run)
        if found is not None:
            return HTMLResponse(_in_theme(found, theme), headers=HEADERS)
    except AirflowFailException as error:
        return _nothing(404, f"{dag_id}, {run_id}: FAILED before it did anything, so there is no report: {error}")
    except (StorageError, FeaturiseError) as error:
        return _nothing(502, str(error))
    why = "The task `report` writes it at the end; a run can also have ended without one: see that task's log."
    return _nothing(404, f"{dag_id}, {run_id}: no report yet. {why}")


@app.post("/refused/{dag_id}", dependencies=[MAY_START], include_in_schema=False)
def refused(dag_id: str, request: Request) -> JSONResponse:
    """Why a run was not started, in Airflow's own form of an answer; see `refusals`."""
    return JSONResponse({"detail": getattr(request.state, "why", f"{dag_id}: nothing was refused")}, 400)


@app.get("/report.js", dependencies=[access.MAY_READ], include_in_schema=False)
def report_tab() -> Response:
    """What Airflow's UI shows in a run's tab Report; it holds nothing of any run."""
    return Response(File(__file__).with_name("report.js").read_bytes(), media_type="text/javascript")


def _in_theme(page: bytes, theme: str | None) -> bytes:
    told = f'<html lang="en" data-theme="{theme}">'.encode()
    return page if theme is None else page.replace(b'<html lang="en">', told, 1)


def _written(spec: FeatureSetSpec, run: Any) -> bytes | None:
    for uri in _places(spec, run):
        with suppress(storage.NotFound):
            return storage.read_bytes(uri)
    return None


def _under_way(spec: FeatureSetSpec, dag_run: Any) -> bytes:
    """What a run would report now.

    Raises AirflowFailException, storage.StorageError, or RegistryUnavailable.
    """
    run = run_context.current_run(spec, {"dag_run": dag_run, "params": dag_run.conf or {}})
    found = run_summary.of_run(run)
    text = step.summary(found) if found.discovered is not None else ""
    return html.render(run.spec, found, text, links_of(spec.dag_id, run.run_id), under_way=True).encode()


def _places(spec: FeatureSetSpec, dag_run: Any) -> Iterator[str]:
    """Where the run's report is: with its feature set, or with an earlier revision's that the registry knows.

    Raises AirflowFailException when the run's parameters name no feature set, or RegistryUnavailable.
    """
    run = run_context.current_run(spec, {"dag_run": dag_run, "params": dag_run.conf or {}})
    yield f"{layout.report(run)}.html"
    with reading() as connection:
        known = feature_sets.chosen(connection)
    for row in known:
        if (row.dataset, row.backbone) == (spec.dataset, spec.backbone) and row.revision != run.spec.revision:
            yield f"{layout.report(run, row.name)}.html"


def _nothing(status: int, why: str) -> HTMLResponse:
    return HTMLResponse(NOTHING.format(escape(why)), status, HEADERS)


@app.exception_handler(FeaturiseError)
def _unavailable(request: Request, error: FeaturiseError) -> Response:
    """The registry is away, or not this version's: the error's own words say so, and what to do."""
    return _told(request, str(error))


@app.exception_handler(SQLAlchemyError)
def _refused(request: Request, error: SQLAlchemyError) -> Response:
    return _told(request, f"a database refused: {engine.reason(error)}; look again, then check that it is up")


def _told(request: Request, why: str) -> Response:
    place = pages.frame(request, "")
    if request.url.path.removeprefix(place["base"]).startswith("/api/"):
        return JSONResponse({"detail": why}, 503)
    return render.page("message", status=503, **place, title="Nothing can be shown now", text=why)
