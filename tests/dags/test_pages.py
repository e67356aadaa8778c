"""The monitoring pages: who may see what, what they say, and that they show what others wrote as text."""

import csv
import datetime
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from featurise.registry import alerts, engine
from featurise.registry.alerts import AlertRow
from featurise.registry.models import GpuAttempt

NOW = datetime.datetime.now(datetime.UTC)
HOSTILE = "<script>alert(1)</script>\u202e\x07=cmd\r\nSet-Cookie: a=b"
pytestmark = pytest.mark.xdist_group("pages")  # one server for all of them

PAGES = ("/", "/attempts", "/nodes", "/alerts", "/night", "/images", "/images?text=images/birds/")
TABLES = ("overview", "attempts", "nodes", "incidents", "alerts")
CSV = tuple(f"/api/{name}.csv" for name in TABLES)


@pytest.mark.parametrize("path", [*PAGES, *(f"/api/{name}" for name in TABLES), *CSV, "/api/openapi.json"])
def test_strangers_are_refused_and_viewers_read(pages: Any, path: str) -> None:
    assert pages.get(path, None).status_code == 401
    assert pages.get(path, "viewer").status_code == 200


def test_every_route_is_behind_a_permission() -> None:
    from featurise.airflow.web.app import app

    assert {"/report/{dag_id}/{run_id}", "/nodes/hold", "/api/attempts"} <= {route.path for route in app.routes}  # type: ignore[attr-defined]
    open_ = [route.path for route in app.routes if not getattr(route, "dependencies", [])]  # type: ignore[attr-defined]
    assert open_ == []


def test_only_operators_hold_back_and_release_nodes(pages: Any, attempts: list[int]) -> None:
    form = {"node": "gpu-2", "note": HOSTILE}
    for role, status in ((None, 401), ("viewer", 403), ("user", 403)):
        assert pages.post("/nodes/hold", role, **form).status_code == status
        assert pages.post("/nodes/release", role, **form).status_code == status
    assert "<form" not in pages.get("/nodes", "viewer").text
    assert pages.post("/nodes/hold", "op", origin="https://elsewhere.example", **form).status_code == 403

    assert pages.post("/nodes/hold", "op", **form).status_code == 303
    held = next(one for one in pages.get("/api/nodes").json() if one["node"] == "gpu-2")["hold"]
    assert (held["held_by"], held["retry_at"]) == ("op-1", None)
    assert pages.post("/nodes/release", "admin", node="gpu-2", note="reset").status_code == 303
    shown = pages.get("/nodes", "op").text
    assert "by admin-1: reset" in shown
    assert "<script" not in shown


def test_a_node_that_nobody_knows_is_not_held_back(pages: Any, attempts: list[int]) -> None:
    assert pages.post("/nodes/hold", "op", node="gpu-3", note="typo").status_code == 404
    assert pages.post("/nodes/hold", "op", node="gpu-2", note="").status_code == 422


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/", "No feature set is known yet"),
        ("/attempts", "No GPU task has been started yet"),
        ("/attempts?node=gpu-9", "No attempt is like that"),
        ("/nodes", "No attempt has run on any node"),
        ("/alerts", "Nobody has been told anything yet"),
        ("/alerts?before=1", "No alert is older"),
        ("/night", "No run is known yet"),
        ("/night?dag_id=birds__resnet101&run_id=none", "has no run none"),
        ("/images", "Type an image"),
        ("/images?text=nothing", "No image is known by that"),
    ],
)
def test_where_there_is_nothing_the_page_says_what_to_do(pages: Any, path: str, says: str) -> None:
    assert says in pages.get(path).text


def test_the_overview_says_first_what_needs_a_person(pages: Any, attempts: list[int]) -> None:
    shown = pages.get("/").text
    assert "the run ended as failed, 2 images wait" in shown
    assert "Nothing needs a person" not in shown
    (line,) = pages.get("/api/overview").json()["feature_sets"]
    assert (line["found"], line["done"], line["pending"], line["last_night"]["state"]) == (10, 7, 2, "failed")


