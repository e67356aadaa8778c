"""Readers of exports, each after its consumer's own: what that takes from its files, and how.

The sources that are named are those of the projects' public repositories.
"""

import base64
import io
import json
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import lmdb
import numpy as np
import pyarrow.parquet as parquet

Found = dict[str, Any]


def h5(folder: Path) -> Mapping[str, Found]:
    """IGLUE's and VOLTA's converters: each group of the one file is an image."""
    with h5py.File(folder / "birds.h5") as file:
        return {
            name: {
                "features": group["features"][()],
                "boxes": group["boxes"][()],
                "size": (int(group["img_w"][()]), int(group["img_h"][()])),
                "flags": group["box_flags"][()] if "box_flags" in group else None,
            }
            for name, group in file.items()
        }


def volta(folder: Path) -> Mapping[str, Found]:
    """VOLTA's `volta/datasets/_image_features_reader.py`, without its second attempts."""
    found = {}
    for name, item in _lightning(folder / "birds_feat.lmdb"):
        features = np.frombuffer(base64.b64decode(item["features"]), np.float32).reshape(int(item["num_boxes"]), -1)
        boxes = np.frombuffer(base64.b64decode(item["boxes"]), np.float32).reshape(-1, 4)
        size = (int(item["img_w"]), int(item["img_h"]))
        found[name] = {"features": features, "boxes": boxes, "size": size, "flags": item.get("box_flags")}
    return found


def mmf_lmdb(folder: Path) -> Mapping[str, Found]:
    """mmf's `databases/readers/feature_readers.py`, `LMDBFeatureReader`."""
    return {name: _of_mmf(item["features"], item) for name, item in _lightning(folder / "birds.lmdb")}


def mmf_npy(folder: Path) -> Mapping[str, Found]:
    """The same module's `PaddedFasterRCNNFeatureReader`: features, and beside them what is known of them."""
    found = {}
    for path in (folder / "birds").rglob("*_info.npy"):
        features = np.load(path.with_name(path.name.replace("_info", "")))
        name = path.relative_to(folder / "birds").as_posix().removesuffix("_info.npy")
        found[name] = _of_mmf(features, np.load(path, allow_pickle=True).item())
    return found


def _of_mmf(features: Any, info: Mapping[str, Any]) -> Found:
    assert len(features) == info["num_boxes"]
    size = (info["image_width"], info["image_height"])
    return {"features": features, "boxes": info["bbox"], "size": size, "flags": info.get("box_flags")}


def _lightning(place: Path) -> list[tuple[str, Found]]:
    with lmdb.open(str(place), readonly=True, lock=False) as environment, environment.begin() as look:
        return [(key.decode(), pickle.loads(look.get(key))) for key in pickle.loads(look.get(b"keys"))]


def lxmert(folder: Path) -> Mapping[str, Found]:
    """LXMERT's `src/utils.py`, `load_obj_tsv`."""
    names = ("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes")
    found = {}
    for line in (folder / "birds_obj.tsv").read_text().splitlines():
        item: dict[str, Any] = dict(zip((*names, "boxes", "features"), line.split("\t"), strict=True))
        rows = int(item["num_boxes"])
        for field in ("boxes", "features"):
            item[field] = np.frombuffer(base64.b64decode(item[field]), np.float32).reshape(rows, -1)
        size = (int(item["img_w"]), int(item["img_h"]))
        found[item["img_id"]] = {"features": item["features"], "boxes": item["boxes"], "size": size}
    return found


def caffe(folder: Path) -> Mapping[str, Found]:
    """Self-critical's `scripts/make_bu_data.py`, VL-BERT and others read bottom-up-attention's columns like this."""
    found = {}
    for line in (folder / "birds_obj.tsv").read_text().splitlines():
        names = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
        item: dict[str, Any] = dict(zip(names, line.split("\t"), strict=True))
        rows = int(item["num_boxes"])
        for field in ("boxes", "features"):
            item[field] = np.frombuffer(base64.decodebytes(item[field].encode()), np.float32).reshape(rows, -1)
        size = (int(item["image_w"]), int(item["image_h"]))
        found[str(int(item["image_id"]))] = {"features": item["features"], "boxes": item["boxes"], "size": size}
    return found


