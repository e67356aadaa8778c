"""The control plane's command line."""

import datetime
import getpass
import sys
from itertools import groupby
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter, validators
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from extractor.core.exit_codes import ExtractorError
from featurise.cli_check import check
from featurise.cluster.command import check_cluster
from featurise.console import AsJson, console, errors, lines, moment, say, say_json, table, warn
from featurise.declaration import load as declaration
from featurise.declaration import starter
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.load import Broken
from featurise.errors import FeaturiseError
from featurise.export.command import export_features
from featurise.monitoring.command import alerts
from featurise.objects import verify
from featurise.registry import attempt_history, coverage, engine, feature_sets, nodes, schema, session
from featurise.registry.attempt_history import Filter
from featurise.registry.coverage import Day
from featurise.settings import settings
from featurise.steps import rebuild as steps_rebuild

app = App(name="featurise", help="Region features, every night: what is declared, what is done, where it lies.")
registry = App(name="registry", help="The registry and the bucket whose files it keeps.")
app.command(registry)
app.command(alerts)


@app.command
def migrate() -> None:
    """Bring the registry's tables to this version."""
    revision = schema.migrate(engine.of(settings().registry))
    say(f"the registry has schema {revision}")


@app.command
def init(uri: str, /, *, out: Path = Path("featurise.yaml")) -> None:
    """Look at a bucket, and write a declaration for it with comments, to be completed.

    Parameters
    ----------
    uri
        Below what the images are: s3://bucket/prefix.
    out
        The file to write; one that is there stays as it is.
    """
    found = starter.look(uri)
    try:
        with out.open("x") as file:
            file.write(starter.text(found))
    except FileExistsError as error:
        raise FeaturiseError(f"{out} is there already, and stays as it is; name another file with --out") from error
    say(f"{starter.told(found)}; {out} is written. Fill in the weights, then: featurise check {out}")


app.command(check)
app.command(name="cluster")(check_cluster)


@app.command(name="status")
def show_status(*, dataset: str | None = None, backbone: str | None = None, as_json: AsJson = False) -> None:
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
        feature_sets.chosen(connection, dataset, backbone)
        days = coverage.coverage(connection, dataset, backbone)
    if as_json:
        for day in days:
            say_json({**day.model_dump(), "pending": day.pending})
        return
    if not days:
        warn("nothing has been looked at yet: no run has reached its registry")
    for _, members in groupby(days, key=lambda day: day.feature_set):
        console.print(_table(list(members)))


def _table(days: list[Day]) -> Table:
    """The days of one feature set and their sum."""
    one = days[0]
    shown = Table(title=f"{one.dataset} · {one.backbone} · revision {one.revision}", title_justify="left")
    if one.synthetic:
        shown.caption = "SYNTHETIC weights: these features mean nothing"
        shown.caption_style = "bold yellow"
    shown.add_column("day")
    names = ("found", "done", "rejected", "pending", "deleted")
    for name in names:
        shown.add_column(name, justify="right")
    for day in days:
        shown.add_row(day.batch, *(f"{getattr(day, name):,}" for name in names))
    shown.add_section()
    shown.add_row("all", *(f"{sum(getattr(day, name) for day in days):,}" for name in names))
    return shown


@app.command(name="attempts")
def show_attempts(
    *,
    outcome: str | None = None,
    dataset: str | None = None,
    backbone: str | None = None,
    node: str | None = None,
    day: str | None = None,
    run: str | None = None,
    limit: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=1_000))] = 50,
    as_json: AsJson = False,
) -> None:
    """GPU attempts, the newest first: how each ended, where, and what was done about it.

    Parameters
    ----------
    outcome
        `failed`, `succeeded`, `stopped`, `open`, `queued`, or a reason such as `gpu_fault`.
    dataset
        Only of this dataset.
    backbone
        Only of this backbone.
    node
        Only on this node.
    day
        Only of this day's batch, as in 2026-11-23.
    run
        Only of the Airflow run with this id.
    limit
        At most this many, up to 1,000.
    as_json
        JSON lines instead of a table.
    """
    asked = Filter(outcome=outcome, dataset=dataset, backbone=backbone, node=node, batch=day, run_id=run)
    with session.reading() as connection:
        found, _ = attempt_history.page(connection, asked, size=limit)
    if as_json:
        lines(found)
        return
    rows = [
        (moment(one.started_at), one.dag_id, one.shard, one.outcome, one.node, one.fault, one.action) for one in found
    ]
    table("no attempt is like that", ("started (UTC)", "DAG", "shard", "ended as", "node", "driver", "done"), rows)


@app.command(name="nodes")
def show_nodes(
    node: str | None = None,
    /,
    *,
    hold: str | None = None,
    release: str | None = None,
    as_json: AsJson = False,
) -> int:
    """The nodes that are held back, and why; hold one back, or release it.

    Parameters
    ----------
    node
        The node to hold back or to release; or only this one is shown.
    hold
        Hold the node back until somebody releases it; why, for the record.
    release
        Release the node; why, for the record.
    as_json
        JSON lines instead of a table.
    """
    if hold is not None or release is not None:
        return _change(node, hold, release)
    with session.reading() as connection:
        found = nodes.holds(connection, node)
    if as_json:
        lines(found)
        return 0
    rows = [(one.node, one.held_by, moment(one.held_at), one.note, moment(one.retry_at)) for one in found]
    table("no node is held back", ("node", "by", "since (UTC)", "why", "tried again at"), rows)
    return 0


