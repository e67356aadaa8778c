"""Every rule of a shard's file, broken once: the file lies in quarantine, and the first problems are named."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from steps import discovered, planned

from extractor.core import storage
from extractor.core.backbone_specs import box_rule, specs
from extractor.core.contract import Regions
from featurise.declaration.feature_set import Boxes, FeatureSetSpec
from featurise.declaration.run import Run
from featurise.objects import layout
from featurise.registry.statistics import Statistics
from featurise.steps import extract as job
from featurise.steps.plan import Shard
from featurise.steps.validate import drift, rules
from featurise.steps.validate import step as validate
from featurise.steps.validate.shard_file import ValidationReport

DAY, RUN = "2026-11-23", "run"


SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For rules that the registry has no part in."""


@pytest.fixture
def shard(registry, spec: FeatureSetSpec, upload, extract) -> Shard:
    """A shard of three images and one that is none, extracted."""
    upload({f"{DAY}/{name}.jpg": name.encode() for name in "abc"} | {f"{DAY}/x.jpg": b"bad"})
    found = discovered(spec, DAY, RUN)
    (shard,) = planned(spec, found, RUN)
    extract(spec, shard, DAY)
    return shard


def change(shard: Shard, folder: Path, how: Callable[[h5py.File], None]) -> None:
    local = folder / "changed.h5"
    storage.download(job.output(shard), local)
    with h5py.File(local, "r+") as file:
        how(file)
    storage.upload(local, job.output(shard))


def put(name: str, value: object, at: object = 0) -> Callable[[h5py.File], None]:
    def how(file: h5py.File) -> None:
        file["a"][name][at] = value

    return how


def replace(name: str, value: np.ndarray) -> Callable[[h5py.File], None]:
    def how(file: h5py.File) -> None:
        del file["a"][name]
        file["a"][name] = value

    return how


def all_alike(name: str) -> Callable[[h5py.File], None]:
    def how(file: h5py.File) -> None:
        file["a"][name][...] = file["a"][name][0]

    return how


def duplicate_features(file: h5py.File) -> None:
    file["a"]["features"][...] = file["b"]["features"][()]


def without(file: h5py.File) -> None:
    del file["a"]


def stranger(file: h5py.File) -> None:
    file.copy("a", "z")


def extra_field(file: h5py.File) -> None:
    file["a"]["note"] = 1


def missing_field(file: h5py.File) -> None:
    del file["a"]["attr_conf"]


def folder_for_field(file: h5py.File) -> None:
    del file["a"]["attr_conf"]
    file["a"].create_group("attr_conf")


def other_revision(file: h5py.File) -> None:
    file.attrs["revision"] = "000000000000"


def other_rule(file: h5py.File) -> None:
    file.attrs["box_rule"] = '{"max_boxes": 100}'


def other_preprocessing(file: h5py.File) -> None:
    file.attrs["preprocessing"] = "mmf"


def no_provenance(file: h5py.File) -> None:
    del file.attrs["weights_sha256"]


def test_a_good_file_passes_with_its_numbers(spec, shard):
    found = validate.run(Run(spec, DAY, RUN), shard)
    assert (found.images, found.rejects, found.warnings) == (3, 1, [])
    report = ValidationReport.model_validate_json(storage.read_bytes(found.report_uri))
    assert report.statistics.boxes == {36: 3}
    assert report.statistics.mean(report.statistics.norm) > 0
    assert validate.run(Run(spec, DAY, RUN), shard) == found


