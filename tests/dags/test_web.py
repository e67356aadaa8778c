"""The page inside Airflow: where it looks for a run's report, and what it says where there is none."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from extractor.core import storage
from featurise.airflow.web import app as web
from featurise.declaration import load
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.objects import layout
from featurise.registry import engine, feature_sets, schema
from featurise.settings import settings

ATTACK = "<script>alert(1)</script>"
DAG = "flickr__resnet101"
DECLARATION = """
defaults:
  bucket: images
  start_date: 2026-03-28
  weights: {uri: "s3://models/weights", sha256: "%s"}
datasets:
  flickr: {backbones: [resnet101]}
"""
RUN = SimpleNamespace(
    run_id="manual__2026-11-24T10:00:00+00:00",
    run_type="manual",
    state="failed",
    run_after=datetime(2026, 11, 24, 10, tzinfo=UTC),
    partition_key="2026-11-23",
    conf={"max_boxes": 50},
)


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A declaration, a registry, and the store's objects by address."""
    (tmp_path / "featurise.yaml").write_text(DECLARATION % ("b" * 64))
    monkeypatch.setenv("FEATURISE_DECLARATION", str(tmp_path / "featurise.yaml"))
    monkeypatch.setenv("FEATURISE_REGISTRY", f"sqlite:///{tmp_path / 'registry.db'}")
    settings.cache_clear()
    schema.migrate(engine.of(settings().registry))
    found: dict[str, bytes] = {}

    def read(uri: str) -> bytes:
        if uri not in found:
            raise storage.NotFound(f"reading {uri}")
        return found[uri]

    monkeypatch.setattr(storage, "read_bytes", read)
    yield found
    settings.cache_clear()


def declared(sha256: str = "b" * 64) -> FeatureSetSpec:
    (spec,) = load.load(settings().declaration)
    assert isinstance(spec, FeatureSetSpec)
    weights = spec.weights.model_copy(update={"sha256": sha256})
    return spec.model_copy(update={"weights": weights, "boxes": spec.boxes.model_copy(update={"max_boxes": 50})})


def page(run: Any, dag_id: str = DAG, run_id: str = RUN.run_id) -> tuple[int, str]:
    session: Any = SimpleNamespace(scalars=lambda _: SimpleNamespace(first=lambda: run))
    answer = web.report(dag_id, run_id, session)
    assert answer.media_type == "text/html"
    assert answer.headers["Content-Security-Policy"] == web.HEADERS["Content-Security-Policy"]
    return answer.status_code, bytes(answer.body).decode()


@pytest.mark.usefixtures("objects")
def test_what_is_no_run_of_ours_is_told_on_a_page() -> None:
    for run, dag_id in ((None, DAG), (RUN, "another")):
        status, text = page(run, dag_id, ATTACK)
        assert status == 404
        assert "no run of a declared dataset" in text
        assert "&lt;script&gt;" in text
        assert ATTACK not in text


@pytest.mark.usefixtures("objects")
def test_a_run_without_a_report_is_told_on_a_page() -> None:
    status, text = page(RUN)
    assert (status, "no report yet" in text, "can also have ended without one" in text) == (404, True, True)


@pytest.mark.usefixtures("objects")
def test_a_store_that_does_not_answer_is_told_on_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(uri: str) -> bytes:
        raise storage.StorageError(f"reading {uri} failed: {ATTACK}")

    monkeypatch.setattr(storage, "read_bytes", fails)
    status, text = page(RUN)
    assert status == 502
    assert "failed: &lt;script&gt;" in text


def test_a_report_is_found_by_the_runs_own_facts(objects: dict[str, bytes]) -> None:
    objects[f"{layout.report(Run(declared(), '2026-11-23', RUN.run_id))}.html"] = b"the page"
    assert page(RUN) == (200, "the page")


def test_the_report_of_an_earlier_revision_is_found(objects: dict[str, bytes]) -> None:
    before = declared("a" * 64)
    assert before.feature_set != declared().feature_set
    objects[f"{layout.report(Run(before, '2026-11-23', RUN.run_id))}.html"] = b"the page"
    assert page(RUN)[0] == 404
    with engine.of(settings().registry).begin() as connection:
        feature_sets.ensure(connection, before)
    assert page(RUN) == (200, "the page")


def test_a_batch_that_is_no_day_leads_nowhere(objects: dict[str, bytes]) -> None:
    run = SimpleNamespace(**{**vars(RUN), "partition_key": None, "conf": {"batch": "../../private"}})
    objects[f"{layout.report(Run(declared(), '../../private', RUN.run_id))}.html"] = b"the page"
    status, text = page(run)
    assert (status, "expected a day as in 2026-11-23" in text) == (404, True)


def test_a_page_takes_the_theme_that_it_is_asked_for(objects: dict[str, bytes]) -> None:
    objects[f"{layout.report(Run(declared(), '2026-11-23', RUN.run_id))}.html"] = b'<html lang="en">the page'
    session: Any = SimpleNamespace(scalars=lambda _: SimpleNamespace(first=lambda: RUN))
    assert bytes(web.report(DAG, RUN.run_id, session, "dark").body) == b'<html lang="en" data-theme="dark">the page'


def test_a_run_under_way_is_shown_as_it_stands(objects: dict[str, bytes]) -> None:
    run = Run(declared(), "2026-11-23", RUN.run_id)
    objects[f"{layout.report(run)}.html"] = b"of the run's first end"
    status, text = page(SimpleNamespace(**{**vars(RUN), "state": "running"}))
    assert (status, "UNDER WAY" in text, "It looks for new images." in text) == (200, True, True)
