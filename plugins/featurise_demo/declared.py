"""Which declaration the demo's Airflow reads: `dags/featurise.yaml`, or that with given boxes."""

import tempfile
from pathlib import Path

import yaml

from extractor.core.box_files import BoxFormat, Coordinates
from extractor.core.given import BoxIndex
from featurise_demo import state

DECLARATION = state.ROOT / "dags/featurise.yaml"
DATASET = "photos"


def check(given: Path | None) -> None:
    """Read annotations once, before anything is started.

    Raises storage.NotFound, or BoxesInvalid naming the image and the row.
    """
    if given is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        BoxIndex.read(str(given), BoxFormat.COCO, Coordinates.XYWH, Path(folder)).close()


def declaration(folder: Path, given: Path | None) -> Path:
    """The declaration's file: the repository's, or a copy in `folder` whose boxes are those of COCO annotations."""
    if given is None:
        return DECLARATION
    declared = yaml.safe_load(DECLARATION.read_text())
    boxes = {"given": str(given.absolute()), "format": BoxFormat.COCO.value, "coordinates": Coordinates.XYWH.value}
    declared["datasets"][DATASET]["boxes"] = boxes
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "featurise.yaml"
    file.write_text(yaml.safe_dump(declared, sort_keys=False))
    return file