@SQLITE
@pytest.mark.parametrize(
    ("how", "says"),
    [
        (put("features", np.nan), "a: features of row 0 are not finite"),
        (put("features", 0), "a: features of row 0 are all zero"),
        (put("boxes", (0, 0, 641, 10)), "a: box of row 0 is outside 640 x 480 pixels: 0, 0, 641, 10"),
        (put("boxes", (5, 5, 5, 10)), "a: box of row 0 is without a positive area"),
        (put("boxes", (np.nan, 0, 1, 1)), "a: box of row 0 is outside"),
        (put("obj_conf", 1.5), "a: obj_conf reaches from"),
        (put("attr_conf", 0.002), "a: attr_conf reaches from"),
        (put("features", -0.5), "a: features of row 0 reach down to -0.5, expected none below 0"),
        (all_alike("features"), "a: features of all 36 rows are alike"),
        (all_alike("boxes"), "a: all 36 boxes are alike"),
        (put("obj_conf", 0.9, 35), "a: obj_conf rises from row 34 to the next"),
        (put("obj_id", 1600), "to 1600, expected 0 to 1599"),
        (put("num_boxes", 37, ()), "a: num_boxes is 37 with 36 rows"),
        (put("num_boxes", 35, ()), "a: num_boxes is 35, the index says 36"),
        (put("img_w", 0, ()), "a: the image is 0 x 480 pixels"),
        (replace("boxes", np.zeros((36, 4), np.float64)), "a: boxes is float64 [36, 4], expected float32 [36, 4]"),
        (replace("obj_id", np.zeros(35, np.int64)), "a: obj_id is int64 [35], expected int64 [36]"),
        (duplicate_features, "b has the same features as a, a different image"),
        (without, "a is in the index and not in the file"),
        (stranger, "z is in the file and not in the index"),
        (extra_field, "a: note is no field of this feature set"),
        (missing_field, "a: attr_conf is missing"),
        (folder_for_field, "a: attr_conf is no dataset"),
        (other_revision, "attribute revision is '000000000000', expected"),
        (other_rule, "attribute box_rule is '{\"max_boxes\": 100}', expected"),
        (other_preprocessing, "attribute preprocessing is 'mmf', expected 'iglue'"),
        (no_provenance, "attribute weights_sha256: Field required"),
    ],
)
def test_a_broken_rule_keeps_the_file_from_publication(spec, shard, tmp_path, how, says):
    change(shard, tmp_path, how)
    with pytest.raises(validate.ValidationFailed) as failure:
        validate.run(Run(spec, DAY, RUN), shard)
    assert says in str(failure.value)
    place = layout.quarantine(Run(spec, DAY, RUN), shard.name)
    report = json.loads(storage.read_bytes(f"{place}/report.json"))
    assert any(says in problem for problem in report["problems"])
    assert {item.key.rsplit("/", 1)[1] for item in storage.listing(f"{place}/")} == {
        "report.json",
        f"{shard.name}.h5",
        f"{shard.name}.index.jsonl",
        f"{shard.name}.rejects.jsonl",
        f"{shard.name}.thumbnails.jsonl",
    }
    assert storage.head(job.output(shard)) is None


@SQLITE
@pytest.mark.parametrize(
    ("list_of", "change_lines", "says"),
    [
        (layout.index, lambda lines: lines[1:], "a.jpg is neither in the index nor among the rejects"),
        (layout.index, lambda lines: [*lines, lines[0]], "a.jpg is listed twice"),
        (layout.rejects, lambda lines: [], "x.jpg is neither in the index nor among the rejects"),
        (
            layout.index,
            lambda lines: [lines[0].replace(b'"etag":"', b'"etag":"0'), *lines[1:]],
            "the manifest differs",
        ),
        (layout.index, lambda lines: [lines[0].replace(b"a.jpg", b"q.jpg"), *lines[1:]], "q.jpg is no image of the"),
    ],
)
def test_index_and_rejects_hold_every_image_of_the_manifest_once(spec, shard, list_of, change_lines, says):
    uri = list_of(job.output(shard))
    lines = change_lines(storage.read_bytes(uri).splitlines())
    storage.write_bytes(uri, b"\n".join(lines))
    with pytest.raises(validate.ValidationFailed, match=says):
        validate.run(Run(spec, DAY, RUN), shard)


@SQLITE
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_upload_is_caught(spec, shard, share):
    data = storage.read_bytes(job.output(shard))
    storage.write_bytes(job.output(shard), data[: int(len(data) * share)])
    with pytest.raises(validate.ValidationFailed, match="cannot be read as HDF5"):
        validate.run(Run(spec, DAY, RUN), shard)


@SQLITE
@pytest.mark.parametrize("place", [b"box_rule", b"TREE", b"SNOD", b"GCOL"])
def test_damage_where_the_file_keeps_its_own_order_is_caught(spec, shard, place):
    data = bytearray(storage.read_bytes(job.output(shard)))
    found = data.index(place)
    data[found - 8 : found + 16] = b"\xff" * 24
    storage.write_bytes(job.output(shard), bytes(data))
    with pytest.raises(validate.ValidationFailed):
        validate.run(Run(spec, DAY, RUN), shard)
    assert storage.head(job.output(shard)) is None