def npz(folder: Path) -> Mapping[str, Found]:
    """bottom-up-attention.pytorch's `utils/extract_utils.py`, which writes it."""
    found = {}
    for path in (folder / "birds").rglob("*.npz"):
        with np.load(path, allow_pickle=True) as item:
            assert item["info"].item()["num_boxes"] == item["num_bbox"] == len(item["bbox"])
            size = (int(item["image_w"]), int(item["image_h"]))
            name = path.relative_to(folder / "birds").as_posix().removesuffix(".npz")
            flags = item["info"].item().get("box_flags")
            found[name] = {"features": item["x"], "boxes": item["bbox"], "size": size, "flags": flags}
    return found


def openvqa(folder: Path) -> Mapping[str, Found]:
    """openvqa's `core/base_dataset.py` and mcan's `core/data/data_utils.py` take `x` transposed."""
    return {name: {**item, "features": item["features"].transpose((1, 0))} for name, item in npz(folder).items()}


def uniter(folder: Path) -> Mapping[str, Found]:
    """UNITER's `data/data.py`: `DetectFeatLmdb` with `compress`, and the seventh number that `_get_img_feat` adds."""
    found = {}
    place = str(folder / "birds" / "all_compressed")
    with lmdb.open(place, readonly=True, create=False) as environment, environment.begin(buffers=True) as look:
        for name in json.loads(bytes(look.get(b"__keys__")).decode()):
            item = np.load(io.BytesIO(look.get(name.encode())), allow_pickle=True)
            features = item["features"].astype(np.float32)[: len(item["conf"])]
            boxes = item["norm_bb"].astype(np.float32)
            seven = np.concatenate([boxes, boxes[:, 4:5] * boxes[:, 5:]], axis=1)
            found[name.removesuffix(".npz")] = {"features": features, "locations": seven}
    return found


def vilbert(folder: Path) -> Mapping[str, Found]:
    """ViLBERT-MT's (12-in-1) `vilbert/datasets/_image_features_reader.py`."""
    found = {}
    for name, item in _lightning(folder / "birds.lmdb"):
        rows, size = int(item["num_boxes"]), (int(item["image_w"]), int(item["image_h"]))
        features = np.frombuffer(base64.b64decode(item["features"]), np.float32).reshape(rows, 2048)
        boxes = np.frombuffer(base64.b64decode(item["boxes"]), np.float32).reshape(rows, 4)
        assert item["image_id"] == name
        found[name] = {"features": features, "boxes": boxes, "size": size}
    return found


def oscar(folder: Path) -> Mapping[str, Found]:
    """Oscar's `utils/tsv_file.py`, which seeks a line by `lineidx`, and `run_captioning.py`, which decodes it."""
    found: dict[str, Found] = {}
    offsets = [int(line) for line in (folder / "birds.features.lineidx").read_text().splitlines()]
    with (folder / "birds.features.tsv").open() as table:
        for offset in offsets:
            table.seek(offset)
            name, text = [part.strip() for part in table.readline().split("\t")]
            item = json.loads(text)
            wide = np.frombuffer(base64.b64decode(item["features"]), np.float32).reshape(item["num_boxes"], -1)
            assert wide.shape[1] == 2054
            found[name] = {"features": wide[:, :2048], "locations": wide[:, 2048:]}
    offsets = [int(line) for line in (folder / "birds.label.lineidx").read_text().splitlines()]
    with (folder / "birds.label.tsv").open() as table:
        for offset, known in zip(offsets, found, strict=True):  # it seeks both by the number of an image's line
            table.seek(offset)
            name, text = [part.strip() for part in table.readline().split("\t")]
            label = json.loads(text)
            assert (name, len(label)) == (known, len(found[name]["features"]))
            found[name]["boxes"] = np.array([one["rect"] for one in label], np.float32)
            found[name]["classes"] = [one["class"] for one in label]
    return found


