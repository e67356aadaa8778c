"""Whether a shard's file may be published; nothing that the extractor says is taken on trust."""

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

from pydantic import BaseModel, ConfigDict

from extractor.core import manifest, storage
from extractor.core.backbone_specs import GivenRule
from extractor.core.manifest import IndexEntry, Reject
from featurise.declaration.run import Run
from featurise.errors import FeaturiseError
from featurise.objects import layout, scratch
from featurise.registry import shards
from featurise.steps import extract
from featurise.steps.plan import Shard
from featurise.steps.validate import drift, shard_file
from featurise.steps.validate.shard_file import ValidationReport

HISTORY = 50
"""Files of the feature set that a new one is compared with: the latest."""


class ValidationFailed(FeaturiseError):
    """Raised when a file breaks the contract; it is in quarantine by then, and the message lists the first problems."""


class Validated(BaseModel):
    """A file that may be published."""

    model_config = ConfigDict(frozen=True)

    report_uri: str
    file_uri: str
    sha256: str
    images: int
    rejects: int
    warnings: list[str]


def run(run: Run, shard: Shard) -> Validated:
    """Check a shard's file, index and rejects against its manifest, the contract, and the feature set's history.

    Raises ValidationFailed, own.NotOwn, or storage.StorageError.
    """
    shard.check(run)
    report_uri = layout.validation(shard.work_uri)
    if (done := shards.find(run, shard.name)) is not None:
        facts = {"file_uri": done.uri, "sha256": done.sha256, "images": done.images, "rejects": done.rejects}
        return Validated(report_uri=report_uri, warnings=[], **facts)
    uri = extract.output(shard)
    planned = manifest.read(shard.manifest_uri)
    index = manifest.fetch(IndexEntry, layout.index(uri))
    rejects = manifest.fetch(Reject, layout.rejects(uri))
    with scratch.folder() as folder:
        local = folder / "shard.h5"
        storage.download(uri, local)
        report = shard_file.file(run.spec, run.batch, local, planned, index, rejects)
        warnings, errors = drift.compare(
            report.statistics,
            shards.history(run.spec, HISTORY),
            run.spec.limits,
            given=isinstance(run.spec.rule, GivenRule),
            names=partial(shard_file.class_names, run.spec),
        )
        report.warnings += warnings
        report.note(errors)
        if report.problem_count:
            _quarantine(run, shard, report, local)
    storage.write_bytes(report_uri, report.model_dump_json().encode(), content_type="application/json")
    return Validated(
        report_uri=report_uri,
        file_uri=uri,
        sha256=report.sha256,
        images=len(index),
        rejects=len(rejects),
        warnings=report.warnings,
    )


def _quarantine(run: Run, shard: Shard, report: ValidationReport, local: Path) -> NoReturn:
    """Move a failing shard's objects out of the way of publication, beside a report.

    Raises ValidationFailed, always.
    """
    uri = extract.output(shard)
    place = layout.quarantine(run, shard.name)
    storage.write_bytes(
        storage.join(place, "report.json"), report.model_dump_json(indent=1).encode(), content_type="application/json"
    )
    lists = layout.index(uri), layout.rejects(uri), layout.thumbnails(uri)
    for source in lists:
        with suppress(storage.NotFound):  # not every extractor makes thumbnails
            storage.write_bytes(storage.join(place, source.rsplit("/", 1)[1]), storage.read_bytes(source))
    storage.upload(local, storage.join(place, f"{shard.name}.h5"))
    storage.delete([uri, *lists])
    listed = "\n".join(f"- {problem}" for problem in report.problems)
    rest = report.problem_count - len(report.problems)
    raise ValidationFailed(
        f"{uri} is not published: {report.problem_count} problems, moved to {place}\n{listed}"
        + (f"\n- and {rest} more" if rest else "")
    )
