"""What a person does at Airflow's UI, in a real browser; the images that it takes illustrate the README."""

import datetime
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from browser import SIZE, dialog, logged_in, pick, switch_on
from browser import screenshot as keep
from playwright.sync_api import Page, expect

from featurise_demo import processes
from featurise_demo.api import Api, ApiError

GOLDEN = Path(__file__).parents[2] / "tests/golden/images"
NIGHTS = "nights__resnet101"
TONIGHT = ("astronaut.png", "chelsea_exif6.jpg", "china.jpg", "coffee.png", "flower.jpg")
TOLD = "5 of 7 new images featurised, 2 rejected"


@pytest.fixture(scope="module")
def page(installation: Any) -> Iterator[Page]:
    airflow = installation.airflow
    with logged_in(airflow.url, airflow.user, airflow.password) as found:
        yield found


def run_page(installation: Any, dag_id: str, run_id: str) -> str:
    return f"{installation.airflow.url}/dags/{dag_id}/runs/{quote(run_id, safe='')}"


def test_unpause_and_see_the_night_s_run(installation: Any, page: Page, photo: bytes) -> None:
    dag = "tonight__resnet101"
    now = datetime.datetime.now(datetime.UTC)
    night = str((now - datetime.timedelta(hours=2)).date() - datetime.timedelta(days=1))
    images = {name.replace(".", "_"): (GOLDEN / name).read_bytes() for name in TONIGHT}
    installation.put("tonight", night, **images, torn_jpg=photo[: len(photo) // 3], note_jpg=b"no image")
    processes.wait_until(lambda: dag in installation.api.dag_ids(), 300, dag, every=1)

    page.goto(f"{installation.airflow.url}/dags/{dag}")
    page.get_by_role("checkbox").first.set_checked(True, force=True)
    processes.wait_until(lambda: bool(installation.api.runs(dag)), 120, "the night's run", every=1)
    (run,) = installation.api.runs(dag)
    assert (run["run_type"], run["partition_key"]) == ("scheduled", night)
    assert run["dag_run_id"].startswith(f"scheduled__{night}__")
    assert installation.ended(dag, run["dag_run_id"]) == "success", installation.explain(dag, run["dag_run_id"])

    page.goto(run_page(installation, dag, run["dag_run_id"]))
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    expect(page.get_by_text(night, exact=True).first).to_be_visible()
    page.get_by_role("button", name="Show Graph").click()
    page.get_by_role("button", name="Expand all task groups").click()
    expect(page.get_by_text(re.compile(r"publish \["))).to_be_visible()
    page.get_by_role("button", name="Collapse Details Panel").click()
    page.set_viewport_size({"width": 1440, "height": 600})
    page.get_by_role("button", name="Fit View").click()
    page.wait_for_timeout(2000)  # for the graph to settle before its image is taken
    keep(page, "airflow-graph")
    page.set_viewport_size(SIZE)
    names = {row["image_id"] for row in installation.images("tonight")}
    assert names == {name.partition(".")[0] for name in TONIGHT}


def test_the_list_of_dags_says_that_a_run_is_for_the_day_before(installation: Any, page: Page) -> None:
    page.goto(f"{installation.airflow.url}/dags?name_pattern=tonight")
    expect(page.get_by_text("0 2 * * *, for the day before").first).to_be_visible()


def test_the_monitoring_pages_are_in_airflow_s_navigation(installation: Any, page: Page) -> None:
    page.goto(f"{installation.airflow.url}/")
    page.get_by_role("button", name="Browse").click()
    link = page.get_by_role("menuitem", name="GPU tasks")
    expect(link).to_be_visible()
    with page.expect_popup() as opened:
        link.click()
    expect(opened.value.get_by_role("heading", level=1)).to_have_text("Overview")
    expect(opened.value.get_by_text("tonight · resnet101").first).to_be_visible()
    opened.value.close()


def test_the_run_s_report_is_a_tab_of_the_run(installation: Any, page: Page) -> None:
    dag = "tonight__resnet101"
    (run,) = installation.api.runs(dag)
    page.goto(f"{run_page(installation, dag, run['dag_run_id'])}/plugin/report")
    page.get_by_role("button", name="Show Grid").click()
    report = page.frame_locator("iframe")
    expect(report.get_by_text(TOLD)).to_be_visible()
    expect(report.get_by_text("synthetic weights").first).to_be_visible()
    page.set_viewport_size({"width": 1440, "height": 1300})
    keep(page, "airflow-report")
    page.set_viewport_size(SIZE)
    page.evaluate("localStorage.setItem('theme', 'dark')")  # as Airflow's switch does
    page.reload()
    expect(report.locator("html")).to_have_attribute("data-theme", "dark")
    expect(report.get_by_text(TOLD)).to_be_visible()
    page.evaluate("localStorage.setItem('theme', 'light')")

    page.goto(f"{run_page(installation, dag, run['dag_run_id'])}/tasks/report/details")
    link = page.get_by_role("link", name="Report", exact=True)
    expect(link).to_be_visible()
    page.goto(link.get_attribute("href"))
    expect(page.get_by_text(TOLD)).to_be_visible()


def test_a_report_is_for_those_who_are_logged_in(installation: Any, page: Page) -> None:
    dag = "tonight__resnet101"
    (run,) = installation.api.runs(dag)
    stranger = page.context.browser.new_context()
    answer = stranger.request.get(
        f"{installation.airflow.url}/featurise/report/{dag}/{quote(run['dag_run_id'], safe='')}"
    )
    assert answer.status == 401
    stranger.close()


def test_a_week_is_backfilled_by_the_dialog(installation: Any, page: Page, photo: bytes) -> None:
    week = [f"2026-11-{day:02d}" for day in range(8, 15)]
    installation.put("nights", week[2], **{"photo_jpg": photo})
    installation.switch_on(NIGHTS)
    form = dialog(page, installation.airflow.url, NIGHTS)
    form.get_by_text("Backfill", exact=True).click()
    pick(page, form, "From", week[0])
    pick(page, form, "To", week[-1])
    expect(form.get_by_text("7 runs will be triggered.")).to_be_visible()
    form.locator('input[name="max_active_runs"]').fill("7")
    keep(page, "airflow-backfill")
    form.get_by_role("button", name="Run Backfill").click()

    def runs() -> dict[str, str]:
        found = installation.api.runs(NIGHTS)
        return {run["partition_key"]: run["dag_run_id"] for run in found if run["run_type"] == "backfill"}

    processes.wait_until(lambda: set(week) <= set(runs()), 120, "the backfill's runs", every=1)
    for day in week:
        assert installation.ended(NIGHTS, runs()[day]) == "success", installation.explain(NIGHTS, runs()[day])
    page.goto(f"{installation.airflow.url}/dags/{NIGHTS}/backfills")
    expect(page.get_by_text("2026-11-14").first).to_be_visible()
    assert [row["batch"] for row in installation.images("nights") if row["image_id"] == "photo"] == [week[2]]
    assert installation.api.xcom(NIGHTS, runs()[week[0]], "report")["text"] == "no new images"
    # Tonight's run goes first when both wait for a GPU.
    tonight = "tonight__resnet101"
    (scheduled,) = installation.api.runs(tonight)
    nightly = _extracts(installation, tonight, scheduled["dag_run_id"])[0]
    backfilled = _extracts(installation, NIGHTS, runs()[week[2]])[0]
    assert nightly["priority_weight"] > backfilled["priority_weight"]


def test_a_year_s_backfill_lets_the_night_through_is_paused_and_cancelled(
    installation: Any, page: Page, image: bytes
) -> None:
    dag = "year__resnet101"
    installation.put("year", "2026-11-02", tiny_png=image)
    installation.switch_on(dag)
    year = installation.api.backfill(dag, "2025-11-01", "2026-10-31", "none", max_active_runs=1)

    def working() -> bool:
        found = installation.api.call("GET", f"/dags/{dag}/dagRuns", run_type="backfill", state="running")
        return bool(found["total_entries"])

    made = installation.api.call("GET", f"/dags/{dag}/dagRuns", run_type="backfill")
    assert made["total_entries"] == 365
    night = installation.api.trigger(dag, "2026-11-02")
    assert installation.ended(dag, night) == "success", installation.explain(dag, night)

    page.goto(f"{installation.airflow.url}/dags/{dag}")
    expect(page.get_by_text("Backfill in progress")).to_be_visible()
    keep(page, "airflow-backfill-progress")
    page.get_by_role("button", name="Pause backfill").click()
    expect(page.get_by_role("button", name="Unpause backfill")).to_be_visible()
    processes.wait_until(lambda: not working(), 120, "the run under way to end", every=1)
    page.get_by_role("button", name="Cancel backfill").click()
    expect(page.get_by_text("Backfill in progress")).to_be_hidden()
    assert installation.api.call("GET", f"/backfills/{year}")["completed_at"]
    assert installation.api.call("GET", f"/dags/{dag}/dagRuns", state="queued")["total_entries"] == 0


def test_the_form_refuses_wrong_values(installation: Any, page: Page) -> None:
    before = len(installation.api.runs(NIGHTS))
    form = dialog(page, installation.airflow.url, NIGHTS)
    start = form.get_by_role("button", name="Trigger")  # by the keyboard: notes of what was refused lie above it
    limit = form.get_by_role("spinbutton", name="Limit")
    limit.fill("0")
    form.get_by_role("spinbutton", name="Min boxes").click()
    expect(limit).to_have_value("1")  # the least that the form takes
    expect(form.get_by_text("*", exact=True)).to_have_count(0)  # nothing is marked as required

    form.get_by_role("spinbutton", name="Min boxes").fill("50")
    form.get_by_role("spinbutton", name="Max boxes").fill("20")
    start.press("Enter")
    why = page.get_by_text("min_boxes is 50, above max_boxes 20").first
    expect(why).to_be_visible()
    page.set_viewport_size({"width": 1440, "height": 1300})
    why.scroll_into_view_if_needed()
    keep(page, "airflow-form")
    page.set_viewport_size(SIZE)
    assert len(installation.api.runs(NIGHTS)) == before

    for name in ("Min boxes", "Max boxes"):
        form.get_by_role("spinbutton", name=name).fill("")
    form.get_by_role("button", name="Advanced Options").click()
    form.get_by_label("Partition Key").fill("yesterday")
    start.press("Enter")
    expect(page.get_by_text("batch 'yesterday': expected a day as in 2026-11-23").first).to_be_visible()
    assert len(installation.api.runs(NIGHTS)) == before

    form.get_by_label("Partition Key").fill("")
    form.get_by_role("button", name="Run Parameters").click()
    form.locator("#element_batch").fill("2026-11-02")  # the field of the day
    switch_on(form, "Dry run")
    switch_on(form, "Force")
    start.press("Enter")
    processes.wait_until(lambda: len(installation.api.runs(NIGHTS)) > before, 120, "the manual run", every=1)
    run = installation.api.runs(NIGHTS)[0]["dag_run_id"]
    assert installation.ended(NIGHTS, run) == "success", installation.explain(NIGHTS, run)
    assert installation.api.xcom(NIGHTS, run, "report")["text"].startswith("dry run: 1 new images in 1 shards")
    assert installation.attempts(run) == []
    assert installation.api.run(NIGHTS, run)["partition_key"] == "2026-11-02"
    assert run.startswith("manual__2026-11-02__")


def test_a_backfill_is_refused_as_a_run_is(installation: Any) -> None:
    asked = {"dag_id": NIGHTS, "from_date": "2026-11-02T00:00:00Z", "to_date": "2026-11-03T00:00:00Z"}
    with pytest.raises(ApiError, match="min_boxes is 50, above max_boxes 20") as refused:
        installation.api.call("POST", "/backfills", asked | {"dag_run_conf": {"min_boxes": 50, "max_boxes": 20}})
    assert refused.value.status == 400


def test_who_may_not_start_runs_is_told_nothing_of_them(installation: Any) -> None:
    stranger = Api(installation.airflow.url, "nobody", "nothing")
    stranger._token = "none"
    with pytest.raises(ApiError) as refused:
        stranger._send("POST", f"/api/v2/dags/{NIGHTS}/dagRuns", {"conf": {"limit": 0}}, "none")
    assert refused.value.status in (401, 403)
    assert "limit" not in str(refused.value)


def test_a_failed_shard_that_is_cleared_is_the_only_one_that_is_redone(
    installation: Any, page: Page, image: bytes, photo: bytes
) -> None:
    dag = "clearing__resnet101"
    installation.put("clearing", "2026-11-02", tiny_png=image, photo_jpg=photo)
    installation.switch_on(dag)
    run = installation.api.trigger(dag, "2026-11-02")
    processes.wait_until(lambda: bool(_extractor(run)), 600, "an extractor at work", every=0.2)
    pid, shard = _extractor(run)[0]
    os.kill(pid, signal.SIGKILL)
    assert installation.ended(dag, run) == "failed"
    tasks = {task["rendered_map_index"]: task for task in _extracts(installation, dag, run)}
    assert tasks[shard]["state"] == "failed"
    (other,) = set(tasks) - {shard}
    assert tasks[other]["state"] == "success"
    log = installation.api.log(dag, run, "shard.extract", 1, tasks[shard]["map_index"])
    assert "crash:" in log
    assert "exit code 137" in log

    page.goto(f"{run_page(installation, dag, run)}/tasks/shard.extract/mapped")
    for name in tasks:
        expect(page.get_by_text(name).first).to_be_visible()
    page.goto(f"{run_page(installation, dag, run)}/tasks/shard.extract/mapped/{tasks[shard]['map_index']}")
    expect(page.get_by_text(f"shard.extract [{shard}]").first).to_be_visible()
    expect(page.get_by_text("exit code 137").first).to_be_visible()
    keep(page, "airflow-failed-shard")
    page.get_by_role("button", name="Press shift+c to clear").click()
    page.get_by_role("dialog").get_by_text(re.compile("Affected Tasks: 3")).wait_for()
    page.get_by_role("dialog").get_by_role("button", name="Confirm").click()

    def redone() -> bool:
        return {task["try_number"] for task in _extracts(installation, dag, run)} == {1, 2}

    processes.wait_until(redone, 300, "the shard's second try", every=1)
    assert installation.ended(dag, run) == "success", installation.explain(dag, run)
    tasks = {task["rendered_map_index"]: task for task in _extracts(installation, dag, run)}
    assert (tasks[shard]["try_number"], tasks[other]["try_number"]) == (2, 1)
    assert {row["image_id"] for row in installation.images("clearing")} == {"tiny", "photo"}
    assert [row["shard"] for row in installation.attempts(run)].count(other) == 1


def _extracts(installation: Any, dag: str, run: str) -> list[Any]:
    return [task for task in installation.api.tasks(dag, run) if task["task_id"] == "shard.extract"]


def _extractor(run: str) -> list[tuple[int, str]]:
    """The extractors that work for a run: process and shard."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", run)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if slug in command and (shard := re.search(r"/(shard-\d+)/manifest", command)):
                found.append((int(entry.name), shard[1]))
    return found
