"""A feature set as a training set of torch: at random by id (`Regions`), or streamed file by file (`RegionStream`)."""

import random
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from featurise_reader.feature_set import FeatureSet, Image

FIELDS = ("features", "boxes", "num_boxes", "img_w", "img_h", "obj_id", "obj_conf", "box_flags")
Sample = dict[str, Any]


def sample(image: Image, max_boxes: int, locations: int = 5) -> Sample:
    """An image as tensors of one shape for all images, so that the default collate makes batches of them.

    `image_id` (str), `features` (max_boxes, 2048) float32, `boxes` (max_boxes, 4) float32 in absolute pixels x1 y1 x2
    y2, `locations` (max_boxes, 5 or 7) float32 as `normalised` says, `objects` (max_boxes) int64, `mask` (max_boxes)
    bool, `size` (2) int64: width and height in pixels. Rows beyond the image's boxes are zeros, and False in `mask`,
    and so are given boxes that are none (`Image.box_flags`), whose features are NaN; an image of more boxes keeps its
    first ones.
    """
    rows = min(len(image.features), max_boxes)
    sound = image.sound[:rows]
    mask = np.zeros(max_boxes, bool)
    mask[:rows] = sound

    def padded(values: np.ndarray[Any, Any]) -> torch.Tensor:
        made = np.zeros((max_boxes, *values.shape[1:]), values.dtype)
        made[:rows][sound] = values[:rows][sound]
        return torch.from_numpy(made)

    return {
        "image_id": image.image_id,
        "features": padded(image.features),
        "boxes": padded(image.boxes),
        "locations": padded(image.locations(locations)),
        "objects": padded(image.obj_id),
        "mask": torch.from_numpy(mask),
        "size": torch.tensor([image.img_w, image.img_h]),
    }


class Regions(Dataset[Sample]):
    """Images by their place in the feature set's order; for samplers that choose at random. See `sample`."""

    def __init__(self, feature_set: FeatureSet, max_boxes: int = 36, locations: int = 5) -> None:
        self.feature_set, self.max_boxes, self.locations = feature_set, max_boxes, locations
        self._places = feature_set.places()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Sample:
        image = self.feature_set.at(int(self._places[number]), FIELDS)
        return sample(image, self.max_boxes, self.locations)


class RegionStream(IterableDataset[Sample]):
    """Images file after file, the next files fetched meanwhile; for buckets, and disks that seek slowly. See `sample`.

    Every image comes once an epoch, whatever the number of DataLoader workers and of processes (`rank` of `world`):
    they share the files. `shuffle` changes the order of the files and of the images in each, by `seed` and epoch.
    """

    def __init__(
        self,
        feature_set: FeatureSet,
        max_boxes: int = 36,
        locations: int = 5,
        *,
        shuffle: bool = False,
        seed: int = 0,
        prefetch: int = 2,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.feature_set, self.max_boxes, self.locations = feature_set, max_boxes, locations
        self.shuffle, self.seed, self.prefetch, self.rank, self.world = shuffle, seed, prefetch, rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose another order; to be called before an epoch's iteration starts."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.feature_set)

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        workers, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
        files = list(self.feature_set.by_file().items())
        order = random.Random(f"{self.seed} {self.epoch}")
        if self.shuffle:
            order.shuffle(files)
        mine = files[self.rank * workers + number :: self.world * workers]
        with tempfile.TemporaryDirectory() as folder:
            for (_, places), path in self._fetched(mine, Path(folder)):
                rows = places.tolist()
                if self.shuffle:
                    order.shuffle(rows)
                with h5py.File(path, "r") as file:
                    for place in rows:
                        yield sample(self.feature_set.at(place, FIELDS, file), self.max_boxes, self.locations)

    def _fetched(self, files: Sequence[tuple[str, Any]], folder: Path) -> Iterator[tuple[tuple[str, Any], Path]]:
        """Each file on this disk, some of them fetched ahead; without a cache, removed behind the reader."""
        own = self.feature_set.copied_to(folder)
        with ThreadPoolExecutor(max(self.prefetch, 1)) as pool:
            try:
                coming: list[Future[Path]] = []
                for place, file in enumerate(files):
                    for ahead in files[len(coming) : place + self.prefetch + 1]:
                        coming.append(pool.submit(own.path_of, ahead[0]))
                    path = coming[place].result()
                    yield file, path
                    if folder in path.parents:
                        path.unlink()
            finally:
                pool.shutdown(cancel_futures=True)
