"""One HDF5 file for all images: meshed-memory's `coco_detections.hdf5`, and M3P's, whose arrays hold all images.

A crash while an HDF5 file is written may spoil it, so published files are kept beside it as pieces, and become the one
file once all are there.
"""

import shutil
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np

from extractor.core import contract
from extractor.core.contract import Regions
from featurise.export import disk, selection, writer
from featurise.export.selection import ExportFailed, Options
from featurise.export.source import Source
from featurise.export.writer import Extends, Writer

Found = Iterator[tuple[str, Regions]]
"""Images with their ids."""


class _OneFile(Writer):
    extends = Extends.BY_RENEWAL
    halves = True
    suffix: ClassVar[str]

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int, options: Options) -> None:
        super().__init__(folder, dataset, sources, offset, options)
        self._open: h5py.File | None = None

    @classmethod
    def targets(cls, dataset: str, options: Options) -> tuple[str, ...]:
        del options
        return (f"{dataset}{cls.suffix}",)

    @abstractmethod
    def fill(self, file: h5py.File, found: Found) -> None:
        """Write all images to the one file."""

    @abstractmethod
    def ids(self, file: h5py.File) -> frozenset[str]:
        """The images of the one file."""

    def holds(self, source: Source) -> bool:
        return self._piece(source).exists() or self._there.issuperset(source.ids)

    def take(self, source: Source, file: Path) -> bool:
        with h5py.File(file, "r") as found:
            if source.found_under is not None or len(found) != len(source.ids):
                return False
        self._pieces.mkdir(exist_ok=True)
        disk.move(file, self._piece(source))
        return True

    def add(self, source: Source, image_id: str, group: h5py.Group) -> None:
        found = self.regions(source, image_id, group)
        if self._open is None:
            self._pieces.mkdir(exist_ok=True)
            self._open = contract.create(self._partial(source))
        with disk.room_to_close(self._partial(source)):
            contract.write_image(self._open, selection.encoded(image_id), found)

    def commit(self, source: Source) -> int:
        if self._open is not None:
            with disk.room_to_close(self._partial(source)):
                self._open.close()
            self._open = None
            disk.sync(self._partial(source))
            self._partial(source).replace(self._piece(source))
        return 0

    def close(self) -> None:
        if not self._target.exists():  # else the pieces alone are left of an attempt that was cut off here
            partial = self._target.with_name(f".{self._target.name}.partial")
            with disk.room_to_close(partial), h5py.File(partial, "w", libver=disk.MANY) as file:
                self.fill(file, self._images())
            disk.sync(partial)
            partial.replace(self._target)
        shutil.rmtree(self._pieces, ignore_errors=True)

    def release(self) -> None:
        if self._open is not None:
            with suppress(OSError, RuntimeError):  # what is still to be written does not matter, and may find no room
                self._open.close()

    def _images(self) -> Found:
        for source in self.sources:
            with h5py.File(self._piece(source), "r") as piece:
                for image_id in source.ids:
                    name = image_id if image_id in piece else selection.encoded(image_id)
                    yield image_id, self.regions(source, image_id, piece[name])

    def _features(self, found: Regions) -> np.ndarray[Any, Any]:
        return found.features.astype(np.float16) if self.options.half else found.features

    @cached_property
    def _there(self) -> frozenset[str]:
        if not self._target.exists():
            return frozenset()
        with h5py.File(self._target, "r") as file:
            return self.ids(file)

    @property
    def _target(self) -> Path:
        return self.folder / f"{self.dataset}{self.suffix}"

    @property
    def _pieces(self) -> Path:
        return self.folder / f".{self.dataset}.pieces"

    def _piece(self, source: Source) -> Path:
        return self._pieces / f"{source.name}.h5"

    def _partial(self, source: Source) -> Path:
        return self._pieces / f".{source.name}.h5.partial"


class MeshedMemory(_OneFile):
    """Writer of `<dataset>_detections.hdf5`: `<id>_features`, `<id>_boxes`, and `<id>_cls_prob` where there are any.

    Its readers take random numbers for an image that they do not find, so ids must be as they ask for them.
    """

    numbers = True
    suffix = "_detections.hdf5"

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int, options: Options) -> None:
        super().__init__(folder, dataset, sources, offset, options)
        writer.check_numbers("h5-meshed-memory", sources)

    def fill(self, file: h5py.File, found: Found) -> None:
        for image_id, each in found:
            file[f"{image_id}_features"] = self._features(each)
            file[f"{image_id}_boxes"] = each.boxes
            if each.cls_prob is not None:
                file[f"{image_id}_cls_prob"] = each.cls_prob

    def ids(self, file: h5py.File) -> frozenset[str]:
        return frozenset(name.removesuffix("_features") for name in file if name.endswith("_features"))


class M3p(_OneFile):
    """Writer of `<dataset>.h5`: `image_id`, `wh` (height and width, in that order), `num_boxes`, arrays of all rows.

    Ids are integers where all are, as M3P takes COCO's, else UTF-8. Its reader takes as many rows of each image and
    knows of none that is padding, so all must have as many.
    """

    equal_rows = True
    ordered = True
    suffix = ".h5"

    def fill(self, file: h5py.File, found: Found) -> None:
        ids = [image_id for source in self.sources for image_id in source.ids]
        numbers = all(writer.NUMBER.fullmatch(image_id) for image_id in ids)
        kind = np.dtype(np.int64) if numbers else h5py.string_dtype()
        file.create_dataset("image_id", data=[int(each) for each in ids] if numbers else ids, dtype=kind)
        for place, (image_id, each) in enumerate(found):
            values: dict[str, np.ndarray[Any, Any]] = {
                "wh": np.array([each.img_h, each.img_w]),
                "num_boxes": np.array(each.num_boxes),
                "bbox": each.boxes,
                "objects": each.obj_id,
                "features": self._features(each),
            }
            for name, value in values.items():
                if not place:
                    file.create_dataset(name, (len(ids), *value.shape), value.dtype)
                if value.shape != file[name].shape[1:]:
                    raise ExportFailed(
                        f"{image_id} has {len(each.features)} rows, others have {file['features'].shape[1]}, and "
                        "M3P's reader takes as many of each; export in another format"
                    )
                file[name][place] = value

    def ids(self, file: h5py.File) -> frozenset[str]:
        return frozenset(each.decode() if isinstance(each, bytes) else str(each) for each in file["image_id"][()])
