"""A run's report in a real browser, as Airflow serves it: what it says first, a phone's width, the dark, axe-core."""

import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import ARGUMENTS, screenshot
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from sqlalchemy import insert
from steps import discovered, planned

from extractor.core import storage
from featurise.airflow.web import app as web
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.failures.classify import Evidence, classify
from featurise.registry import attempts, feature_sets
from featurise.registry.models import RegisteredReject
from featurise.registry.session import writing
from featurise.steps.report import step as report
from featurise.steps.report.links import Links

PHOTO = Path("tests/golden/images/china.jpg")
DAY, RUN = "2026-11-23", "scheduled__2026-11-23"
HOME = "http://airflow.test"
PHONE = 390
WIDTH_OF_PICTURE = """async image => {
    const one = new Image();
    one.src = image.href.baseVal;
    await one.decode();
    return one.naturalWidth;
}"""
# One registry and no PostgreSQL: what the browser shows is the same.
pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("report"),
    pytest.mark.usefixtures("registry"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]
Show = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    assert executable, "the tests need a browser; run: sudo apt-get install -y chromium"
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        yield made
        made.close()


@pytest.fixture
def show(browser: Browser, spec: FeatureSetSpec) -> Iterator[Show]:
    """The report of the day's run, after it has been looked at in every way that must not disturb anybody."""
    contexts: list[BrowserContext] = []

    def look(name: str) -> Page:
        done = report.run(Run(spec, DAY, RUN), Links(spec.dag_id, RUN, HOME))
        data = storage.read_bytes(done.uri)
        for theme, width in (("dark", 1280), ("light", PHONE), (None, 1280)):
            context = browser.new_context(viewport={"width": width, "height": 900})
            contexts.append(context)
            page = looked_at(context.new_page(), web._in_theme(data, theme))
            expect(page.get_by_role("heading", level=1)).to_contain_text(f"birds · resnet101 · {DAY}")
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert ground == ("rgb(18, 22, 31)" if theme == "dark" else "rgb(255, 255, 255)")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            screenshot(page, f"report-{name}-{theme or 'system'}-{width}")
            if width != PHONE:
                found = audited(page)
                assert found.violations_count == 0, found.generate_report()
        return page

    yield look
    for context in contexts:
        context.close()


def looked_at(page: Page, body: bytes) -> Page:
    """The page as Airflow serves it, which loads nothing beside it and of which the browser refuses nothing."""
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    served = {"Content-Type": "text/html; charset=utf-8", **web.HEADERS}
    page.route(f"{HOME}/**", lambda route: route.fulfill(body=body, headers=served))
    page.goto(f"{HOME}/report")
    assert (len(asked), complaints) == (1, [])
    return page


def audited(page: Page):
    """What axe-core finds; it needs a script, which the policy forbids, and so runs on a copy."""
    copy = page.context.new_page()
    copy.set_content(page.content())
    return Axe().run(copy)


def failed(run: Run, shard: str, number: int, **evidence) -> None:
    facts = {"launcher": "kubernetes", "place": f"pod-{shard}", "map_index": number}
    launch = attempts.begin(run, shard, number=number, try_number=number, **facts)
    failure = classify(Evidence(**evidence))
    text = f"{failure.reason}\n  seen: {failure.detail}"
    attempts.failed(launch, failure.evidence, failure.reason, "retry", text)


def test_a_failed_night_says_first_what_failed_and_why(spec, upload, night, show: Show) -> None:
    upload({f"2026-11-22/old {n}.jpg": f"old {n}".encode() for n in range(40)})
    night("2026-11-22")
    upload({f"{DAY}/{n}.jpg": str(n).encode() for n in range(12)})
    run = Run(spec, DAY, RUN)
    shards = planned(spec, discovered(spec, DAY, RUN), RUN)
    assert len(shards) >= 3
    for number in (1, 2):
        failed(run, shards[0].name, number, node=f"gpu-{number}", exit_code=22, message="CUDA error: Xid 79 <b>")
    failed(run, shards[1].name, 1, node="gpu-3", pod="pod", terminated="OOMKilled", exit_code=137)
    failed(run, shards[2].name, 1, node="gpu-3", exit_code=25, message="bucket away")
    page = show("failed")
    expect(page.locator(".state")).to_have_text("FAILED")
    told = page.locator("body").inner_text()
    assert told.index("12 images wait, and nothing is lost") < told.index("found")
    reasons = page.locator(".failure b")
    assert set(reasons.all_inner_texts()) == {"gpu_fault", "host_out_of_memory", "storage"}
    log = page.get_by_role("link", name="log of the latest").first
    assert f"{HOME}/dags/birds__resnet101/runs/" in (log.get_attribute("href") or "")
    expect(page.get_by_role("region", name="Attempts")).to_be_visible()