@SQLITE
def test_a_few_duplicate_features_among_many_are_a_warning(spec, shard, tmp_path):
    change(shard, tmp_path, duplicate_features)
    lenient = spec.model_copy(update={"limits": spec.limits.model_copy(update={"max_duplicate_share": 0.5})})
    assert validate.run(Run(lenient, DAY, RUN), shard).warnings == ["b has the same features as a, a different image"]


def test_drift_warns_with_numbers_and_fails_beyond_the_limit(spec, upload, night, extract):
    quiet = extract.find
    upload({f"2026-11-20/{n}.jpg": f"old {n}".encode() for n in range(40)})
    night("2026-11-20", of=spec.model_copy(update={"images_per_shard": 100}))

    def louder(factor: float) -> Callable:
        def find(data: bytes):
            found = quiet(data)
            found.features[...] *= factor
            return found

        return find

    extract.find = louder(1.3)
    upload({f"2026-11-21/new {n}.jpg": f"new {n}".encode() for n in range(5)})
    found = discovered(spec, "2026-11-21", RUN, lookback_days=0)
    shards = planned(spec, found, RUN)
    extract(spec, shards[0], "2026-11-21")
    (warning,) = validate.run(Run(spec, "2026-11-21", RUN), shards[0]).warnings
    assert warning.startswith("mean feature norm: ")
    assert re.search(r"over 40 images \(change 3\d%\)", warning)
    extract.find = louder(3)
    extract(spec, shards[1], "2026-11-21")
    with pytest.raises(validate.ValidationFailed, match=r"mean feature norm: .*change [12]\d\d%\); the limit is 50%"):
        validate.run(Run(spec, "2026-11-21", RUN), shards[1])


def statistics(images: int, classes: dict[int, int], boxes: int = 36) -> Statistics:
    found = Statistics(images=images, classes=classes, class_squares=classes, boxes={boxes: images})
    found.norm.total, found.norm.squares = 10.0 * images, 101.0 * images
    return found


def test_drift_of_classes_counts_beyond_chance_only(spec):
    history = statistics(1000, dict.fromkeys(range(100), 360))
    small = statistics(3, dict.fromkeys(range(100), 1) | {0: 9})
    assert drift.compare(small, history, spec.limits) == ([], [])
    warnings, errors = drift.compare(statistics(1000, dict.fromkeys(range(25, 125), 360)), history, spec.limits)
    assert [warning.split(" of the boxes")[0] for warning in warnings] == ["class histogram: 25%"]
    assert "; most moved: 0 1.0% to 0.0%, 1 1.0% to 0.0%, 2 1.0% to 0.0%" in warnings[0]
    names = [f"class {n}" for n in range(1600)]
    moved = statistics(1000, dict.fromkeys(range(100), 360) | {7: 8000})
    (named,), _ = drift.compare(moved, history, spec.limits, names=lambda: names)
    assert "most moved: class 7 1.0% to 18.3%, class 0 1.0% to 0.8%" in named
    assert errors == []
    _, errors = drift.compare(statistics(1000, dict.fromkeys(range(200, 300), 360)), history, spec.limits)
    assert "the limit is 50%" in errors[0]
    assert drift.compare(statistics(1000, {7: 1}), statistics(10, {8: 1}), spec.limits) == ([], []), (
        "too little history"
    )


@pytest.mark.parametrize(
    ("size", "network"),
    [((640, 427), (1216, 800)), ((300, 451), (800, 1216)), ((1600, 200), (1344, 192)), ((40, 30), (1088, 800))],
)
def test_the_padded_input_is_the_references(size, network):
    short = min(size)
    frame = specs()["resnext101"].frame(*size)
    scale = 800 / short if round(800 / short * max(size)) <= 1333 else 1333 / max(size)
    assert [side * scale for side in (frame.width, frame.height)] == pytest.approx(network)


def test_boxes_of_resnext101_may_reach_into_the_padding_and_no_further(spec, extract):
    other = spec.model_copy(update={"backbone": "resnext101"})
    found = extract.find(b"image")
    frame = specs()["resnext101"].frame(640, 480)
    width, height = frame.width, frame.height
    assert width > 640
    found.boxes[0] = (0, 0, np.float32(width) - 1, 400)
    norms = np.linalg.norm(found.features, axis=1)
    assert not list(rules.regions(other, found, norms))
    assert [what[:23] for what in rules.regions(spec, found, norms)] == ["box of row 0 is outside"]
    found.boxes[0] = (0, 0, width + 1, height)
    assert [what[:23] for what in rules.regions(other, found, norms)] == ["box of row 0 is outside"]


