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
from extractor.core.manifest import Entry, Reason, dump, image_id
from extractor.core.storage import ObjectInfo
from featurise.declaration import batches
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run_options import Options
from featurise.objects import latest, layout, orphans, scratch
from featurise.registry import feature_sets, image_ids, leases, outcomes, upsert
from featurise.registry.image_ids import Owner
from featurise.registry.session import reading, writing
from featurise.registry.upsert import Row
from featurise.steps.discover import diff, external_sort
from featurise.steps.discover.diff import Tally
from featurise.steps.discover.second_look import confirm_gone


class Fresh(Entry):
    """One new image, a line of a manifest. `batch` is its own: a late image's is earlier than the run's."""

    batch: str


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
    refused: int = 0
    """New images that are rejects already: another image has their id, or their names make none."""
    listed_at: datetime.datetime | None = None
    """Just before the store was listed; what is registered later by another run knows more."""
    passed_over: list[str] = []
    """Why earlier batches are left for another night although there may be new images."""
    left: str | None = None
    """Why nothing is done although there may be new images: another run's claim, or a batch that is not ready."""


@dataclass
class _Seen:
    """What one look at the store has found."""

    run_id: str
    tally: Tally = field(default_factory=Tally)
    fresh: Counter[str] = field(default_factory=Counter)
    conflicts: list[tuple[Fresh, list[Owner]]] = field(default_factory=list)
    done: list[Row] = field(default_factory=list)
    rejected: list[Row] = field(default_factory=list)


def not_ready(spec: FeatureSetSpec, batch: str) -> str | None:
    """Why a batch is not complete yet, or None; for a sensor before `discover`. A batch without any image is.

    Raises storage.StorageError.
    """
    if spec.batches.by == "modified" and _unsettled(spec, batches.end(batch)) is None:
        return None  # by its date alone: no need to list every day's images
    prefix, batch_of = next(batches.scans(spec, [batch]))
    folder = f"s3://{spec.bucket}/{prefix}"
    images = (item for item in storage.listing(folder) if batches.is_image(spec, item.key) and batch_of(item))
    if spec.ready.success is None:
        return _unsettled(spec, max((item.modified for item in images), default=None))
    success = storage.join(folder, spec.ready.success)
    if storage.head(success) is not None or next(images, None) is None:
        return None
    return f"{success} is not there yet"


def run(spec: FeatureSetSpec, batch: str, run_id: str, options: Options) -> Discovered:
    """List the batch and the look-back window, compare them with the registry, and write down what is new.

    The run claims every batch that it looks at; an earlier one that is not ready, or that another run works on, is left
    alone. A dry run claims nothing and leaves the registry as it is.
    Raises storage.StorageError naming endpoint and bucket when the store is down or the bucket missing.
    """
    spec = options.applied(spec)
    found = _run(spec, batch, run_id, options)
    # What an earlier discovery of this run led to holds no more.
    storage.delete([layout.plan(spec, batch, run_id)])
    uri = layout.discovered(spec, batch, run_id)
    storage.write_bytes(uri, found.model_dump_json().encode(), content_type="application/json")
    return found


def of_run(spec: FeatureSetSpec, batch: str, run_id: str) -> Discovered:
    """What a run discovered.

    Raises storage.NotFound, storage.StorageError.
    """
    return Discovered.model_validate_json(storage.read_bytes(layout.discovered(spec, batch, run_id)))


