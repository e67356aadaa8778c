"""The pages: Overview, GPU attempts, Nodes, Alerts, Night, Images."""

import datetime
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import quote

from airflow.api_fastapi.common.db.common import SessionDep
from fastapi import APIRouter, Depends, Form, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import AfterValidator

from extractor.core.redact import storable
from featurise.airflow.web import alert_views, image_views, render, views
from featurise.airflow.web.access import MAY_READ, MayOperate, Operator, VisibleDags
from featurise.failures.taxonomy import RULES, Reason
from featurise.registry import attempt_history, image_search, nodes
from featurise.registry.attempt_history import OUTCOMES, Count, Filter, ShownAttempt
from featurise.registry.overview import Standing, standings
from featurise.registry.session import writing
from featurise.settings import settings
from featurise.steps.report import charts

MOODS = {"success": "good", "failed": "bad"}
LIVE_SECONDS = 30
NODES_SHOWN = 30
"""Nodes of the chart; the table has them all."""

router = APIRouter(dependencies=[MAY_READ])


def askable(text: str | None) -> str | None:
    """A text from outside that the registry can be asked for."""
    return None if text is None else storable(text).strip()


Text = Annotated[str | None, Query(max_length=1024), AfterValidator(askable)]
Note = Annotated[str, Form(min_length=1, max_length=500), AfterValidator(askable)]
Node = Annotated[str, Form(min_length=1), AfterValidator(askable)]
Before = Annotated[int | None, Query(ge=1, le=2**31 - 1)]


def wanted(
    dags: VisibleDags,
    outcome: Text = None,
    dataset: Text = None,
    backbone: Text = None,
    node: Text = None,
    batch: Text = None,
    run_id: Text = None,
) -> Filter:
    """The attempts that the address asks for, of those that the person may see."""
    given = {
        "outcome": outcome,
        "dataset": dataset,
        "backbone": backbone,
        "node": node,
        "batch": batch,
        "run_id": run_id,
    }
    return Filter(dag_ids=dags, **{name: value or None for name, value in given.items()})


Wanted = Annotated[Filter, Depends(wanted)]


def frame(request: Request, here: str) -> dict[str, Any]:
    """Where the pages and Airflow are, below whatever prefix, and which page this is."""
    base = str(request.scope.get("root_path", "")).rstrip("/")
    return {"base": base, "home": base.removesuffix("/featurise"), "here": here}


@router.get("/", response_class=HTMLResponse)
def overview(request: Request, session: SessionDep, dags: VisibleDags) -> Response:
    """How far every dataset is, and what needs a person."""
    with views.registry() as connection:
        lines = views.lines(connection, session, dags)
        found = views.needs(connection, [line for line, _ in lines], dags)
    place = frame(request, "")
    shown = [
        {
            **line.model_dump(),
            "last": line.last_night
            and {**line.last_night.model_dump(), "mood": MOODS.get(line.last_night.state, "soft")},
            "rate": line.images_per_second,
            "hours": line.gpu_hours,
            "wasted": list(line.gpu_hours_wasted.items())[:3],
            "chart": _nights(standing),
        }
        for line, standing in lines
    ]
    return render.page(
        "overview", **place, standings=shown, days=views.DAYS, needs=[_need(place["base"], one) for one in found]
    )


def _need(base: str, one: views.Need) -> dict[str, Any]:
    href = f"{base}/{one.page}" if one.page else None
    if one.run_id is not None:
        href = f"{base}/attempts{render.query(run_id=one.run_id, outcome='failed')}"
    return {"what": one.what, "next": one.next, "href": href, "link": "Show"}


def _nights(standing: Standing) -> Any:
    nights = standing.nights[::-1]
    parts = {
        "featurised": [night.done for night in nights],
        "rejected": [night.rejected for night in nights],
        "pending": [night.pending for night in nights],
    }
    title = f"{standing.dataset} {standing.backbone} {standing.revision}, images by night"
    return charts.stacked([night.batch for night in nights], parts, title=title)


@router.get("/attempts", response_class=HTMLResponse)
def attempts(request: Request, asked: Wanted, before: Before = None) -> Response:
    """Attempts, the newest first."""
    with views.registry() as connection:
        rows, older = attempt_history.page(connection, asked, before=before)
        counted = {
            by: attempt_history.counts(connection, by, views.since(), asked) if before is None else []
            for by in ("day", "node")
        }
    given = asked.model_dump(exclude={"dag_ids"})
    return render.page(
        "attempts",
        **frame(request, "attempts"),
        attempts=rows,
        outcomes=OUTCOMES,
        wanted=given,
        filtered=any(given.values()) or before is not None,
        older=render.query(**given, before=older) if older else None,
        address=render.query(**given),
        days=views.DAYS,
        by_day=_failures(counted["day"], "Failures by day"),
        by_node=_failures(_worst(counted["node"]), "Failures by node"),
    )