def _change(node: str | None, hold: str | None, release: str | None) -> int:
    if node is None or (hold is None) == (release is None):
        warn("name one node, and either --hold or --release with a reason", style="red")
        return 1
    person, now = getpass.getuser(), datetime.datetime.now(datetime.UTC)
    with session.writing() as connection:
        if hold is not None:
            nodes.hold(connection, node, person, hold, now)
            say(f"{node} is held back until somebody releases it")
            return 0
        if nodes.release(connection, node, person, str(release), now):
            say(f"{node} is released")
            return 0
    warn(f"{node} was not held back; see `featurise nodes`", style="red")
    return 1


@app.command(name="incidents")
def show_incidents(*, as_json: AsJson = False) -> None:
    """Trouble that several attempts met, what is open first: what was seen, what it cost, what a person should do.

    Parameters
    ----------
    as_json
        JSON lines instead of a table.
    """
    with session.reading() as connection:
        found = nodes.incidents(connection)
    if as_json:
        lines(found)
        return
    rows = [
        (
            moment(one.opened_at),
            one.subject,
            one.detail,
            str(one.attempts),
            one.closed_because or one.advice,
        )
        for one in found
    ]
    table("no incident yet", ("opened (UTC)", "node", "seen", "failed attempts", "over, or what to do"), rows)


@app.command
def show(image: str, /, *, as_json: AsJson = False) -> int:
    """Where an image's features lie and where they came from.

    Parameters
    ----------
    image
        The image's id, or its key in the bucket.
    as_json
        JSON lines, one for each feature set.
    """
    with session.reading() as connection:
        places = coverage.places(connection, image)
    if not places:
        say(
            f"no image with the id or key {image!r} has an outcome; `featurise status` shows what is pending", to=errors
        )
        return 1
    for place in places:
        if as_json:
            say_json(place.model_dump(mode="json"))
            continue
        say(f"{place.feature_set}: {place.state}" + (", SYNTHETIC weights" if place.synthetic else ""), style="bold")
        for name, value in place.model_dump(exclude={"feature_set", "state", "synthetic"}, exclude_none=True).items():
            say(f"  {name}: {value}")
    return 0


app.command(name="export")(export_features)


@app.command(name="verify")
def verify_objects(*, dataset: str | None = None, read: bool = False, as_json: AsJson = False) -> int:
    """Compare the published objects with the registry: missing, altered, orphaned.

    Parameters
    ----------
    dataset
        Only this dataset.
    read
        Read every file and the lists beside it; otherwise names and sizes are compared.
    as_json
        JSON lines, one for each finding.
    """
    declared = declaration.load(settings().declaration)
    specs = [one for one in declared if isinstance(one, FeatureSetSpec) and dataset in (None, one.dataset)]
    with session.reading() as connection:
        sets = feature_sets.chosen(connection, dataset)
        files = verify.shards(connection, dataset)
    if any(isinstance(one, Broken) for one in declared):
        warn("the declaration has mistakes (`featurise check`): a file may be overlooked", style="yellow")
    found = 0
    with errors.status("") as shown:
        also = verify.folders(sets, specs)
        for finding in verify.run(files, read=read, tell=lambda uri: shown.update(uri), also=also):
            found += 1
            if as_json:
                say_json(finding.model_dump())
            else:
                say(f"{finding.kind}: {finding.uri} ({finding.detail})", style="red")
    to = errors if as_json else console
    say(f"{len(files):,} files, {found:,} findings" + ("" if read else "; contents not read"), to=to)
    return int(found > 0)


@registry.command
def rebuild(*, dataset: str | None = None, adopt: bool = False, as_json: AsJson = False) -> int:
    """Take in every published file of the declared buckets that the registry does not know, and list the images again.

    The way back after the registry was lost or restored from a backup. Nothing that is published is removed or changed;
    may be run again at any time.

    Parameters
    ----------
    dataset
        Only where this dataset's files lie.
    adopt
        Also where another registry is named in the bucket: the bucket is this registry's from then on.
    as_json
        One JSON object: `taken_in`, a count, and `told`, what was left alone.
    """
    declared = declaration.load(settings().declaration)
    for one in declared:
        if isinstance(one, Broken):
            warn(one.message, style="yellow")
    specs = [one for one in declared if isinstance(one, FeatureSetSpec) and dataset in (None, one.dataset)]
    if not specs:
        say(
            "no feature set is declared, so there is no bucket to look at; see `featurise check`",
            style="red",
            to=errors,
        )
        return 1
    with errors.status("") as shown:
        done = steps_rebuild.run(specs, adopt=adopt, tell=lambda uri: shown.update(uri))
    if as_json:
        say_json({"taken_in": done.taken_in, "told": done.told})
        return int(bool(done.told))
    for told in done.told:
        say(told, style="yellow")
    say(f"{done.taken_in:,} files taken in, {len(done.told):,} things left alone; `featurise status` shows the days")
    return int(bool(done.told))


def main() -> None:
    """Run the command line; failures end with their message and code 1."""
    try:
        app()
    except (FeaturiseError, ExtractorError) as error:
        warn(str(error), style="red")
        sys.exit(1)
    except SQLAlchemyError as error:
        why = engine.reason(error)
        say(f"the registry refused: {why}; check FEATURISE_REGISTRY and the rights of its user", style="red", to=errors)
        sys.exit(1)
