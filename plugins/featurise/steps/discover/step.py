"""What is new in a batch: the store's listing against the registry."""

import datetime
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Connection

from extractor.core import storage
from extractor.core.manifest import RejectReason, dump
from extractor.core.storage import ObjectInfo
from featurise.declaration import batches
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.declaration.run_options import RunOptions
from featurise.objects import identity, latest, layout, reconcile, scratch
from featurise.registry import feature_sets, image_ids, leases, outcomes, upsert
from featurise.registry.image_ids import Owner
from featurise.registry.session import reading, writing
from featurise.registry.upsert import Row
from featurise.steps.discover import diff, external_sort, given_boxes, keys, readiness
from featurise.steps.discover.diff import Tally
from featurise.steps.discover.given_boxes import Fresh, GivenBoxes
from featurise.steps.discover.second_look import confirm_gone


class Discovered(BaseModel):
    """What a batch holds, in images; the new ones are listed at `listing_uri`, one JSON line each."""

    model_config = ConfigDict(frozen=True)

    batch: str
    listing_uri: str
    found: int = 0
    fresh: int = 0
    done: int = 0
    rejected: int = 0
    late: int = 0
    """How many of the fresh ones belong to earlier batches."""
    deleted: int = 0
    no_boxes_given: int = 0
    """Images that wait until boxes are given for them; they are not among those found."""
    refused: int = 0
    """New images that are rejects already: another image has their id, or their names make none."""
    listed_at: datetime.datetime | None = None
    """Just before the store was listed; what is registered later by another run knows more."""
    taken_in: int = 0
    """Published files that the registry did not know, and knows now."""
    told: list[str] = []
    """What lies among the published files and is left alone."""
    passed_over: list[str] = []
    """Why earlier batches are left for another night although there may be new images."""
    left: str | None = None
    """Why nothing is done although there may be new images: another run's lease, or a batch that is not ready."""


@dataclass
class _Seen:
    """What one look at the store has found."""

    run: Run
    given: GivenBoxes
    tally: Tally = field(default_factory=Tally)
    fresh: Counter[str] = field(default_factory=Counter)
    conflicts: list[tuple[Fresh, list[Owner]]] = field(default_factory=list)
    done: list[Row] = field(default_factory=list)
    rejected: list[Row] = field(default_factory=list)


def run(run: Run, options: RunOptions) -> Discovered:
    """List the batch and the look-back window, compare them with the registry, and write down what is new.

    The run takes the lease on every batch that it looks at; an earlier one that is not ready, or that another run
    holds, is left alone. Published files that the registry does not know are taken in first. A dry run takes no lease
    and leaves the registry as it is.
    Raises storage.StorageError naming endpoint and bucket when the store is down or the bucket missing, or
    identity.Stranger when the bucket and the registry do not belong together.
    """
    identity.ensure(run.spec, claim=not options.dry_run)
    found = _discovered(run, options)
    # What an earlier discovery of this run led to holds no more.
    storage.delete([layout.plan(run)])
    uri = layout.discovered(run)
    storage.write_bytes(uri, found.model_dump_json().encode(), content_type="application/json")
    return found


def relist(run: Run, wanted: Sequence[str]) -> list[str]:
    """List these batches, and write down what became of images that the registry knows; new ones wait for their run.

    Returns why batches are left alone. Raises storage.StorageError.
    """
    now = datetime.datetime.now(datetime.UTC)
    with writing() as connection:
        number = feature_sets.ensure(connection, run.spec)
        holders = {batch: leases.take(connection, number, run.on(batch), now) for batch in sorted(wanted)}
    leased = [batch for batch, holder in holders.items() if holder is None]
    try:
        with scratch.folder() as folder, given_boxes.opened(run, folder) as given:
            seen = _Seen(run, given)
            lines = folder / "fresh.jsonl"
            _look(leased, RunOptions(), lines, seen)
            with lines.open("ab") as file:
                _settle(RunOptions(), seen, file)
        confirm_gone(run.spec.bucket, seen.tally.deleted)
        _write_down(leased, seen)
    finally:
        _release(run)
    return [f"batch {batch} is leased to run {holder}" for batch, holder in holders.items() if holder is not None]