def _run(spec: FeatureSetSpec, batch: str, run_id: str, options: Options) -> Discovered:
    nothing = Discovered(batch=batch, listing_uri=layout.fresh(spec, batch, run_id))
    if spec.ready.success is not None and (why := not_ready(spec, batch)) is not None:
        return nothing.model_copy(update={"left": f"batch {batch} is not ready: {why}"})
    reasons = {one: not_ready(spec, one) for one in batches.earlier(spec, batch)}
    passed_over = [f"batch {one} is not ready: {why}" for one, why in reasons.items() if why is not None]
    nothing = nothing.model_copy(update={"passed_over": passed_over})
    # The run's own batch comes first: `limit` takes from it.
    wanted = [batch, *(one for one, why in reasons.items() if why is None)]
    claimed, holder = (wanted, None) if options.dry_run else _claim(spec, wanted, run_id)
    if holder is not None:
        return nothing.model_copy(update={"left": f"batch {batch} is being worked on by run {holder}"})
    if not options.dry_run:
        orphans.remove(spec, batch)
    listed_at = datetime.datetime.now(datetime.UTC)
    with scratch.folder() as folder:
        lines = folder / "fresh.jsonl"
        seen = _Seen(run_id)
        _look(spec, claimed, options, lines, seen)
        if (why := _unsettled(spec, seen.tally.newest.get(batch))) is not None:
            _release(spec, run_id)
            return nothing.model_copy(update={"left": f"batch {batch} is not ready: {why}"})
        with lines.open("ab") as file:
            _settle(spec, options, seen, file)
        storage.upload(lines, nothing.listing_uri)
    if not options.dry_run:
        confirm_gone(spec.bucket, seen.tally.deleted)
        _write_down(spec, batch, claimed, seen)
        latest.update(spec)
    return nothing.model_copy(
        update={
            "found": seen.tally.found.total(),
            "fresh": seen.fresh.total(),
            "done": seen.tally.done.total(),
            "rejected": seen.tally.rejected.total(),
            "late": seen.fresh.total() - seen.fresh[batch],
            "deleted": len(seen.tally.deleted),
            "refused": len(seen.rejected),
            "listed_at": listed_at,
        }
    )


def _claim(spec: FeatureSetSpec, wanted: Sequence[str], run_id: str) -> tuple[list[str], str | None]:
    """The batches that this run has now; or the run that holds the first one, which is the run's own."""
    now = datetime.datetime.now(datetime.UTC)
    with writing() as connection:
        feature_set = feature_sets.ensure(connection, spec)
        holders = {batch: leases.take(connection, feature_set, spec, batch, run_id, now) for batch in sorted(wanted)}
        if (holder := holders[wanted[0]]) is not None:
            leases.release(connection, feature_set, run_id)
        return [batch for batch in wanted if holders[batch] is None], holder


def _release(spec: FeatureSetSpec, run_id: str) -> None:
    with writing() as connection:
        if (number := feature_sets.find(connection, spec)) is not None:
            leases.release(connection, number, run_id)


def _look(spec: FeatureSetSpec, claimed: Sequence[str], options: Options, lines: Path, seen: _Seen) -> None:
    """One pass over listing and registry: the new images into `lines`, everything else into `seen`."""
    with lines.open("wb") as file, reading() as connection:
        number = feature_sets.find(connection, spec)
        images = _new(connection, number, spec, claimed, options, seen)
        for image, owners in image_ids.owned(connection, number, images):
            if options.limit is not None and seen.fresh.total() + len(seen.conflicts) >= options.limit:
                continue
            if owners:
                seen.conflicts.append((image, owners))
            else:
                file.write(dump([image]))
                seen.fresh[image.batch] += 1


def _new(
    connection: Connection,
    number: int | None,
    spec: FeatureSetSpec,
    claimed: Sequence[str],
    options: Options,
    seen: _Seen,
) -> Iterator[Fresh]:
    for prefix, batch_of in batches.scans(spec, claimed):
        listed = external_sort.by_key(storage.listing(f"s3://{spec.bucket}/{prefix}"))
        images = (item for item in listed if batches.is_image(spec, item.key))
        known = outcomes.known(connection, number, prefix)
        for item, batch in diff.new(images, known, batch_of, seen.tally, force=options.force):
            if options.keys and not item.key.startswith(tuple(options.keys)):
                continue
            try:
                yield _entry(spec, item, batch)
            except ValidationError as error:
                seen.rejected.append(_unusable(spec, item, batch, seen.run_id, error))
                seen.tally.rejected[batch] += 1