def hugging_face(folder: Path) -> Mapping[str, Found]:
    """`datasets.load_dataset("parquet", data_files=…)`: row groups are read one by one."""
    found = {}
    for path in sorted((folder / "birds").glob("*.parquet")):
        file = parquet.ParquetFile(path)
        assert max(file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)) <= 8
        column = file.metadata.row_group(0).column(4)
        assert (column.compression, column.has_dictionary_page) == ("UNCOMPRESSED", False)
        for number in range(file.num_row_groups):
            for row in file.read_row_group(number).to_pylist():
                features = np.array(row["features"])
                size = (row["img_w"], row["img_h"])
                boxes, flags = np.array(row["boxes"]), row.get("box_flags")
                found[row["image_id"]] = {"features": features, "boxes": boxes, "size": size, "flags": flags}
    return found


def webdataset(folder: Path) -> Mapping[str, Found]:
    """webdataset's `tariterators.py`: files that follow each other with one key, up to the first dot, are a sample."""
    found: dict[str, Found] = {}
    names = None
    for path in sorted((folder / "birds").glob("*.tar")):
        samples: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                place, _, base = member.name.rpartition("/")
                key, _, suffix = base.partition(".")
                file = tar.extractfile(member)
                samples.setdefault(f"{place}/{key}", {})[suffix] = file.read() if file else b""
        for sample in samples.values():
            facts = json.loads(sample["json"], parse_constant=_no_json)
            assert names in (None, (sample.keys(), facts.keys()))
            names = (sample.keys(), facts.keys())
            features, boxes = (np.load(io.BytesIO(sample[name])) for name in ("features.npy", "boxes.npy"))
            size = (facts["img_w"], facts["img_h"])
            flags = facts.get("box_flags")
            found[facts["image_id"]] = {"features": features, "boxes": boxes, "size": size, "flags": flags}
    return found


def _no_json(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def m3p(folder: Path) -> Mapping[str, Found]:
    """M3P's `src/data/dataset_finetune.py`: `precess_reload`, and `get_img_feature` without its normalisation."""
    with h5py.File(folder / "birds.h5") as file:
        ids, sizes = file["image_id"][:], file["wh"][:].astype(np.float32)
        boxes, features, objects = file["bbox"][:], file["features"][:], file["objects"][:]
        assert objects.shape == features.shape[:2]
        assert list(file["num_boxes"][:]) == [features.shape[1]] * len(ids)
    found = {}
    for place, each in enumerate(ids):
        height, width = sizes[place]
        name = str(each, encoding="utf8") if isinstance(each, bytes) else str(each)
        found[name] = {"features": features[place], "boxes": boxes[place], "size": (width, height)}
    return found


def meshed_memory(folder: Path) -> Mapping[str, Found]:
    """meshed-memory transformer's `data/field.py`, `ImageDetectionsField`; it asks for names by integers."""
    found = {}
    with h5py.File(folder / "birds_detections.hdf5") as file:
        for number in [int(name.split("_")[0]) for name in file if name.endswith("_features")]:
            features, boxes = file[f"{number}_features"][()], file[f"{number}_boxes"][()]
            found[str(number)] = {"features": features.astype(np.float32), "boxes": boxes, "size": (640, 480)}
    return found


READERS = {
    "h5": h5,
    "h5-m3p": m3p,
    "h5-meshed-memory": meshed_memory,
    "lmdb-mmf": mmf_lmdb,
    "lmdb-volta": volta,
    "npy-mmf": mmf_npy,
    "tsv-lxmert": lxmert,
    "tsv-caffe": caffe,
    "npz": npz,
    "npz-openvqa": openvqa,
    "lmdb-uniter": uniter,
    "lmdb-vilbert-mt": vilbert,
    "tsv-oscar": oscar,
    "parquet": hugging_face,
    "webdataset": webdataset,
}
"""By format. mmf's own code reads its two in `test_export`."""
