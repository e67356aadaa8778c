"""A person at Airflow's UI: Chromium, driven by Playwright."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, ViewportSize, expect, sync_playwright

SCREENSHOTS = os.environ.get("SCREENSHOTS")
"""The folder for screenshots; those of the README were taken with `SCREENSHOTS=.docs`."""
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SIZE: ViewportSize = {"width": 1440, "height": 900}
MILLISECONDS = 120_000
"""For anything to appear; the tests share two cores with everything that they start."""


@contextmanager
def logged_in(url: str, user: str, password: str) -> Iterator[Page]:
    """Airflow's UI after the login, in a fresh profile."""
    executable = shutil.which("chromium")
    assert executable, "the tests need a browser; run: sudo apt-get install -y chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(MILLISECONDS)
        expect.set_options(timeout=MILLISECONDS)
        page.goto(url)
        page.locator('input[name="username"]').fill(user)
        page.locator('input[name="password"]').fill(password)
        page.get_by_role("button", name=re.compile("sign in", re.IGNORECASE)).click()
        page.get_by_role("link", name="Dags").first.wait_for()
        yield page
        browser.close()


def screenshot(page: Page, name: str) -> None:
    """Keep what is to be seen, where a folder for it is named."""
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")


def dialog(page: Page, url: str, dag_id: str) -> Locator:
    """The trigger dialog of a DAG."""
    page.goto(f"{url}/dags/{dag_id}")
    page.get_by_role("button", name="Trigger").click()
    found = page.get_by_role("dialog").filter(has_text="Single Run")
    found.get_by_text("Limit").first.wait_for()
    return found


def switch_on(form: Locator, name: str) -> None:
    """Turn on one of the form's switches, by the keyboard: what is to be seen lies above the box."""
    box = form.get_by_role("checkbox", name=name)
    box.press("Space")
    expect(box).to_be_checked()


def pick(page: Page, form: Locator, field: str, day: str) -> None:
    """Type a day into one of the backfill dialog's date fields."""
    form.get_by_role("group").filter(has_text=re.compile(f"^{field}")).get_by_role("paragraph").click()
    typed = page.get_by_role("textbox", name=field, exact=True)
    typed.fill(day.replace("-", "/"))
    typed.press("Enter")
    page.keyboard.press("Escape")
    expect(typed).to_be_hidden()  # it fades out, and the next field is found only after
