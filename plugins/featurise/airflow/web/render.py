"""Pages as HTML that loads nothing from anywhere and runs no script, and tables as CSV."""

import csv
import datetime
import io
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

# Pages show names, log lines and notes that others chose; should one ever be taken for HTML, it can do nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'self'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
SHOWN = 4_000
"""Letters of a text that a page shows; the JSON has all."""


def page(template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any) -> HTMLResponse:
    """A page from a template."""
    text = _environment().get_template(f"{template}.html.j2").render(now=datetime.datetime.now(datetime.UTC), **values)
    return HTMLResponse(text, status, {**HEADERS, **(headers or {})})


def table(name: str, rows: Iterable[Mapping[str, Any]]) -> Response:
    """Rows as CSV, to be saved."""
    kept = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, kept[0].keys() if kept else ("nothing found",), lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in kept)
    saved = {"Content-Disposition": f'attachment; filename="{name}.csv"', "X-Content-Type-Options": "nosniff"}
    return Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=saved)


def _cell(value: Any) -> Any:
    """A spreadsheet takes what begins like this for a formula: it is to be a text."""
    dangerous = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if dangerous else value


def clean(text: str | None) -> str:
    """Text of others as it can be shown: control letters, also those that turn the direction, are made visible."""
    shown = (text or "")[:SHOWN]
    return "".join(_visible(shown)) + ("…" if len(text or "") > SHOWN else "")


def _visible(text: str) -> Iterator[str]:
    for letter in text:
        if letter in "\n\t" or letter.isprintable():
            yield letter
        elif letter != "\r":
            yield f"\\x{ord(letter):02x}" if ord(letter) < 256 else f"\\u{ord(letter):04x}"


def moment(value: datetime.datetime | None) -> str:
    """A point in time."""
    return "" if value is None else f"{value.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"


def duration(seconds: float | None) -> str:
    """A time in the two largest units that it has."""
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def query(**values: object) -> str:
    """The part of an address behind the question mark; what is not given is left out."""
    given = {name: value for name, value in values.items() if value not in (None, "")}
    return f"?{urlencode(given)}" if given else ""


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("featurise.airflow.web", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"clean": clean, "moment": moment, "duration": duration, "q": lambda text: quote(text, safe="")}
    made.globals |= {"query": query}
    return made