def _entry(spec: FeatureSetSpec, item: ObjectInfo, batch: str) -> Fresh:
    name = image_id(item.key, spec.image_ids, spec.prefix)
    elsewhere = spec.bucket if spec.bucket != layout.bucket(spec) else None
    return Fresh(key=item.key, etag=item.etag, size=item.size, image_id=name, bucket=elsewhere, batch=batch)


def _unusable(spec: FeatureSetSpec, item: ObjectInfo, batch: str, run_id: str, error: ValidationError) -> Row:
    """The row of an image that has no usable id."""
    name = image_id(item.key, spec.image_ids, spec.prefix)
    facts = {"key": item.key, "etag": item.etag, "size": item.size, "image_id": name, "batch": batch, "run_id": run_id}
    return facts | {"reason": Reason.UNSUPPORTED.value, "detail": error.errors()[0]["msg"]}


def _settle(spec: FeatureSetSpec, options: Options, seen: _Seen, file: IO[bytes]) -> None:
    """Decide about the new images whose id another key has; one whose owners are gone, or replaced, is new after all.

    With `force` a copy is, too: its owner's file may be what is to be replaced.
    """
    gone = {*seen.tally.deleted, *seen.tally.replaced}
    for image, owners in seen.conflicts:
        owner = next((one for one in owners if one.key not in gone), owners[0])
        try:
            same = image_ids.same_bytes(f"s3://{spec.bucket}/{image.key}", image, owner)
        except storage.NotFound:
            same = False
        if same and not options.force:
            seen.done.append(image_ids.done_row(image, image.batch, owner))
            seen.tally.done[image.batch] += 1
        elif same or owner.key in gone:
            file.write(dump([image]))
            seen.fresh[image.batch] += 1
        else:
            seen.rejected.append(image_ids.reject_row(image, image.batch, owner, seen.run_id))
            seen.tally.rejected[image.batch] += 1


def _write_down(spec: FeatureSetSpec, batch: str, claimed: Sequence[str], seen: _Seen) -> None:
    """Everything that the look at the store changes in the registry, in one transaction.

    Claims on earlier batches without anything new are given back: a backfill may want them.
    """
    with writing() as connection:
        number = feature_sets.ensure(connection, spec)
        idle = [one for one in claimed if one != batch and not seen.fresh[one]]
        leases.release(connection, number, seen.run_id, idle)  # claims are locked before the feature set, as elsewhere
        feature_sets.lock(connection, number)
        touched = outcomes.note_deleted(connection, number, seen.tally.deleted)
        touched |= outcomes.revive(connection, number, seen.tally.revived)
        _give_way(connection, number, seen)
        touched |= upsert.images(connection, number, seen.done) | upsert.rejects(connection, number, seen.rejected)
        for one in claimed:
            outcomes.listed(connection, number, one, seen.tally.found[one], seen.run_id)
        outcomes.recount(connection, number, touched.union(claimed), seen.run_id)


def _give_way(connection: Connection, number: int, seen: _Seen) -> None:
    """Images that came back and whose id another image got meanwhile are rejects now."""
    for image, batch, owner in image_ids.contested(connection, number, seen.tally.revived):
        seen.rejected.append(image_ids.reject_row(image, batch, owner, seen.run_id))
        seen.tally.done[batch] -= 1
        seen.tally.rejected[batch] += 1


def _unsettled(spec: FeatureSetSpec, newest: datetime.datetime | None) -> str | None:
    if newest is None or spec.ready.settle_seconds is None:
        return None
    quiet = (datetime.datetime.now(datetime.UTC) - newest).total_seconds()
    if quiet >= spec.ready.settle_seconds:
        return None
    return f"its last change was {quiet:.0f} s ago, it settles after {spec.ready.settle_seconds} s"
