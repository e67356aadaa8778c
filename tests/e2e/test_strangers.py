"""What the API server tells of the package's pages to somebody who has not logged in."""

import urllib.error
import urllib.request
from typing import Any

import pytest


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("page", ["docs", "docs/oauth2-redirect", "redoc", "openapi.json"])
def test_nobody_is_shown_the_pages_about_the_routes(installation: Any, page: str) -> None:
    assert status(f"{installation.airflow.url}/featurise/{page}") == 404


def test_a_report_is_for_those_who_are_logged_in(installation: Any) -> None:
    assert status(f"{installation.airflow.url}/featurise/report/nights__resnet101/any") == 401
