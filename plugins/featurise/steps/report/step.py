"""The last page of a run, whatever happened before it."""

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from extractor.core import storage
from featurise.declaration import batches
from featurise.declaration.run import Run
from featurise.objects import layout, reconcile
from featurise.registry import attempts, feature_sets, leases, outcomes
from featurise.registry.session import reading, writing
from featurise.steps.report import html, run_summary
from featurise.steps.report.links import Links
from featurise.steps.report.run_summary import RunSummary


class Reported(BaseModel):
    """A run's report: the page's address, one line of text, and counts of images."""

    model_config = ConfigDict(frozen=True)

    uri: str
    text: str
    counts: dict[str, int]
    added: list[str] = Field(default=[], exclude=True)
    """The run's published files that hold an image; for the asset's event, and not for XCom."""
    warnings: list[str] = Field(default=[], exclude=True)
    """What validation warned of, such as drift; as `added`."""


def run(run: Run, links: Links | None = None) -> Reported:
    """Close attempts that were left open, write the run's page and its JSON, and release the run's leases.

    The page leads to others by `links`.

    Works whatever happened before it. Raises storage.StorageError, or engine.RegistryUnavailable.
    """
    attempts.write_off(run)
    found = run_summary.of_run(run)
    text = summary(found)
    place = layout.report(run)
    reported = Reported(
        uri=f"{place}.html",
        text=text,
        counts=found.counts,
        added=[file.uri for file in found.files if file.images],
        warnings=[f"{file.name}: {warning}" for file in found.files for warning in file.warnings],
    )
    links = links or Links(run.spec.dag_id, run.run_id)
    storage.write_bytes(f"{place}.json", found.model_dump_json(indent=1).encode(), content_type="application/json")
    storage.write_bytes(
        reported.uri, html.render(run.spec, found, text, links).encode(), content_type="text/html; charset=utf-8"
    )
    dry = found.plan is not None and found.plan.dry_run
    finished = found.discovered is not None and (dry or found.counts["pending"] == 0)
    if finished:
        storage.delete_below(layout.work(run))
        _remove_leftovers(run)
    with writing() as connection:
        number = feature_sets.find(connection, run.spec)
        if number is not None:  # else a dry run, or one that did not come far: it has nothing to give back
            leases.release(connection, number, run.run_id)
    return reported


def _remove_leftovers(run: Run) -> None:
    """With nothing open, whatever failed runs on these batches left on the way is done, too."""
    with reading() as connection:
        number = feature_sets.find(connection, run.spec)
        if number is None:
            return
        held, earlier = _held(connection, number, run), batches.earlier
        done = [one for one in held if not outcomes.is_open(connection, number, [*earlier(run.spec, one), one])]
    for one in done:
        storage.delete_below(layout.works(run.spec, one))
        reconcile.remove_unfinished(run.on(one))


def _held(connection: Connection, feature_set: int, run: Run) -> list[str]:
    """The run's batch, and the earlier ones that it made up for, as far as no other run has taken them."""
    covered = [*batches.earlier(run.spec, run.batch), run.batch]
    return [one for one in covered if leases.holder(connection, feature_set, one) == run.run_id]


def summary(run: RunSummary) -> str:
    """A run in one line."""
    if run.discovered is None:
        return "discovery did not finish; see its task's log"
    if run.discovered.left is not None:
        return run.discovered.left
    counts = run.counts
    refused = f", {counts['refused']:,} rejected at once" if counts["refused"] else ""
    if run.discovered.no_boxes_given:
        refused += f", {run.discovered.no_boxes_given:,} without given boxes"
    if run.statistics.flagged:
        refused += f", {run.statistics.flagged:,} given boxes that are none"
    if counts["new"] == 0:
        return f"no new images{refused}"
    if run.plan is not None and run.plan.dry_run:
        return f"dry run: {counts['new']:,} new images in {len(run.plan.shards):,} shards"
    open_ = f", {counts['pending']:,} still to do" if counts["pending"] else ""
    synthetic = " (synthetic weights)" if run.synthetic else ""
    files = "1 file" if counts["files"] == 1 else f"{counts['files']:,} files"
    new = f"{counts['done']:,} of {counts['new']:,} new images featurised, {counts['rejected']:,} rejected"
    return f"{new}{refused}{open_}; {files}{synthetic}"
