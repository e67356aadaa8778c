"""What is in a feature file, and what a checkpoint is, for people."""

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
from pydantic import BaseModel, ValidationError

from extractor.core import contract, storage
from extractor.core.backbone_specs import box_rule, specs
from extractor.core.exit_codes import UsageError, WeightsInvalid
from extractor.core.weights import resolve


def describe(uri: str, *, first: int = 5) -> str:
    """A feature file's provenance, counts and first images.

    Raises NotFound, StorageError, or UsageError when it is no feature file.
    """
    with opened(uri) as file:
        return "\n".join([uri, *_provenance(file), "", *_images(file, first)])


@contextmanager
def opened(uri: str) -> Iterator[h5py.File]:
    """A feature file to read from.

    Raises NotFound, StorageError, or UsageError when it is no feature file.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(uri)
        if storage.is_s3(uri):
            path = Path(folder) / "file.h5"
            storage.download(uri, path)
        elif not path.is_file():
            raise storage.NotFound(f"{uri}: there is no such file")
        try:
            with h5py.File(path, "r") as file:
                yield file
        except OSError as error:
            raise UsageError(f"{uri}: HDF5 cannot read it ({error}); expected a feature file, whole") from error
        except ValidationError as error:
            missing = ", ".join(str(problem["loc"][0]) for problem in error.errors())
            raise UsageError(
                f"{uri}: its root attributes are not a feature file's; wrong or missing: {missing}"
            ) from error


def _provenance(file: h5py.File) -> Iterable[str]:
    provenance = contract.read_provenance(file)
    if provenance.synthetic:
        yield "  SYNTHETIC WEIGHTS: boxes and labels mean nothing"
    for name, value in provenance.model_dump().items():
        yield f"  {name:<18} {value}"


def _images(file: h5py.File, first: int) -> Iterable[str]:
    boxes = [int(group["num_boxes"][()]) for group in file.values()]
    yield f"{len(boxes)} images, {sum(boxes)} boxes" + (f" ({min(boxes)} to {max(boxes)} an image)" if boxes else "")
    for image_id in list(file)[:first]:
        group = file[image_id]
        yield f"  {image_id}: {group['img_w'][()]} x {group['img_h'][()]} pixels, {group['num_boxes'][()]} boxes"
        for name, found in sorted(group.items()):
            if found.shape:
                yield f"    {name:<10} {found.dtype} {json.dumps(found.shape)}"


class Checked(BaseModel):
    """What a checkpoint is."""

    uri: str
    backbone: str
    synthetic: bool
    sha256: str
    bytes: int
    config: str | None = None
    config_sha256: str | None = None

    def __str__(self) -> str:
        kind = "synthetic weights: boxes and labels mean nothing" if self.synthetic else "trained weights"
        lines = [
            f"{self.uri}: a {self.backbone} checkpoint, {kind}",
            f"  sha256         {self.sha256}",
            f"  bytes          {self.bytes:,}",
        ]
        if self.config is not None:
            lines += [f"  configuration  {self.config}", f"  config sha256  {self.config_sha256}"]
        return "\n".join(lines)


def checkpoint(uri: str, *, backbone: str | None = None, sha256: str | None = None) -> Checked:
    """What a checkpoint is, after loading it as a run would.

    Raises WeightsInvalid when it is not one.
    """
    import torch

    from extractor.backbone import Checkpoint, Options, loader

    name = backbone or _backbone_of(uri)
    found = resolve(name, uri, sha256=sha256)
    options = Options(box_rule(name), torch.device("cpu"))
    loaded = loader(name)(Checkpoint(found.path, found.config), options)
    return Checked(
        uri=uri,
        backbone=name,
        synthetic=loaded.synthetic,
        sha256=found.sha256,
        bytes=found.path.stat().st_size,
        config=found.config.name if found.config is not None else None,
        config_sha256=found.config_sha256,
    )


def _backbone_of(uri: str) -> str:
    """The backbone whose checkpoint's ending a file, or the one such file of a folder, has."""
    endings = {spec.name: Path(spec.checkpoint).suffix for spec in specs().values()}
    names = [uri]
    if not uri.endswith(tuple(endings.values())):
        names = [item.key for item in storage.listing(uri.rstrip("/") + "/")]
    found = [name for name, ending in endings.items() if any(each.endswith(ending) for each in names)]
    if len(found) != 1:
        expected = " or ".join(f"{ending} ({name})" for name, ending in endings.items())
        raise WeightsInvalid(f"{uri}: expected one {expected} checkpoint; name the backbone with --backbone")
    return found[0]
