"""An export as the command makes it, and what readers find in it."""

import json
import pickle
import subprocess
from pathlib import Path
from typing import Any

import h5py
import lmdb
import pytest

from featurise.declaration.feature_set import FeatureSetSpec
from featurise.export import formats, run
from featurise.export.selection import Options

KINDS = ("h5", "h5-m3p", "lmdb-volta", "npy-mmf", "tsv-lxmert", "tsv-oscar", "parquet", "webdataset")
"""A format of each kind of writer; the others differ from one of these in what an image's entry is."""
EXTRACTOR = Path(__file__).parents[3] / "images/extractor/.venv/bin/python"


def export(spec: FeatureSetSpec, form: str, out: Path, **options: Any) -> run.Exported:
    return run.run(spec.dataset, spec.backbone, None, form, out, lambda done, of: None, Options(**options))


def renew(spec: FeatureSetSpec, form: str, out: Path, **options: Any) -> run.Exported:
    return run.renew(spec.dataset, spec.backbone, None, form, out, lambda done, of: None, Options(**options))


def entries(path: Path) -> tuple[list[bytes], dict[bytes, dict[str, Any]]]:
    with (
        lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False) as environment,
        environment.begin() as look,
    ):
        keys = pickle.loads(look.get(b"keys"))
        return keys, {key: pickle.loads(look.get(key)) for key in keys}


def content(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name == "data.mdb":
            found[name] = {key: repr(item) for key, item in entries(path.parent)[1].items()}
        elif path.suffix == ".h5":
            with h5py.File(path) as file:
                arrays = {key: item["features"] if isinstance(item, h5py.Group) else item for key, item in file.items()}
                found[name] = {key: array[()].tolist() for key, array in arrays.items()}
        elif path.is_file() and path.name != "lock.mdb":
            found[name] = path.read_bytes()
    return found


def cut_off(monkeypatch: pytest.MonkeyPatch, spec: FeatureSetSpec, form: str, out: Path, *, images: int) -> list[str]:
    """An export that ends after this many images; returns their ids."""
    writer, added = formats.named(form), []
    add, take = writer.add, writer.take

    def cut(self, source, image_id, group):
        if len(added) == images:
            raise KeyboardInterrupt
        added.append(image_id)
        add(self, source, image_id, group)

    def take_what_is_left(self, source, file):
        taken = len(added) + len(source.ids) <= images and take(self, source, file)
        added.extend(source.ids if taken else ())
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(writer, "add", cut)
        patch.setattr(writer, "take", take_what_is_left)
        with pytest.raises(KeyboardInterrupt):
            export(spec, form, out)
    return added


READ_WITH_MMF = """
import importlib.util, json, sys, types
from pathlib import Path
root = Path(importlib.util.find_spec("mmf").origin).parent
for name in ("mmf", "mmf.datasets", "mmf.datasets.databases"):
    module = types.ModuleType(name)
    module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
    sys.modules[name] = module
from mmf.datasets.databases.readers.feature_readers import FeatureReader
base, names = sys.argv[1], sys.argv[2:]
reader = FeatureReader(base, depth_first=False, max_features=100)
for name in names:
    features, info = reader.read(f"{name}.npy")
    counts = {"rows": int(info["max_features"]), "boxes": int(info["num_boxes"]), "width": int(info["image_width"])}
    print(json.dumps({"sum": float(features.double().sum()), "bbox": info["bbox"].tolist(), **counts}))
"""


def read_by_mmf(place: Path, *names: str) -> list[dict[str, Any]]:
    """What mmf's own reader finds of these images: the sum of features, boxes, and counts."""
    done = subprocess.run([EXTRACTOR, "-c", READ_WITH_MMF, place, *names], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]