def _worst(counted: Sequence[Count]) -> list[Count]:
    failed: dict[str, int] = {}
    for one in counted:
        failed[one.of] = failed.get(one.of, 0) + (one.attempts if one.reason else 0)
    shown = sorted((node for node in failed if failed[node]), key=lambda node: (-failed[node], node))[:NODES_SHOWN]
    return sorted((one for one in counted if one.of in shown), key=lambda one: shown.index(one.of))


def _failures(counted: Sequence[Count], title: str) -> Any:
    labels = list(dict.fromkeys(one.of for one in counted))
    found = {(one.of, one.reason): one.attempts for one in counted if one.reason}
    reasons = sorted({reason for _, reason in found if reason})
    parts = {reason: [found.get((label, reason), 0) for label in labels] for reason in reasons}
    return charts.stacked(labels, parts, title=title)


@router.get("/attempts/{number}", response_class=HTMLResponse)
def attempt(request: Request, number: int, dags: VisibleDags) -> Response:
    """One attempt, with everything that is known of it."""
    place = frame(request, "attempts")
    with views.registry() as connection:
        one = attempt_history.one(connection, number, Filter(dag_ids=dags)) if number < 2**31 else None
    if one is None:
        told = f"There is no attempt {number} of a DAG that you may read."
        return render.page("message", status=404, **place, title="GPU attempts", text=told)
    names = {"place": "pod or process", "try_number": "Airflow's try", "fault": "driver", "assigned_at": "had its node"}
    facts = [
        (names.get(name, name.replace("_", " ")), value)
        for name, value in one.model_dump(exclude={"message", "id", "map_index", "reason"}).items()
    ]
    facts = [(name, render.moment(value) if isinstance(value, datetime.datetime) else value) for name, value in facts]
    facts += [("took", render.duration(one.seconds)), ("of that waited for a node", render.duration(one.waited))]
    meaning = RULES[Reason(one.reason)].meaning if one.reason in set(Reason) else ""
    return render.page("attempt", **place, one=one, facts=facts, meaning=meaning, links=_links(place, one))


def _links(place: dict[str, Any], one: ShownAttempt) -> list[tuple[str, str]]:
    run = f"{place['home']}/dags/{quote(one.dag_id)}/runs/{quote(one.run_id, safe='')}"
    shown = [("run", run)]
    if one.map_index is not None:
        task = f"{run}/tasks/shard.extract/mapped/{one.map_index}"
        shown += [("task", task), ("log", f"{task}?try_number={one.try_number}")]
    shown.append(("night", f"{place['base']}/night{render.query(dag_id=one.dag_id, run_id=one.run_id)}"))
    pod_url = settings().pod_url
    if one.ended_at is None and one.launcher == "kubernetes" and one.place and pod_url is not None:
        shown.append(("pod", pod_url.replace("{pod}", quote(one.place, safe=""))))
    if one.node:
        shown.append(("the node's attempts", f"{place['base']}/attempts{render.query(node=one.node)}"))
    return shown


@router.get("/nodes", response_class=HTMLResponse)
def show_nodes(request: Request, dags: VisibleDags, operates: MayOperate) -> Response:
    """Nodes, and which of them are held back."""
    with views.registry() as connection:
        found = views.node_lines(connection, dags)
        ended = nodes.holds(connection, ended=True, size=20)
        opened = [one for one in nodes.incidents(connection) if one.closed_at is None]
    shares = [one.images_per_second / one.share_of_median for one in found if one.share_of_median]
    shown = [
        {
            **one.model_dump(exclude={"hold"}),
            "hold": one.hold,
            "reasons": sorted(((reason, count) for reason, count in one.failures.items()), key=lambda item: -item[1]),
            "rate": one.images_per_second,
            "slow": one.share_of_median is not None and one.share_of_median < attempt_history.SLOW,
        }
        for one in found
    ]
    return render.page(
        "nodes",
        **frame(request, "nodes"),
        nodes=shown,
        ended=ended,
        open_incidents=opened,
        may_operate=operates,
        median=shares[0] if shares else 0.0,
        days=views.DAYS,
    )


@router.post("/nodes/hold")
def hold_node(request: Request, person: Operator, node: Node, note: Note) -> Response:
    """Hold a node back until a person releases it."""
    _must_be_known(node)
    with writing() as connection:
        nodes.hold(connection, node, person, note, views.now())
    return RedirectResponse(f"{frame(request, '')['base']}/nodes", 303)


@router.post("/nodes/release")
def release_node(request: Request, person: Operator, node: Node, note: Note) -> Response:
    """Release a node, and end its incident."""
    with writing() as connection:
        nodes.release(connection, node, person, note, views.now())
    return RedirectResponse(f"{frame(request, '')['base']}/nodes", 303)