def of_run(run: Run) -> Discovered:
    """What a run discovered.

    Raises storage.NotFound, storage.StorageError.
    """
    return Discovered.model_validate_json(storage.read_bytes(layout.discovered(run)))


def _discovered(run: Run, options: RunOptions) -> Discovered:
    spec, batch = run.spec, run.batch
    nothing = Discovered(batch=batch, listing_uri=layout.fresh(run))
    if spec.ready.success is not None and (why := readiness.not_ready(spec, batch)) is not None:
        return nothing.model_copy(update={"left": f"batch {batch} is not ready: {why}"})
    reasons = {one: readiness.not_ready(spec, one) for one in batches.earlier(spec, batch)}
    passed_over = [f"batch {one} is not ready: {why}" for one, why in reasons.items() if why is not None]
    nothing = nothing.model_copy(update={"passed_over": passed_over})
    # The run's own batch comes first: `limit` takes from it.
    wanted = [batch, *(one for one, why in reasons.items() if why is None)]
    leased, holder = (wanted, None) if options.dry_run else _lease(run, wanted)
    if holder is not None:
        return nothing.model_copy(update={"left": f"batch {batch} is leased to run {holder}"})
    if not options.dry_run:
        there = reconcile.feature_set(run)
        nothing = nothing.model_copy(update={"taken_in": there.taken_in, "told": there.told})
    listed_at = datetime.datetime.now(datetime.UTC)
    with scratch.folder() as folder, given_boxes.opened(run, folder) as given:
        lines = folder / "fresh.jsonl"
        seen = _Seen(run, given)
        _look(leased, options, lines, seen)
        if (why := readiness.unsettled(spec, seen.tally.newest.get(batch))) is not None:
            _release(run)
            return nothing.model_copy(update={"left": f"batch {batch} is not ready: {why}"})
        with lines.open("ab") as file:
            _settle(options, seen, file)
        given.upload()
        storage.upload(lines, nothing.listing_uri)
    if not options.dry_run:
        confirm_gone(spec.bucket, seen.tally.deleted)
        _write_down(leased, seen)
        latest.update(spec)
    return nothing.model_copy(
        update={
            "found": seen.tally.found.total(),
            "fresh": seen.fresh.total(),
            "done": seen.tally.done.total(),
            "rejected": seen.tally.rejected.total(),
            "late": seen.fresh.total() - seen.fresh[batch],
            "deleted": len(seen.tally.deleted) + len(seen.tally.withdrawn),
            "no_boxes_given": seen.tally.no_boxes_given.total(),
            "refused": len(seen.rejected),
            "listed_at": listed_at,
        }
    )


def _lease(run: Run, wanted: Sequence[str]) -> tuple[list[str], str | None]:
    """The batches that this run has now; or the run that holds the first one, which is the run's own."""
    now = datetime.datetime.now(datetime.UTC)
    with writing() as connection:
        number = feature_sets.ensure(connection, run.spec)
        holders = {batch: leases.take(connection, number, run.on(batch), now) for batch in sorted(wanted)}
        if (holder := holders[wanted[0]]) is not None:
            leases.release(connection, number, run.run_id)
        return [batch for batch in wanted if holders[batch] is None], holder


def _release(run: Run) -> None:
    with writing() as connection:
        if (number := feature_sets.find(connection, run.spec)) is not None:
            leases.release(connection, number, run.run_id)


def _look(leased: Sequence[str], options: RunOptions, lines: Path, seen: _Seen) -> None:
    """One pass over listing and registry: the new images into `lines`, everything else into `seen`."""
    with lines.open("wb") as file, reading() as connection:
        number = feature_sets.find(connection, seen.run.spec)
        images = _new(connection, number, leased, options, seen)
        for image, owners in image_ids.owned(connection, number, images):
            if options.limit is not None and seen.fresh.total() + len(seen.conflicts) >= options.limit:
                continue
            if owners:
                seen.conflicts.append((image, owners))
            else:
                file.write(dump([seen.given.placed(image)]))
                seen.fresh[image.batch] += 1