def test_the_overview_shows_what_the_watch_has_told(pages: Any, rows: Callable[..., Any], attempts: list[int]) -> None:
    facts = {"reasons": ["x"], "waiting": 0, "done": "", "todo": "See why.", "page": "", "channels": [], "title": ""}
    for kind, subject in (
        ("watch", "platform"),
        ("late", "birds__resnet101 2026-11-23"),
        ("late", "cats__resnet101 x"),
    ):
        words = {**facts, "kind": kind, "subject": subject, "what": [f"{kind} {subject} {HOSTILE}"]}
        rows(AlertRow, kind=kind, subject=subject, facts=words, opened_at=NOW)
    shown = pages.get("/").text
    assert ("watch platform" in shown, "late birds" in shown, "late cats" in shown) == (True, True, False)
    assert {one["kind"] for one in pages.get("/api/alerts").json()["alerts"]} == {"watch", "late"}
    told = list(csv.DictReader(io.StringIO(pages.get("/api/alerts.csv").text)))
    assert sorted(row["subject"] for row in told) == ["birds__resnet101 2026-11-23", "platform"]
    assert "<script" not in shown


def test_alerts_say_what_was_said_to_whom_and_when_they_were_over(pages: Any, told: dict[str, int]) -> None:
    shown = pages.get("/alerts").text
    assert "Node gpu-2 is held back" in shown
    assert "told: email:op@example.org, 20" in shown
    assert "webhook:ops <span" in shown
    assert "not sent: no route" in shown
    assert "1 h 30 min" in shown
    assert "It ended well." in shown
    assert "the cats" not in shown, "of a DAG that the person may not read"
    assert "<script" not in shown
    assert "\u202e" not in shown
    answer = pages.get("/api/alerts").json()
    assert [one["id"] for one in answer["alerts"]] == [told["open"], told["over"]]
    assert answer["next"] is None
    first, second = csv.DictReader(io.StringIO(pages.get("/api/alerts.csv").text, newline=""))
    assert (first["messages"], second["messages"]) == ("told email:op@example.org; told webhook:ops", "")


def test_alerts_that_are_over_come_a_page_at_a_time(pages: Any, rows: Callable[..., Any], told: dict[str, int]) -> None:
    facts = {"reasons": [], "what": [], "waiting": 0, "done": "", "todo": "", "page": "", "channels": [], "title": "x"}
    words = {**facts, "kind": "watch", "subject": "platform"}
    for _ in range(alerts.PAGE):
        rows(AlertRow, kind="watch", subject="platform", facts=words, opened_at=NOW, closed_at=NOW)
    first = pages.get("/api/alerts").json()
    assert (len(first["alerts"]), first["alerts"][0]["id"]) == (1 + alerts.PAGE, told["open"])
    assert f'href="/featurise/alerts?before={first["next"]}"' in pages.get("/alerts").text
    second = pages.get(f"/api/alerts?before={first['next']}").json()
    assert ([one["id"] for one in second["alerts"]], second["next"]) == ([told["over"]], None)
    assert "Open alerts" not in pages.get(f"/alerts?before={first['next']}").text


def test_attempts_are_filtered_and_charted(pages: Any, attempts: list[int]) -> None:
    shown = pages.get("/attempts?outcome=gpu_fault&node=gpu-2").text
    assert shown.count("Xid 79") == 2
    assert 'aria-label="Failures by node"' in shown
    assert "shard-00001" not in shown
    assert len(pages.get("/api/attempts?size=2").json()["attempts"]) == 2
    older = pages.get("/api/attempts?size=2").json()["next"]
    assert [one["id"] for one in pages.get(f"/api/attempts?before={older}").json()["attempts"]] == attempts[:1]


def test_an_attempt_leads_to_its_task_and_log(pages: Any, attempts: list[int]) -> None:
    shown = pages.get(f"/attempts/{attempts[1]}").text
    assert 'href="/dags/birds__resnet101/runs/run-1/tasks/shard.extract/mapped/0?try_number=1"' in shown
    assert "the GPU or its driver failed" in shown
    assert pages.get("/attempts/999999").status_code == 404
    assert pages.get("/api/attempts/99999999999").status_code == 404


def test_an_attempt_leads_to_its_pod_while_it_lives(pages: Any, rows: Callable[..., Any], attempts: list[int]) -> None:
    facts = {"number": 1, "try_number": 1, "launcher": "kubernetes", "place": "pod-4", "batch": "b", "run_id": "run-1"}
    facts |= {"images": 0, "images_per_second": 0.0, "message": "", "started_at": NOW, "shard": "shard-00004"}
    alive = rows(GpuAttempt, feature_set_id=1, **facts)
    link = 'href="https://dashboard.example/pods/pod-4"'
    assert link in pages.get(f"/attempts/{alive}").text
    assert "dashboard.example" not in pages.get(f"/attempts/{attempts[1]}").text


