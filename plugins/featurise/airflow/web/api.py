"""Every table of the pages as JSON and as CSV."""

from typing import Annotated, Any

from airflow.api_fastapi.common.db.common import SessionDep
from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import AfterValidator, BaseModel

from featurise.airflow.web import alert_views, image_views, render, views
from featurise.airflow.web.access import MAY_READ, VisibleDags
from featurise.airflow.web.pages import Text, Wanted, askable
from featurise.registry import attempt_history, nodes
from featurise.registry.attempt_history import Filter, ShownAttempt
from featurise.registry.coverage import Place
from featurise.registry.nodes import Trouble

ROWS = 1_000
"""Attempts of one answer at the most."""

router = APIRouter(prefix="/api", dependencies=[MAY_READ])
Before = Annotated[int | None, Query(ge=1, le=2**31 - 1, description="`next` of the page before")]
Size = Annotated[int, Query(ge=1, le=ROWS)]
Name = Annotated[str, AfterValidator(askable)]


class Overview(BaseModel):
    """What needs a person, and every feature set."""

    needs: list[views.Need]
    feature_sets: list[views.Line]


class Attempts(BaseModel):
    """A page of attempts, and where the next one begins."""

    attempts: list[ShownAttempt]
    next: int | None


class Alerts(BaseModel):
    """What people were told, and where the next page begins."""

    alerts: list[alert_views.ToldAlert]
    next: int | None


class Images(BaseModel):
    """An image's outcomes, or else the keys that begin so."""

    places: list[Place]
    keys: list[str]


@router.get("/openapi.json", include_in_schema=False)
def schema(request: Request) -> dict[str, Any]:
    """What the API takes and returns; unlike FastAPI's own page, for those alone who may read."""
    described: dict[str, Any] = request.app.openapi()
    return described


@router.get("/overview")
def overview(session: SessionDep, dags: VisibleDags) -> Overview:
    """How far every dataset is, and what needs a person."""
    with views.registry() as connection:
        lines = [line for line, _ in views.lines(connection, session, dags)]
        return Overview(needs=views.needs(connection, lines, dags), feature_sets=lines)


@router.get("/overview.csv", response_class=Response)
def overview_table(session: SessionDep, dags: VisibleDags) -> Response:
    """Every feature set."""
    with views.registry() as connection:
        lines = [line for line, _ in views.lines(connection, session, dags)]
    return render.table("overview", (_flat(line) for line in lines))


@router.get("/attempts")
def attempts(asked: Wanted, before: Before = None, size: Size = attempt_history.PAGE) -> Attempts:
    """Attempts, the newest first."""
    with views.registry() as connection:
        rows, older = attempt_history.page(connection, asked, before=before, size=size)
    return Attempts(attempts=rows, next=older)


@router.get("/attempts.csv", response_class=Response)
def attempts_table(asked: Wanted, before: Before = None, size: Size = ROWS) -> Response:
    """Attempts, the newest first."""
    return render.table("attempts", (one.model_dump(mode="json") for one in attempts(asked, before, size).attempts))


@router.get("/attempts/{number}")
def attempt(number: int, dags: VisibleDags) -> ShownAttempt:
    """One attempt, with its whole message."""
    with views.registry() as connection:
        one = attempt_history.one(connection, number, Filter(dag_ids=dags)) if number < 2**31 else None
    if one is None:
        raise HTTPException(404, f"there is no attempt {number} of a DAG that you may read")
    return one


@router.get("/nodes")
def node_lines(dags: VisibleDags) -> list[views.NodeLine]:
    """Nodes, and which of them are held back."""
    with views.registry() as connection:
        return views.node_lines(connection, dags)


@router.get("/nodes.csv", response_class=Response)
def node_table(dags: VisibleDags) -> Response:
    """Nodes, and which of them are held back."""
    return render.table("nodes", (_flat(line) for line in node_lines(dags)))


@router.get("/incidents")
def incidents(before: Before = None) -> list[Trouble]:
    """Incidents, those that are open first."""
    with views.registry() as connection:
        return nodes.incidents(connection, before=before)


@router.get("/incidents.csv", response_class=Response)
def incident_table(before: Before = None) -> Response:
    """Incidents, those that are open first."""
    return render.table("incidents", (one.model_dump(mode="json") for one in incidents(before)))


@router.get("/alerts")
def alerts(dags: VisibleDags, before: Before = None) -> Alerts:
    """What people were told: all that is open, and what is over, the latest first."""
    with views.registry() as connection:
        found, older = alert_views.page(connection, dags, before)
    return Alerts(alerts=found, next=older)


@router.get("/alerts.csv", response_class=Response)
def alert_table(dags: VisibleDags, before: Before = None) -> Response:
    """What people were told: all that is open, and what is over, the latest first."""
    return render.table("alerts", (_flat(one) for one in alerts(dags, before).alerts))


@router.get("/night")
def night(session: SessionDep, dags: VisibleDags, dag_id: Name, run_id: Name) -> views.NightShown:
    """One run as a timeline of its shards."""
    with views.registry() as connection:
        found = views.night(connection, session, dag_id, run_id) if dag_id in dags else None
    if found is None:
        raise HTTPException(404, f"{dag_id} has no run {run_id} with shards")
    return found


@router.get("/night.csv", response_class=Response)
def night_table(session: SessionDep, dags: VisibleDags, dag_id: Name, run_id: Name) -> Response:
    """One run, a row for each stretch of a shard's night."""
    shards = night(session, dags, dag_id, run_id).shards
    rows = (
        {"shard": one.shard, "state": one.state, **s.model_dump(mode="json")} for one in shards for s in one.stretches
    )
    return render.table("night", rows)


@router.get("/images")
def images(dags: VisibleDags, text: Text = None, after: Text = None) -> Images:
    """An image's outcomes by its id, key or address; or the keys that begin so."""
    with views.registry() as connection:
        places, keys = image_views.find(connection, text or "", dags, after or "")
    return Images(places=places, keys=keys)


@router.get("/images.csv", response_class=Response)
def image_table(dags: VisibleDags, text: Text = None) -> Response:
    """An image's outcomes, or the keys that begin so."""
    found = images(dags, text)
    rows = [one.model_dump(mode="json") for one in found.places] or [{"key": key} for key in found.keys]
    return render.table("images", rows)


def _flat(line: BaseModel) -> dict[str, Any]:
    """A row whose nested values stand in columns of their own."""
    flat: dict[str, Any] = {}
    for name, value in line.model_dump(mode="json").items():
        if isinstance(value, dict) and name in ("last_night", "hold"):
            flat |= {f"{name}_{inner}": each for inner, each in value.items()}
        elif isinstance(value, dict):
            flat[name] = "; ".join(f"{inner}: {each}" for inner, each in value.items())
        elif name == "messages":
            flat[name] = "; ".join(f"{'over' if one['over'] else 'told'} {one['channel']}" for one in value)
        elif isinstance(value, list):
            flat[name] = " ".join(map(str, value))
        elif value is not None or name not in ("last_night", "hold"):
            flat[name] = value
    return flat
