"""The boxes that a user gives for the images of a listing: what they make of an image's version, and where they lie."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from extractor.core import storage
from extractor.core.given import BoxIndex, Lines, digest, dumped
from extractor.core.given import GivenBoxes as OfImage
from extractor.core.manifest import Entry, Given, etag_with
from extractor.core.storage import ObjectInfo
from featurise.declaration import batches
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.objects import layout
from featurise.steps.discover.diff import NO_BOXES_GIVEN


class Fresh(Entry):
    """One new image, a line of a manifest. `batch` is its own: a late image's is earlier than the run's."""

    batch: str


class GivenBoxes:
    """The boxes that a feature set's declaration names; of one whose network finds its own, nothing."""

    def versioned(self, item: ObjectInfo) -> ObjectInfo:
        """A listed image as the registry knows it: with its boxes, another one when either changes."""
        return item

    def placed(self, image: Fresh) -> Fresh:
        """A new image with the place of its boxes, which are written there."""
        return image

    def upload(self) -> None:
        """Put the boxes of all new images at their place.

        Raises storage.StorageError.
        """


class OfFile(GivenBoxes):
    """The boxes of a file, looked up by image; those of new images go into one file of the run."""

    def __init__(self, run: Run, index: BoxIndex, lines: Path, file: BinaryIO) -> None:
        self._spec, self._index, self._path, self._file = run.spec, index, lines, file
        self._uri = layout.given(run)
        self._lines = Lines(file, self._uri)

    def versioned(self, item: ObjectInfo) -> ObjectInfo:
        """See `GivenBoxes.versioned`; the etag of an image without boxes is `diff.NO_BOXES_GIVEN`."""
        found = self._of(item.key)
        if found is None or not (found.boxes or self._spec.boxes.with_global):
            return replace(item, etag=NO_BOXES_GIVEN)
        line = dumped(found)
        given = Given(start=0, length=len(line), boxes=len(found.boxes), sha256=digest(line))
        return replace(item, etag=etag_with(item.etag, given))

    def placed(self, image: Fresh) -> Fresh:
        """See `GivenBoxes.placed`."""
        found = self._of(image.key)
        return image if found is None else image.model_copy(update={"given": self._lines.add(found)})

    def upload(self) -> None:
        """See `GivenBoxes.upload`."""
        self._file.flush()
        storage.upload(self._path, self._uri)

    def _of(self, key: str) -> OfImage | None:
        spec: FeatureSetSpec = self._spec
        name = batches.image_id_of(spec, key, batches.of_key(spec, key))
        return self._index.of(key, name, key.removeprefix(spec.prefix))


@contextmanager
def opened(run: Run, folder: Path) -> Iterator[GivenBoxes]:
    """The boxes that a run's declaration names, read into a folder of this machine.

    Raises storage.NotFound, storage.StorageError, or BoxesInvalid naming the image and the row.
    """
    boxes = run.spec.boxes
    if boxes.given is None or boxes.format is None or boxes.coordinates is None:
        yield GivenBoxes()
        return
    index, lines = BoxIndex.read(boxes.given, boxes.format, boxes.coordinates, folder), folder / "boxes.jsonl"
    try:
        with lines.open("wb") as file:
            yield OfFile(run, index, lines, file)
    finally:
        index.close()