def test_after_a_repair_the_failures_are_folded_away(spec, upload, night, show: Show) -> None:
    upload({f"2026-11-22/old {n}.jpg": f"old {n}".encode() for n in range(5)} | {"2026-11-22/bad.jpg": b"bad"})
    night("2026-11-22")
    upload({f"{DAY}/photo.jpg": PHOTO.read_bytes() + bytes(500_000), f"{DAY}/bad too.jpg": b"bad"})
    upload({f"{DAY}/<b>&amp;.jpg": b"hostile"})
    run = Run(spec, DAY, RUN)
    (shard,) = planned(spec, discovered(spec, DAY, RUN), RUN)
    failed(run, shard.name, 1, node="gpu-1", exit_code=22, message="CUDA error")
    night(DAY)
    page = show("repaired")
    expect(page.locator(".state")).to_have_text("FINISHED")
    expect(page.get_by_text("gpu_fault").first).to_be_hidden()
    page.get_by_text("1 of the extractor").click()
    expect(page.get_by_text("gpu_fault").first).to_be_visible()
    for name in ("Mean feature norm by night", "Classes, the most frequent", "Confidence of boxes", "Rejects by night"):
        expect(page.get_by_role("img", name=name)).to_be_visible()
    drawn = page.get_by_role("img", name="photo with its surest boxes")
    expect(drawn).to_be_visible()
    expect(page.get_by_role("img", name="<b>&amp; with its surest boxes", exact=True)).to_be_visible()
    picture = drawn.locator("image")
    assert picture.evaluate(WIDTH_OF_PICTURE) > 0
    ground = picture.bounding_box()
    boxes = [box.bounding_box() for box in drawn.locator("rect").all()]
    assert (len(boxes), drawn.locator("text").count()) == (8, 8)
    for box in boxes:
        assert ground["x"] - 2 <= box["x"] < box["x"] + box["width"] <= ground["x"] + ground["width"] + 2
        assert ground["y"] - 2 <= box["y"] < box["y"] + box["height"] <= ground["y"] + ground["height"] + 2


def test_a_night_of_nothing_but_rejects_shows_their_reasons(upload, night, show: Show) -> None:
    upload({f"{DAY}/{n}.jpg": b"bad %d" % n for n in range(3)})
    night(DAY)
    page = show("all-rejected")
    expect(page.get_by_text("Every new image was rejected")).to_be_visible()
    expect(page.get_by_role("heading", name="not_an_image")).to_be_visible()


def test_an_empty_night_says_so(night, show: Show) -> None:
    night(DAY)
    page = show("empty")
    expect(page.locator(".lead")).to_have_text("FINISHED no new images")
    assert page.locator("svg, table").count() == 0


def test_ten_thousand_rejects_make_a_page_that_a_browser_opens_at_once(spec, upload, night, show: Show) -> None:
    upload({f"{DAY}/a.jpg": b"bad"})
    night(DAY)
    with writing() as connection:
        number = feature_sets.find(connection, spec)
        facts = {"feature_set_id": number, "batch": DAY, "size": 7, "run_id": RUN, "registered_at": datetime.now(UTC)}
        facts |= {"etag": "e", "detail": "the file ends in the middle of a scan " * 3}
        rows = [
            {"key": f"{spec.prefix}{DAY}/x{n}.jpg", "image_id": f"x{n}", "reason": "truncated" if n % 3 else "empty"}
            for n in range(10_000)
        ]
        connection.execute(insert(RegisteredReject), [facts | row for row in rows])
    began = time.process_time()
    done = report.run(Run(spec, DAY, RUN), Links(spec.dag_id, RUN, HOME))
    assert time.process_time() - began < 10
    assert len(storage.read_bytes(done.uri)) < 1_000_000
    page = show("ten-thousand")
    expect(page.get_by_text("Rejected (10,001)")).to_be_visible()
    page.get_by_text("334 more of 6,658").click()
    expect(page.get_by_role("region", name="Rejected: truncated")).to_be_visible()
