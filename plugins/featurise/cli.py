"""The control plane's command line."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table

from extractor.outcome import ExtractorError
from featurise import declaration, status, verify
from featurise.declaration import Broken
from featurise.errors import FeaturiseError
from featurise.export import run as export
from featurise.registry import schema, session
from featurise.settings import settings
from featurise.status import Day

app = App(name="featurise", help="Region features, every night: what is declared, what is done, where it lies.")
console = Console()
Form = Literal["h5", "lmdb-volta", "lmdb-mmf", "npy-mmf", "tsv-lxmert"]


def _say(text: str, style: str | None = None) -> None:
    """A line as it is, wrapped by whoever shows it."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


@app.command
def migrate() -> None:
    """Bring the registry's tables to this version."""
    revision = schema.migrate(session.engine(settings().registry))
    _say(f"the registry has schema {revision}")


@app.command
def check(path: Path | None = None, /) -> int:
    """Check the declaration: one line per dataset and backbone, or what is wrong with it.

    Parameters
    ----------
    path
        The declaration; by default the one that FEATURISE_DECLARATION names.
    """
    found = declaration.load(path or settings().declaration)
    for one in found:
        if isinstance(one, Broken):
            _say(one.message, style="red")
        else:
            _say(f"{one.dag_id}: feature set {one.feature_set}")
    return int(any(isinstance(one, Broken) for one in found))


@app.command(name="status")
def show_status(*, dataset: str | None = None, backbone: str | None = None, as_json: bool = False) -> None:
    """Coverage by dataset, backbone and day: images found, done, rejected, pending.

    Parameters
    ----------
    dataset
        Only this dataset.
    backbone
        Only this backbone.
    as_json
        JSON lines instead of a table.
    """
    with session.reading() as connection:
        days = status.coverage(connection, dataset, backbone)
    if as_json:
        for day in days:
            print(json.dumps({**day.model_dump(), "pending": day.pending}))
        return
    if not days:
        _say("nothing has been looked at yet: no run has reached its registry")
        return
    console.print(_table(days))


def _table(days: list[Day]) -> Table:
    table = Table("dataset", "backbone", "revision", "weights", "day", title="Coverage, in images")
    for name in ("found", "done", "rejected", "pending", "deleted"):
        table.add_column(name, justify="right")
    last = None
    for day in days:
        if last is not None and last != day.feature_set:
            table.add_section()
        last = day.feature_set
        counts = (day.found, day.done, day.rejected, day.pending, day.deleted)
        weights = "[bold yellow]synthetic[/]" if day.synthetic else ""
        table.add_row(day.dataset, day.backbone, day.revision, weights, day.batch, *(f"{n:,}" for n in counts))
    return table


@app.command
def show(image: str, /) -> int:
    """Where an image's features lie and where they came from.

    Parameters
    ----------
    image
        The image's id, or its key in the bucket.
    """
    with session.reading() as connection:
        places = status.places(connection, image)
    if not places:
        _say(f"no image with the id or key {image!r} has an outcome; `featurise status` shows what is pending")
        return 1
    for place in places:
        title = f"{place.feature_set}: {place.state}" + (" — SYNTHETIC weights" if place.synthetic else "")
        table = Table(title=title, show_header=False, title_justify="left")
        for name, value in place.model_dump(exclude={"feature_set", "state", "synthetic"}, exclude_none=True).items():
            table.add_row(name, str(value))
        console.print(table)
    return 0


@app.command(name="export")
def export_features(
    *,
    dataset: str,
    backbone: str,
    form: Annotated[Form, Parameter(name="--format")],
    out: Path,
    revision: str | None = None,
) -> None:
    """Write a dataset's features in the format that a reader expects; called again, it goes on where it stopped.

    Parameters
    ----------
    dataset
        The dataset.
    backbone
        The backbone.
    form
        h5 (VOLTA's converters), lmdb-volta (VOLTA, IGLUE), lmdb-mmf, npy-mmf, tsv-lxmert.
    out
        The folder to write to.
    revision
        The feature set's revision, where there are several.
    """
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
        bar = progress.add_task(f"{dataset} as {form}", total=None)
        tell = partial(progress.update, bar)
        done = export.run(dataset, backbone, revision, form, out, lambda n, of: tell(completed=n, total=of))
    before = f", {done.before:,} of them there before" if done.before else ""
    _say(f"{done.images:,} images of {done.feature_set} in {out}{before}")
    if done.synthetic:
        _say("these features come from SYNTHETIC weights: they mean nothing", style="bold yellow")


@app.command(name="verify")
def verify_objects(*, dataset: str | None = None, read: bool = False) -> int:
    """Compare the published objects with the registry: missing, altered, orphaned.

    Parameters
    ----------
    dataset
        Only this dataset.
    read
        Read every file and compare its SHA-256; otherwise sizes are compared.
    """
    with session.reading() as connection:
        files = verify.shards(connection, dataset)
    with console.status("") as shown:
        findings = list(verify.run(files, read=read, tell=lambda uri: shown.update(uri)))
    for finding in findings:
        _say(f"{finding.kind}: {finding.uri} ({finding.detail})", style="red")
    _say(f"{len(files):,} files, {len(findings):,} findings")
    return int(bool(findings))


def main() -> None:
    """Run the command line; failures end with their message and code 1."""
    try:
        app()
    except (FeaturiseError, ExtractorError) as error:
        _say(str(error), style="red")
        sys.exit(1)
