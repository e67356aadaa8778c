"""An export as the command makes it, and what readers find in it."""

import pickle
from pathlib import Path
from typing import Any

import h5py
import lmdb

from featurise.declaration.feature_set import FeatureSetSpec
from featurise.export import run
from featurise.export.selection import Options

KINDS = ("h5", "lmdb-volta", "npy-mmf", "tsv-lxmert", "tsv-oscar", "parquet", "webdataset")
"""A format of each kind of writer; the others differ from one of these in what an image's entry is."""


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
                found[name] = {image: group["features"][()].tobytes() for image, group in file.items()}
        elif path.is_file() and path.name != "lock.mdb":
            found[name] = path.read_bytes()
    return found