@pytest.mark.parametrize(
    ("backbone", "below", "passes"),
    [
        ("resnext101", 0.9, True),
        ("resnext101", 1.0, True),  # the reference keeps a side of nothing, rounded
        ("resnext101", 1.1, False),
        ("resnet101", 0.0, False),
    ],
)
def test_both_edge_pixels_of_the_network_count_in_resnext101_only(spec, extract, backbone, below, passes):
    found = extract.find(b"image")
    side = -below * 480 / 800  # in pixels of an image of 640 x 480
    found.boxes[:2] = (500, 300, 500 + side, 310), (500, 300, 510, 300 + side)
    told = list(rules.regions(spec.model_copy(update={"backbone": backbone}), found, np.ones(len(found.features))))
    assert [what[:39] for what in told] == ([] if passes else ["box of row 0 is without a positive area"])


def with_probabilities(extract, *, background: bool = False) -> tuple[Regions, np.ndarray]:
    """What `resnext101` finds in an image: class and confidence are of the largest probability."""
    found = extract.find(b"image")
    scores = np.random.default_rng(0).gamma(0.01, 1, (36, 1601)).astype(np.float32)
    scores[5] = 0
    scores[5, :2] = 0.9, 0.1  # mostly background
    scores /= scores.sum(axis=1, keepdims=True)
    seen = scores if background else scores[:, 1:]
    facts = {"obj_id": seen.argmax(axis=1), "obj_conf": seen.max(axis=1), "cls_prob": scores[:, 1:].copy()}
    return dataclasses.replace(found, attr_id=None, attr_conf=None, **facts), scores


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize(
    ("row", "change", "says"),
    [
        (0, {}, None),
        (3, {"cls_prob": 0.0}, "cls_prob of row 3 adds up to 0, expected more than 0 and at most 1"),
        (3, {"cls_prob": 3 / 1600}, "cls_prob of row 3 adds up to 3"),
        (3, {"cls_prob": np.nan}, "cls_prob reaches from nan"),
        (3, {"obj_conf": 0.123}, "row 3 is of class .* by 0.123; the largest of its cls_prob is"),
        (3, {"obj_id": 7}, "row 3 is of class 7 by"),
        (5, {"obj_id": 7}, "row 5 is of class 7 by"),
        (5, {"obj_conf": 0.99}, "row 5 is of class . by 0.99"),
    ],
)
def test_class_and_confidence_are_the_largest_probability_s(spec, extract, background, row, change, says):
    rule = box_rule("resnext101", max_boxes=36, background=background)
    other = spec.model_copy(update={"backbone": "resnext101", "boxes": Boxes(max_boxes=36, background=background)})
    assert other.rule == rule
    found, _ = with_probabilities(extract, background=background)
    for name, value in change.items():
        getattr(found, name)[row] = value
    told = list(rules.regions(other, found, np.linalg.norm(found.features, axis=1)))
    assert told == [] if says is None else any(re.match(says, one) for one in told), told


GOLDEN = Path(__file__).parents[1] / "golden"
FOUND = [path for path in GOLDEN.glob("res*/*.npz") if not path.parent.name.endswith("_given")]
WRITTEN = sorted(path for path in FOUND if not path.stem.endswith("_intermediate"))


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_the_references_themselves_found_passes(spec, path):
    """Of class probabilities, golden files keep the five largest of a row."""
    values = np.load(path)
    if path.parent.name == "resnet101":
        names = ("features", "boxes", "obj_id", "obj_conf", "img_w", "img_h", "attr_id", "attr_conf")
        found = Regions(**{name: values[name] for name in names}, num_boxes=36)
    else:
        spec = spec.model_copy(update={"backbone": "resnext101"})
        cls_prob = np.zeros((len(values["features"]), 1600), np.float32)
        best, largest = values["cls_prob_top5_idx"].astype(np.int64), values["cls_prob_top5"]
        np.put_along_axis(cls_prob, best, largest, axis=1)
        found = Regions(
            values["features"],
            values["bbox"],
            values["objects"],
            largest[:, 0],
            int(values["num_boxes"]),
            int(values["image_width"]),
            int(values["image_height"]),
            cls_prob=cls_prob,
        )
    assert list(rules.regions(spec, found, np.linalg.norm(found.features, axis=1))) == []
