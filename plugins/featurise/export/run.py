"""An export from start to end, source by source; the journal in its folder says what is done, so that it can go on."""

import os
import shutil
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py
from pydantic import BaseModel, ValidationError

from extractor.core import storage
from extractor.core.weights import sha256_of
from featurise.export import disk, lock
from featurise.export.files import MmfFiles
from featurise.export.hdf5 import Hdf5
from featurise.export.lightning import Mmf, Volta
from featurise.export.source import ExportFailed, Outdated, Source, feature_set, sources
from featurise.export.tsv import Lxmert
from featurise.export.writer import Writer
from featurise.objects import latest, scratch
from featurise.registry.session import reading

FORMATS: dict[str, type[Writer]] = {
    "h5": Hdf5,
    "lmdb-volta": Volta,
    "lmdb-mmf": Mmf,
    "npy-mmf": MmfFiles,
    "tsv-lxmert": Lxmert,
}
LINE = b'{"form":'
"""How a line of the journal begins."""
Tell = Callable[[int, int], None]


class Line(BaseModel):
    """A line of the journal: a source that is begun, or one that is exported, and where the next one starts."""

    form: str
    feature_set: str
    source: str
    digest: str
    offset: int | None = None


class Exported(BaseModel):
    """What an export wrote, in images; `before` were there already."""

    feature_set: str
    synthetic: bool | None
    images: int
    before: int


def run(dataset: str, backbone: str, revision: str | None, form: str, out: Path, tell: Tell) -> Exported:
    """Export a feature set's live images; called again after whatever happened, it goes on where it stopped.

    `tell` is given images done and in all.
    Raises ExportFailed (also while another export works in the folder), latest.RegistryBehind,
    feature_sets.NoSuchFeatureSet, storage.StorageError, or engine.RegistryUnavailable.
    """
    with _alone_in(out, dataset, backbone, form):
        return _export(dataset, backbone, revision, form, out, tell)


@contextmanager
def _alone_in(out: Path, dataset: str, backbone: str, form: str) -> Iterator[None]:
    was_there = out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportFailed(f"{out} cannot be made a folder ({error.strerror}); choose another") from error
    try:
        with lock.held(out, f"{dataset} under {backbone} as {form}"):
            yield
    finally:
        if not was_there:
            with suppress(OSError):  # it is kept unless it is empty
                out.rmdir()


def _export(dataset: str, backbone: str, revision: str | None, form: str, out: Path, tell: Tell) -> Exported:
    with reading() as connection:
        found = feature_set(connection, dataset, backbone, revision)
        planned = sources(connection, found.id)
        if planned:
            latest.require_current(connection, found.id, planned[0].uri.rsplit("/", 2)[0])
    name = found.name
    if not planned:
        raise ExportFailed(f"{name} has no image to export; `featurise status` shows how far it is")
    journal = out / "export.jsonl"
    with disk.writing(out):
        begun, done = _written(journal, form, name, planned)
        writer = FORMATS[form](out, dataset, planned, max(done.values(), default=0))
    try:
        with disk.writing(out):
            _check_there(writer, journal, begun, [source for source in planned if source.name in done])
        progress = _Progress(tell, done=_images(planned, done), of=_images(planned))
        before = progress.done
        for source in planned:
            if source.name not in done:
                line = Line(form=form, feature_set=name, source=source.name, digest=source.digest)
                _add(source, writer, journal, line, progress, begun=source.name in begun)
        with disk.writing(out):
            writer.close()
    finally:
        writer.release()
    return Exported(feature_set=name, synthetic=found.synthetic, images=progress.of, before=before)


class _Progress:
    """Images done and in all, told at each step."""

    def __init__(self, tell: Tell, done: int, of: int) -> None:
        self._tell, self.done, self.of = tell, done, of
        tell(done, of)

    def one_more(self) -> None:
        self.done += 1
        self._tell(self.done, self.of)


def _check_there(writer: Writer, journal: Path, begun: set[str], there: list[Source]) -> None:
    if not begun and writer.target.exists():
        raise ExportFailed(
            f"{writer.target} is there, and {journal.name} does not say that this export made it; "
            f"choose another folder, or remove {writer.target}"
        )
    _check_held(writer, journal, there)