def _new(
    connection: Connection, number: int | None, leased: Sequence[str], options: RunOptions, seen: _Seen
) -> Iterator[Fresh]:
    spec = seen.run.spec
    for prefix, batch_of in batches.scans(spec, leased):
        odd: set[str] = set()
        listed = external_sort.by_key(keys.storable(storage.listing(f"s3://{spec.bucket}/{prefix}"), odd))
        images = (seen.given.versioned(item) for item in listed if batches.is_image(spec, item.key))
        known = outcomes.known(connection, number, prefix)
        for item, batch in diff.new(images, known, batch_of, seen.tally, force=options.force):
            if options.keys and not item.key.startswith(tuple(options.keys)):
                continue
            why = keys.WHY if item.key in odd else None
            try:
                image = _entry(spec, item, batch)
            except ValidationError as error:
                why = str(error.errors()[0]["msg"])
            if why is None:
                yield image
            else:
                seen.rejected.append(_unusable(seen.run.on(batch), item, why))
                seen.tally.rejected[batch] += 1


def _entry(spec: FeatureSetSpec, item: ObjectInfo, batch: str) -> Fresh:
    name = batches.image_id_of(spec, item.key, batch)
    elsewhere = spec.bucket if spec.bucket != layout.bucket(spec) else None
    return Fresh(key=item.key, etag=item.etag, size=item.size, image_id=name, bucket=elsewhere, batch=batch)


def _unusable(run: Run, item: ObjectInfo, detail: str) -> Row:
    """The row of an image whose key or id cannot be used."""
    name = batches.image_id_of(run.spec, item.key, run.batch)
    facts = {"key": item.key, "etag": item.etag, "size": item.size, "image_id": name}
    why = {"reason": RejectReason.UNSUPPORTED.value, "detail": detail}
    return facts | why | {"batch": run.batch, "run_id": run.run_id}


def _settle(options: RunOptions, seen: _Seen, file: IO[bytes]) -> None:
    """Decide about the new images whose id another key has; one whose owners are gone, or replaced, is new after all.

    With `force` a copy is, too: its owner's file may be what is to be replaced.
    """
    gone = {*seen.tally.deleted, *seen.tally.withdrawn, *seen.tally.replaced}
    for image, owners in seen.conflicts:
        owner = next((one for one in owners if one.key not in gone), owners[0])
        try:
            same = image_ids.same_bytes(f"s3://{seen.run.spec.bucket}/{image.key}", image, owner)
        except storage.NotFound:
            same = False
        if same and not options.force:
            seen.done.append(image_ids.done_row(image, image.batch, owner))
            seen.tally.done[image.batch] += 1
        elif same or owner.key in gone:
            file.write(dump([seen.given.placed(image)]))
            seen.fresh[image.batch] += 1
        else:
            seen.rejected.append(image_ids.reject_row(image, image.batch, owner, seen.run.run_id))
            seen.tally.rejected[image.batch] += 1


def _write_down(leased: Sequence[str], seen: _Seen) -> None:
    """Everything that the look at the store changes in the registry, in one transaction.

    Leases on earlier batches without anything new are given back: a backfill may want them.
    """
    run = seen.run
    with writing() as connection:
        number = feature_sets.ensure(connection, run.spec)
        idle = [one for one in leased if one != run.batch and not seen.fresh[one]]
        leases.release(connection, number, run.run_id, idle)  # leases are locked before the feature set, as elsewhere
        feature_sets.lock(connection, number)
        touched = outcomes.note_deleted(connection, number, [*seen.tally.deleted, *seen.tally.withdrawn])
        touched |= outcomes.revive(connection, number, seen.tally.revived)
        _give_way(connection, number, seen)
        touched |= upsert.images(connection, number, seen.done) | upsert.rejects(connection, number, seen.rejected)
        outcomes.changed(connection, number, touched)
        for one in leased:
            outcomes.listed(connection, number, one, seen.tally.found[one], run.run_id)
        outcomes.recount(connection, number, touched.union(leased), run.run_id)


def _give_way(connection: Connection, number: int, seen: _Seen) -> None:
    """Images that came back and whose id another image got meanwhile are rejects now."""
    for image, batch, owner in image_ids.contested(connection, number, seen.tally.revived):
        seen.rejected.append(image_ids.reject_row(image, batch, owner, seen.run.run_id))
        seen.tally.done[batch] -= 1
        seen.tally.rejected[batch] += 1
