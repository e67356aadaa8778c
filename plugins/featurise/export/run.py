"""An export from start to end, source by source; the journal in its folder says what is done, so that it can go on.

What is not whole yet lies in `.partial`, and gets the names that its readers open at the end. An export that is whole
grows in place where its format allows that (`writer.Extends`).
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
from pydantic import BaseModel

from featurise.export import disk, fetching, formats, journal, lock
from featurise.export import writer as writers
from featurise.export.journal import Line
from featurise.export.selection import ExportFailed, Options
from featurise.export.source import NO_OPTIONS, Outdated, Source, feature_set, sources
from featurise.export.writer import Extends, Writer
from featurise.objects import latest, scratch
from featurise.registry import feature_sets
from featurise.registry.feature_sets import Chosen
from featurise.registry.session import reading

Tell = Callable[[int, int], None]


class Exported(BaseModel):
    """What an export wrote, in images; `before` were there already. `paths` are what its readers open."""

    feature_set: str
    synthetic: bool | None
    images: int
    before: int
    paths: list[str]


@dataclass(frozen=True)
class _Asked:
    """What is to be exported, and to where."""

    dataset: str
    backbone: str
    revision: str | None
    form: str
    options: Options

    @property
    def format(self) -> type[Writer]:
        """The class that writes it."""
        return formats.named(self.form)

    @property
    def targets(self) -> tuple[str, ...]:
        """What its readers open."""
        return self.format.targets(self.dataset, self.options)


def run(
    dataset: str,
    backbone: str,
    revision: str | None,
    form: str,
    out: Path,
    tell: Tell,
    options: Options = NO_OPTIONS,
) -> Exported:
    """Export a feature set's live images; called again after whatever happened, it continues where it stopped.

    `tell` is given images done and in all.
    Raises ExportFailed (also while another export works in the folder), latest.RegistryBehind,
    feature_sets.NoSuchFeatureSet, storage.StorageError, or engine.RegistryUnavailable.
    """
    asked = _Asked(dataset, backbone, revision, form, options)
    found, planned = _planned(asked)
    with _alone_in(out, asked):
        return _export(asked, found, planned, out, tell)


def renew(
    dataset: str,
    backbone: str,
    revision: str | None,
    form: str,
    out: Path,
    tell: Tell,
    options: Options = NO_OPTIONS,
) -> Exported:
    """As `run`; an export that is outdated is made again, and takes the old one's place once it is whole.

    Raises as `run` does, but for Outdated.
    """
    asked = _Asked(dataset, backbone, revision, form, options)
    found, planned = _planned(asked)
    new, before = out.with_name(f"{out.name}.new"), out.with_name(f"{out.name}.old")
    with _alone_in(out, asked):
        for left in (new, before):  # by an attempt that was cut off; it may be outdated, too
            if left.exists():
                shutil.rmtree(left)
        try:
            return _export(asked, found, planned, out, tell)
        except Outdated:
            new.mkdir()
            done = _export(asked, found, planned, new, tell)
            out.rename(before)
            new.rename(out)
            shutil.rmtree(before)
            return done.model_copy(update={"paths": [str(out / name) for name in asked.targets]})


def _planned(asked: _Asked) -> tuple[Chosen, list[Source]]:
    """The feature set and what is to be taken from it; all that can be refused without a folder is refused here."""
    writer, options = asked.format, asked.options
    with reading() as connection:
        found = feature_set(connection, asked.dataset, asked.backbone, asked.revision)
        rule = feature_sets.facts(connection, found.id).box_rule
        writers.check(asked.form, writer, asked.backbone, rule, options)
        planned = sources(connection, found.id, options, groups=writer.groups, ordered=writer.ordered)
        writers.check_flags(writer, planned)
        if planned:
            latest.require_current(connection, found.id, planned[0].uri.rsplit("/", 2)[0])
    if not planned:
        raise ExportFailed(
            f"{found.name} has no image to export{' of ' + options.told() if options.told() else ''}; "
            "`featurise status` shows how far it is"
        )
    return found, planned


@contextmanager
def _alone_in(out: Path, asked: _Asked) -> Iterator[None]:
    was_there = out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportFailed(f"{out} cannot be made a folder ({error.strerror}); choose another") from error
    try:
        with lock.held(out, f"{asked.dataset} under {asked.backbone} as {asked.form}"):
            yield
    finally:
        if not was_there:
            with suppress(OSError):  # it is kept unless it is empty
                out.rmdir()


def _export(asked: _Asked, found: Chosen, planned: list[Source], out: Path, tell: Tell) -> Exported:
    whole = Line(form=asked.form, feature_set=found.name, options=asked.options.told())
    with disk.writing(out):
        written = journal.read(out, whole, planned)
        todo = [source for source in planned if source.name not in written.done]
        work = _folder(asked, written, out, todo)
    progress = _Progress(tell, done=_images(planned) - _images(todo), of=_images(planned))
    before = progress.done
    writer: Writer | None = None
    try:
        with disk.writing(out):
            writer = asked.format(work, asked.dataset, planned, written.offset, asked.options)
            journal.check_held(out, writer, [source for source in planned if source.name in written.done])
        if todo or work != out or writer.extends is Extends.IN_PLACE:
            _write(writer, todo, out, whole, written.begun, progress)
    finally:
        if writer is not None:
            writer.release()
        if work != out:
            with suppress(OSError):  # it is kept unless it is empty
                work.rmdir()
    if work != out:
        with disk.writing(out):
            _put_in_place(asked, work, out)
    paths = [str(out / name) for name in asked.targets]
    return Exported(feature_set=found.name, synthetic=found.synthetic, images=progress.of, before=before, paths=paths)


def _folder(asked: _Asked, written: journal.Written, out: Path, todo: list[Source]) -> Path:
    """Where to write: in place what is whole and can grow, else in `.partial`, to which a part of it may have to go.

    Raises ExportFailed when something stands there that this export did not make, or cannot grow.
    """
    partial = out / ".partial"
    there = [path for path in (partial, *(out / name for name in asked.targets)) if path.exists()]
    if there == [partial] and partial.is_dir() and not any(partial.iterdir()):
        there = []  # of an attempt that was killed before it began
    if not written.begun and there:
        raise ExportFailed(
            f"{there[-1]} is there, and {journal.NAME} does not say that this export made it; "
            f"choose another folder, or remove {there[-1]}"
        )
    if written.begun and not partial.exists():
        if not todo or asked.format.extends is Extends.IN_PLACE:
            return out
        if asked.format.extends is Extends.BY_RENEWAL:
            raise Outdated(
                f"{out} is whole and {_images(todo):,} images have come since, which cannot be added to {asked.form}; "
                "make it again with --renew, or choose another folder"
            )
    partial.mkdir(exist_ok=True)
    for name in asked.targets:
        if (out / name).exists():
            (out / name).rename(partial / name)
    return partial


def _put_in_place(asked: _Asked, work: Path, out: Path) -> None:
    """Give a whole export the names that its readers open; cut off here, the next attempt does it again."""
    for name in asked.targets:
        (work / name).rename(out / name)
    shutil.rmtree(work)


class _Progress:
    """Images done and in all, told at each step."""

    def __init__(self, tell: Tell, done: int, of: int) -> None:
        self._tell, self.done, self.of = tell, done, of
        tell(done, of)

    def more(self, images: int = 1) -> None:
        self.done += images
        self._tell(self.done, self.of)


def _write(
    writer: Writer, todo: list[Source], out: Path, whole: Line, begun: frozenset[str], progress: _Progress
) -> None:
    with scratch.folder() as folder:
        for source, local in fetching.fetched(todo, folder):
            line = whole.model_copy(update={"source": source.name, "digest": source.digest})
            with disk.writing(out):
                if source.name not in begun:
                    journal.append(out, line)
                taken = writer.take(source, local)
            if taken:
                progress.more(len(source.ids))
            else:
                _add(writer, source, local, out, progress)
            with disk.writing(out):
                journal.append(out, line.model_copy(update={"offset": writer.commit(source)}))
    with disk.writing(out):
        writer.close()


def _add(writer: Writer, source: Source, local: Path, out: Path, progress: _Progress) -> None:
    """One published file, image by image."""
    with h5py.File(local, "r") as file:
        for found_under, image_id in zip(source.groups, source.ids, strict=True):
            group = file[found_under]
            with disk.writing(out):
                writer.add(source, image_id, group)
            progress.more()


def _images(planned: list[Source]) -> int:
    return sum(len(source.ids) for source in planned)
