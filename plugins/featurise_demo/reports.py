"""The nights' reports as pages on this disk, which open after everything has ended, and their addresses in Airflow."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment

from extractor.core import storage
from featurise_demo.night import NightResult

INDEX = Environment(autoescape=True).from_string("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>The demo's nights</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
div { overflow-x: auto; } table { border-collapse: collapse; } th, td { padding: .4rem .8rem; text-align: left; }
tr { border-bottom: 1px solid #8886; } .failed { color: #d92d20; font-weight: 600; }
</style>
<h1>The demo's nights</h1>
<div><table>
<tr><th>night<th>backbone<th>run<th>featurised<th>rejected<th>report
{% for row, page in rows %}<tr><td>{{ row.night }}<td>{{ row.dag_id.rpartition("__")[2] }}
<td class="{{ row.state }}">{{ row.state }}{% for why in row.failures %}<br>{{ why }}{% endfor %}
<td>{{ row.featurised }}<td>{{ row.rejected }}
<td>{% if page %}<a href="{{ page }}">images and boxes</a>{% else %}none{% endif %}
{% endfor %}</table></div>
</html>
""")


def write(folder: Path, ended: Sequence[NightResult]) -> Path:
    """Write the runs' reports and an index of them, whose path is returned.

    A run that found nothing new leaves the page of the run before it.
    Raises storage.StorageError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(row, _page(folder, row)) for row in ended]
    return _write(folder / "index.html", INDEX.render(rows=rows).encode())


def _page(folder: Path, row: NightResult) -> str | None:
    page = folder / f"{row.night}-{row.dag_id.rpartition('__')[2]}.html"
    if row.report and (row.featurised or row.rejected or not page.exists()):
        _write(page, storage.read_bytes(row.report))
    return page.name if page.exists() else None


def _write(file: Path, data: bytes) -> Path:
    partial = file.with_name(f".{file.name}.partial")
    partial.write_bytes(data)
    return partial.replace(file)


def in_airflow(url: str, ended: Sequence[NightResult]) -> str:
    """Where Airflow shows the report that tells most: of the run that featurised or rejected the most images."""
    most = max(ended, key=lambda row: (bool(row.report), row.featurised + row.rejected))
    return f"{url}/dags/{most.dag_id}/runs/{quote(most.run_id, safe='')}/plugin/report"