def _add(source: Source, writer: Writer, journal: Path, line: Line, progress: _Progress, *, begun: bool) -> None:
    """One published file, image by image."""
    with scratch.folder() as folder:
        local = _fetch(source, folder)
        if not begun:
            with disk.writing(journal.parent):
                _append(journal, line)
        with h5py.File(local, "r") as file:
            for image_id in source.ids:
                group = file[image_id]
                with disk.writing(journal.parent):
                    writer.add(source, image_id, group)
                progress.one_more()
    with disk.writing(journal.parent):
        _append(journal, line.model_copy(update={"offset": writer.commit(source)}))


def renew(dataset: str, backbone: str, revision: str | None, form: str, out: Path, tell: Tell) -> Exported:
    """As `run`; an export that is outdated is made anew, and takes the old one's place once it is whole.

    Raises as `run` does, but for Outdated.
    """
    anew, before = out.with_name(f"{out.name}.new"), out.with_name(f"{out.name}.old")
    with _alone_in(out, dataset, backbone, form):
        for left in (anew, before):  # by an attempt that was cut off; it may be outdated, too
            if left.exists():
                shutil.rmtree(left)
        try:
            return _export(dataset, backbone, revision, form, out, tell)
        except Outdated:
            anew.mkdir()
            done = _export(dataset, backbone, revision, form, anew, tell)
            out.rename(before)
            anew.rename(out)
            shutil.rmtree(before)
            return done


def _images(planned: list[Source], names: Container[str] | None = None) -> int:
    return sum(len(source.ids) for source in planned if names is None or source.name in names)


def _written(journal: Path, form: str, name: str, planned: list[Source]) -> tuple[set[str], dict[str, int]]:
    """The sources that were begun, and the offsets of those that are done.

    New files may have come since, but what was written, be it a part of a source, must still be so.
    Raises ExportFailed.
    """
    lines = _lines(journal) if journal.exists() else []
    wanted = {source.name: source.digest for source in planned}
    for line in lines:
        if (line.form, line.feature_set) != (form, name):
            raise ExportFailed(
                f"{journal.parent} holds an export of {line.feature_set} as {line.form}, asked is {name} as {form}; "
                "choose another folder"
            )
        if wanted.get(line.source) != line.digest:
            raise Outdated(
                f"{journal.parent} holds images of {line.source} that have been replaced or removed since; "
                "choose another folder, or remove this one"
            )
    done = {line.source: line.offset for line in lines if line.offset is not None}
    return {line.source for line in lines}, done


def _lines(journal: Path) -> list[Line]:
    """What the journal says; a last line that was cut off is removed: the next one would be written behind it.

    Raises ExportFailed when it is another kind of file.
    """
    data = journal.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    refused = ExportFailed(f"{journal} is no journal of an export; choose another folder")
    if not data.startswith(LINE[: len(data)]):
        raise refused
    try:
        lines = [Line.model_validate_json(text) for text in whole.splitlines()]
    except ValidationError as error:
        raise refused from error
    os.truncate(journal, len(whole))
    return lines


def _check_held(writer: Writer, journal: Path, there: list[Source]) -> None:
    for source in there:
        if not writer.holds(source):
            raise ExportFailed(
                f"{journal.parent}: what was exported of {source.name} is gone although {journal.name} counts it as "
                f"exported; remove {journal.parent} to export anew, or choose another folder"
            )


def _append(journal: Path, line: Line) -> None:
    with journal.open("a") as file:
        file.write(line.model_dump_json() + "\n")
        file.flush()
        os.fsync(file.fileno())


def _fetch(source: Source, folder: Path) -> Path:
    local = folder / "source.h5"
    storage.download(source.uri, local)
    found = sha256_of(local)
    if found != source.sha256:
        raise ExportFailed(
            f"{source.uri} has SHA-256 {found}, registered is {source.sha256}: the object was altered; "
            "`featurise verify` lists all such objects"
        )
    return local
