"""The page inside Airflow where a run's report is not to be had."""

from types import SimpleNamespace
from typing import Any

import pytest

from extractor.core import storage
from featurise.airflow.web import app as web

ATTACK = "<script>alert(1)</script>"


def session(value: Any) -> Any:
    """A session of Airflow's database that finds one XCom, or none."""
    found = None if value is None else SimpleNamespace(value=value)
    return SimpleNamespace(scalars=lambda _: SimpleNamespace(first=lambda: found))


def test_a_run_without_a_report_is_told_on_a_page() -> None:
    answer = web.report("photos__resnet101", ATTACK, session(None))
    page = bytes(answer.body).decode()
    assert (answer.status_code, answer.media_type) == (404, "text/html")
    assert answer.headers["Content-Security-Policy"] == web.HEADERS["Content-Security-Policy"]
    assert "no report yet" in page
    assert "can also have ended without one" in page
    assert "&lt;script&gt;" in page
    assert ATTACK not in page


def test_a_store_that_does_not_answer_is_told_on_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(uri: str) -> bytes:
        raise storage.StorageError(f"reading {uri} failed: {ATTACK}")

    monkeypatch.setattr(storage, "read_bytes", fails)
    answer = web.report("photos__resnet101", "run", session({"uri": "s3://b/report.html"}))
    page = bytes(answer.body).decode()
    assert answer.status_code == 502
    assert "reading s3://b/report.html failed: &lt;script&gt;" in page


def test_a_report_is_shown_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "read_bytes", lambda uri: f"page of {uri}".encode())
    answer = web.report("photos__resnet101", "run", session('{"uri": "s3://b/report.html"}'))
    assert (answer.status_code, answer.body) == (200, b"page of s3://b/report.html")