def test_a_night_is_a_timeline_of_its_shards(pages: Any, attempts: list[int]) -> None:
    shown = pages.get("/night?dag_id=birds__resnet101&live=30")
    assert shown.headers["Refresh"] == "30"
    assert shown.text.count('class="track"') == 3
    assert "attempt 1 on gpu-2: gpu_fault" in shown.text
    assert "attempt 1: waiting for a node, 2 min 00 s" in shown.text
    assert pages.get("/night?dag_id=cats__resnet101&run_id=run-1").text.count('class="track"') == 0


def test_features_are_for_those_who_may_read_and_say_why_there_are_none(pages: Any, attempts: list[int]) -> None:
    path = "/images/features?image=images/birds/a.jpg&feature_set=birds"
    assert pages.get(path, None).status_code == 401
    found = pages.get(path, "viewer")
    assert (found.status_code, "has no features of images/birds/a.jpg" in found.text) == (404, True)
    assert pages.get("/images/features?image=a", "viewer").status_code == 422


def test_the_words_of_others_are_shown_as_text(pages: Any, attempts: list[int]) -> None:
    for path in (
        f"/attempts/{attempts[1]}",
        "/attempts",
        f"/attempts?node={'<b>' * 9}",
        "/images?text=<img%20src=x>%00",
        "/night?dag_id=cats__resnet101&run_id=run%00-1",
    ):
        answer = pages.get(path)
        assert answer.status_code == 200
        assert "<script" not in answer.text
        assert "<b><b>" not in answer.text
        assert "<img" not in answer.text
        assert "\u202e" not in answer.text
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "set-cookie" not in answer.headers
    table = list(csv.DictReader(io.StringIO(pages.get("/api/attempts.csv?outcome=gpu_fault").text, newline="")))
    assert len(table) == 2
    assert table[0]["message"].startswith("<script>"), "what is no formula stays as it is"


def test_a_spreadsheet_takes_no_cell_for_a_formula(pages: Any, rows: Callable[..., Any], attempts: list[int]) -> None:
    with engine.of(pages.registry).begin() as connection:
        connection.execute(text("UPDATE gpu_attempts SET node = '=cmd|/c calc'"))
    for line in csv.DictReader(io.StringIO(pages.get("/api/attempts.csv").text, newline="")):
        assert line["node"] == "'=cmd|/c calc"


def test_the_api_describes_itself_to_those_who_may_read(pages: Any) -> None:
    described = pages.get("/api/openapi.json").json()
    assert {"/api/attempts", "/api/nodes", "/api/incidents", "/api/overview", "/api/night", "/api/images"} <= set(
        described["paths"]
    )
    assert not [path for path in described["paths"] if not path.startswith("/api/") and "report" not in path]


def test_a_registry_that_is_away_is_told(pages: Any) -> None:
    with engine.of(pages.registry).begin() as connection:
        connection.execute(text("ALTER TABLE feature_sets RENAME TO away"))
    try:
        shown, table = pages.get("/"), pages.get("/api/overview")
    finally:
        with engine.of(pages.registry).begin() as connection:
            connection.execute(text("ALTER TABLE away RENAME TO feature_sets"))
    assert (shown.status_code, table.status_code) == (503, 503)
    assert "a database refused" in shown.text
    assert "no such table" in json.loads(table.text)["detail"]


def test_the_pages_stand_in_airflows_navigation() -> None:
    from airflow.api_fastapi.core_api.datamodels.plugins import ExternalViewResponse, ReactAppResponse

    from featurise.airflow.plugin import FeaturisePlugin

    views = [ExternalViewResponse.model_validate(view) for view in FeaturisePlugin.external_views]
    assert ("nav", "/featurise/") in {(view.destination, view.href) for view in views}
    (tab,) = [ReactAppResponse.model_validate(app) for app in FeaturisePlugin.react_apps]
    assert (tab.destination, tab.bundle_url) == ("dag_run", "featurise/report.js")


def test_the_script_of_the_report_s_tab_is_served(pages: Any) -> None:
    script = pages.get("/report.js")
    assert (script.status_code, script.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    assert "AirflowPlugin" in script.text