def _must_be_known(node: str) -> None:
    with views.registry() as connection:
        rows, _ = attempt_history.page(connection, Filter(node=node), size=1)
    if not rows:
        raise HTTPException(404, "no attempt has run on a node of that name; see the names on the page Nodes")


@router.get("/alerts", response_class=HTMLResponse)
def show_alerts(request: Request, dags: VisibleDags, before: Before = None) -> Response:
    """What people were told: what is open, and what is over."""
    with views.registry() as connection:
        found, older = alert_views.page(connection, dags, before)
    return render.page(
        "alerts",
        **frame(request, "alerts"),
        opened=[one for one in found if one.closed_at is None],
        ended=[one for one in found if one.closed_at is not None],
        first=before is None,
        older=render.query(before=older) if older else None,
        address=render.query(before=before),
    )


@router.get("/night", response_class=HTMLResponse)
def night(
    request: Request,
    session: SessionDep,
    dags: VisibleDags,
    dag_id: Text = None,
    run_id: Text = None,
    live: Annotated[str, Query(max_length=3)] = "",
) -> Response:
    """One run as a timeline of its shards."""
    with views.registry() as connection:
        known = sorted({one.dag_id for one in standings(connection, dags)})
        dag_id = dag_id or (known[0] if known else None)
        run_id = run_id or (views.latest_run(session, dag_id) if dag_id in dags and dag_id else None)
        found = views.night(connection, session, dag_id, run_id) if dag_id in dags and dag_id and run_id else None
    values: dict[str, Any] = {"dags": known, "dag_id": dag_id, "run_id": run_id, "live": bool(live), "lines": []}
    if found is None:
        why = (
            f"{dag_id} has no run {run_id} with shards." if run_id else "No run is known yet: trigger a DAG in Airflow."
        )
        return render.page("night", **frame(request, "night"), **values, why=f"{why} Shards appear with their plan.")
    values |= {
        "lines": [_timeline(found, one) for one in found.shards],
        "state": found.state,
        "done": sum(one.published_at is not None for one in found.shards),
        "start": found.begin,
        "end": found.end,
        "length": (found.end - found.begin).total_seconds(),
    }
    again = {"Refresh": str(LIVE_SECONDS)} if live else {}
    return render.page("night", headers=again, **frame(request, "night"), **values)


def _timeline(found: views.NightShown, one: views.ShardLine) -> dict[str, Any]:
    whole = max((found.end - found.begin).total_seconds(), 1.0)
    bars = [
        {
            "kind": stretch.kind,
            "left": round(100 * (stretch.begin - found.begin).total_seconds() / whole, 2),
            "width": round(100 * (stretch.end - stretch.begin).total_seconds() / whole, 2),
            "told": f"{stretch.told}, {render.duration((stretch.end - stretch.begin).total_seconds())}",
        }
        for stretch in one.stretches
    ]
    told = "; ".join(str(bar["told"]) for bar in bars) or "nothing yet"
    return {"shard": one.shard, "state": one.state, "published": one.published_at, "bars": bars, "told": told}


@router.get("/images", response_class=HTMLResponse)
def images(request: Request, dags: VisibleDags, text: Text = None, after: Text = None) -> Response:
    """Find an image; its boxes and its history."""
    asked = text or ""
    with views.registry() as connection:
        places, keys = image_views.find(connection, asked, dags, after or "")
    more = render.query(text=asked, after=keys[-1]) if len(keys) == image_search.PAGE else None
    shown = image_views.shown(places)
    return render.page(
        "images", **frame(request, "images"), text=asked, places=places, keys=keys, more=more, shown=shown
    )


@router.get("/images/features", response_class=Response)
def features(
    request: Request,
    dags: VisibleDags,
    image: Annotated[str, Query(min_length=1, max_length=1024), AfterValidator(storable)],
    feature_set: Annotated[str, Query(min_length=1, max_length=1024), AfterValidator(storable)],
) -> Response:
    """An image's features, all fields of the file, to be saved as numpy's .npz."""
    with views.registry() as connection:
        places = image_views.places(connection, image, dags)
    place = frame(request, "images")
    try:
        data = image_views.download(places, feature_set)
    except image_views.UNREADABLE as error:
        return render.page("message", status=502, **place, title="Images", text=f"The features cannot be read: {error}")
    if data is None:
        told = f"{feature_set} has no features of {image} that count and that you may read."
        return render.page("message", status=404, **place, title="Images", text=told)
    name = quote(image.rpartition("/")[2], safe="")
    saved = {"Content-Disposition": f"attachment; filename*=UTF-8''{name}.npz", "X-Content-Type-Options": "nosniff"}
    return Response(data, media_type="application/octet-stream", headers=saved)
