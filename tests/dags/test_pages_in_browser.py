"""The monitoring pages in a real browser: what axe-core finds, the keyboard, a phone's width, the dark."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import screenshot
from playwright.sync_api import Browser, expect, sync_playwright

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("pages")]  # one server for all of them

PATHS = {
    "Overview": "/",
    "GPU attempts": "/attempts",
    "Nodes": "/nodes",
    "Alerts": "/alerts",
    "Night": "/night?dag_id=birds__resnet101",
    "Images": "/images?text=images/birds/",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    assert executable, "the tests need a browser; run: sudo apt-get install -y chromium"
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


def opened(browser: Browser, pages: Any, role: str, width: int = 1280, *, dark: bool = False) -> Any:
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        extra_http_headers=pages.by(role),
        java_script_enabled=True,
    )
    context.set_default_timeout(60_000)
    return context.new_page()


@pytest.mark.parametrize("name", PATHS)
def test_a_page_is_accessible_in_light_and_dark_and_fits_a_phone(
    browser: Browser, pages: Any, attempts: list[int], told: dict[str, int], name: str
) -> None:
    for dark in (False, True):
        page = opened(browser, pages, "op", dark=dark)
        asked: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: asked.append(request.url))  # noqa: B023 - of this turn
        page.on("console", lambda message: complaints.append(message.text))  # noqa: B023 - of this turn
        page.goto(pages.url + PATHS[name])
        expect(page.get_by_role("heading", level=1)).to_have_text(name)
        assert len(asked) == 1, "nothing is loaded beside the page"
        assert complaints == []
        if not dark:
            screenshot(page, f"gpu-tasks-{name.lower().replace(' ', '-')}")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        page.context.close()
    phone = opened(browser, pages, "viewer", 390)
    phone.goto(pages.url + PATHS[name])
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.context.close()


def test_an_operator_holds_a_node_back_by_the_keyboard(browser: Browser, pages: Any, attempts: list[int]) -> None:
    page = opened(browser, pages, "op")
    page.goto(f"{pages.url}/nodes")
    row = page.get_by_role("row").filter(has_text="gpu-2")
    row.get_by_label("why").focus()
    page.keyboard.type("<b>new driver</b>")
    page.keyboard.press("Enter")
    expect(row).to_contain_text("by op-1")
    expect(row).to_contain_text("<b>new driver</b>")
    row.get_by_label("why").fill("done")
    row.get_by_role("button", name="Release gpu-2").press("Enter")
    expect(row.get_by_role("button", name="Hold back gpu-2")).to_be_visible()
    expect(page.get_by_role("table").last).to_contain_text("done")
    page.context.close()


def test_from_a_failed_attempt_a_person_comes_to_its_log(browser: Browser, pages: Any, attempts: list[int]) -> None:
    page = opened(browser, pages, "viewer")
    page.goto(f"{pages.url}/")
    page.get_by_role("link", name="GPU attempts").click()
    page.get_by_label("ended as").select_option("gpu_fault")
    page.get_by_role("button", name="Show").click()
    page.get_by_role("region", name="Attempts").get_by_role("link").first.click()
    expect(page.get_by_role("link", name="log")).to_have_attribute(
        "href", "/dags/birds__resnet101/runs/run-1/tasks/shard.extract/mapped/0?try_number=1"
    )
    assert Axe().run(page).violations_count == 0
    page.context.close()
