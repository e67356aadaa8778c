"""The reader's package, as a researcher who has the bucket, or a copy of it, uses it."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featurise_reader
from extractor.core import storage
from featurise.declaration.feature_set import FeatureSetSpec, Weights
from featurise.objects import layout
from featurise_reader import NotFound, ReaderError

DAY, NEXT = "2026-11-22", "2026-11-23"
ROOT = Path(__file__).parents[2]
WITH_TORCH = ROOT / "images/extractor/.venv/bin/python"
pytestmark = [
    pytest.mark.usefixtures("registry"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]


def address(spec: FeatureSetSpec) -> str:
    return f"s3://{spec.bucket}/features/birds/resnet101"


def copied(spec: FeatureSetSpec, folder: Path) -> Path:
    prefix = storage.split(layout.features(spec))[1]
    for item in storage.listing(f"{layout.features(spec)}/"):
        (folder / item.key.removeprefix(f"{prefix}/")).parent.mkdir(parents=True, exist_ok=True)
        storage.download(f"s3://{spec.bucket}/{item.key}", folder / item.key.removeprefix(f"{prefix}/"))
    return folder


def with_torch(code: str, *arguments: str) -> Any:
    """What a program prints, as JSON, in an environment that has torch and Pillow."""
    done = subprocess.run([WITH_TORCH, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_image_is_found_by_its_id_with_all_that_is_known_of_it(spec, featurised, extract, tmp_path):
    opened = [
        featurise_reader.open(address(spec)),
        featurise_reader.open(address(spec), cache=tmp_path / "cache"),
        featurise_reader.open(copied(spec, tmp_path / "copy")),
    ]
    for fs in (*opened, pickle.loads(pickle.dumps(opened[0]))):
        assert (fs.name, fs.synthetic, fs.ids) == (spec.feature_set, True, sorted(featurised))
        assert ("late" in fs, "nobody" in fs) == (True, False)
        for name, data in featurised.items():
            image, expected = fs[name], extract.find(data)
            for field in ("features", "boxes", "obj_id", "obj_conf", "attr_id", "attr_conf"):
                np.testing.assert_array_equal(getattr(image, field), getattr(expected, field))
            assert (image.img_w, image.img_h, image.num_boxes) == (640, 480, 36)
        facts = fs["late"].provenance
        assert (facts["key"], facts["batch"], facts["backbone"]) == (f"{spec.prefix}{NEXT}/late.jpg", NEXT, "resnet101")
    with pytest.raises(NotFound, match=r"version \d+, has no image 'nobody'; ids look like 'bird_0'"):
        opened[0]["nobody"]


def test_replaced_and_deleted_images_count_no_more_and_are_there_as_of_then(spec, featurised, upload, night, extract):
    before = featurise_reader.open(address(spec))
    upload({f"{DAY}/bird_0.jpg": b"replaced", f"{DAY}/very_late.jpg": b"very late"})
    storage.delete([f"s3://{spec.bucket}/{spec.prefix}{DAY}/bird_1.jpg"])
    night(NEXT, run_id="again")
    now = featurise_reader.open(address(spec))
    assert set(now.ids) == {*featurised, "very_late"} - {"bird_1"}
    np.testing.assert_array_equal(now["bird_0"].features, extract.find(b"replaced").features)
    then = now.as_of(before.version)
    assert then.ids == before.ids
    for name, data in featurised.items():
        np.testing.assert_array_equal(then[name].features, extract.find(data).features)
    with pytest.raises(NotFound, match="no such object"):
        now.as_of(999)


def test_a_selection_keeps_its_order(spec, featurised, tmp_path):
    fs = featurise_reader.open(address(spec))
    (tmp_path / "ids").write_text("late\nbird_4\nbird_1\n")
    chosen = fs.select(tmp_path / "ids")
    assert (chosen.ids, len(chosen), "bird_0" in chosen) == (["late", "bird_4", "bird_1"], 3, False)
    assert list(chosen) == chosen.ids
    with pytest.raises(NotFound, match=r"2 of 3 ids have no image .* 'x', 'y'"):
        fs.select(["late", "x", "y"])


def test_an_address_that_names_too_little_or_nothing_says_what_is_there(spec, featurised, night):
    night(NEXT, of=spec.model_copy(update={"weights": Weights(uri="s3://models/new/", sha256="b" * 64)}))
    with pytest.raises(ReaderError, match=rf"holds 2 revisions: add one of .*{spec.revision}"):
        featurise_reader.open(address(spec))
    with pytest.raises(NotFound, match=r"holds no catalogue of a feature set; expected .*, below it lie resnet101"):
        featurise_reader.open(f"s3://{spec.bucket}/features/birds")
    with pytest.raises(NotFound, match="holds no catalogue"):
        featurise_reader.open("/nowhere")


def test_a_copy_that_was_altered_is_refused(spec, featurised, tmp_path):
    fs = featurise_reader.open(address(spec), cache=tmp_path)
    uri = f"{layout.features(spec)}/{fs['late'].provenance['file']}"
    data = storage.read_bytes(uri)
    storage.write_bytes(uri, data[:-1] + bytes([data[-1] ^ 1]))
    shutil.rmtree(tmp_path)
    with pytest.raises(ReaderError, match=r"the catalogue says .*: it was altered"):
        featurise_reader.open(address(spec), cache=tmp_path)["late"]


def test_locations_are_shares_of_the_image():
    boxes = np.array([[10, 20, 110, 70]], np.float32)
    five = featurise_reader.normalised(boxes, 200, 100, 5)
    np.testing.assert_allclose(five, [[0.05, 0.2, 0.55, 0.7, 0.25]], rtol=1e-6)
    seven = featurise_reader.normalised(boxes, 200, 100, 7)
    np.testing.assert_allclose(seven, [[0.05, 0.2, 0.55, 0.7, 0.5, 0.5, 0.25]], rtol=1e-6)
    with pytest.raises(ValueError, match="6 numbers for a box; expected 5"):
        featurise_reader.normalised(boxes, 200, 100, 6)


TRAIN = """
import json, sys
import featurise_reader, torch
from featurise_reader.torch import RegionStream, Regions
fs = featurise_reader.open(sys.argv[1])
stream = RegionStream(fs, max_boxes=40, locations=7, shuffle=True, seed=1)
def epoch(number, workers):
    stream.set_epoch(number)
    return [name for batch in torch.utils.data.DataLoader(stream, 2, num_workers=workers) for name in batch["image_id"]]
batch = next(iter(torch.utils.data.DataLoader(Regions(fs, max_boxes=40), 2, num_workers=1)))
shares = [RegionStream(fs, rank=rank, world=2) for rank in range(2)]
print(json.dumps({
    "epochs": [epoch(0, 0), epoch(0, 0), epoch(1, 0)], "workers": epoch(0, 3),
    "shared": [sample["image_id"] for share in shares for sample in share],
    "shapes": {name: list(value.shape) for name, value in batch.items() if name != "image_id"},
    "rows": int(batch["mask"].sum()), "beyond": float(batch["features"][:, 36:].abs().sum()), "ids": batch["image_id"],
}))
"""


def test_torch_gets_every_image_once_an_epoch_padded_to_one_shape(spec, featurised, tmp_path):
    found = with_torch(TRAIN, address(spec))
    first, again, second = found["epochs"]
    assert (first, sorted(first)) == (again, sorted(featurised))
    assert (second != first, sorted(second)) == (True, sorted(featurised))
    assert sorted(found["workers"]) == sorted(found["shared"]) == sorted(featurised)
    assert found["ids"] == sorted(featurised)[:2]
    assert found["shapes"] == {
        "features": [2, 40, 2048],
        "boxes": [2, 40, 4],
        "locations": [2, 40, 5],
        "objects": [2, 40],
        "mask": [2, 40],
        "size": [2, 2],
    }
    assert (found["rows"], found["beyond"]) == (72, 0.0)


MASK = """
import json, sys
import featurise_reader
from featurise_reader.torch import Regions
found = Regions(featurise_reader.open(sys.argv[1]), max_boxes=4)[0]
print(json.dumps({"mask": found["mask"].tolist(), "sums": found["features"].sum(1).tolist()}))
"""


def test_given_boxes_have_their_ids_and_those_that_are_none_are_masked(upload, night, give, given):
    upload({f"{DAY}/a.jpg": b"a"})
    give(a=[[10, 20, 100, 200], [600, 400, 0, 100], [5, 5, 50, 50]])
    night(DAY, of=given)
    fs = featurise_reader.open(address(given))
    image = fs["a"]
    assert (image.box_ids.tolist(), image.box_flags.tolist()) == ([b"0", b"1", b"2"], [0, 2, 0])
    assert image.sound.tolist() == np.isfinite(image.features).all(axis=1).tolist() == [True, False, True]
    found = with_torch(MASK, address(given))
    assert found["mask"] == [True, False, True, False]
    np.testing.assert_allclose(found["sums"], [*np.where(image.sound, image.features.sum(axis=1), 0).tolist(), 0])


DRAW = """
import json, sys
import featurise_reader, numpy
from PIL import Image
fs = featurise_reader.open(sys.argv[1])
drawn = fs.show("a", image=Image.new("RGB", (640, 480)), classes=[f"class {n}" for n in range(1600)], most=1)
seen = numpy.argwhere(numpy.asarray(drawn).any(axis=2))
try:
    fs.show("a", image=Image.new("RGB", (8, 8)))
except featurise_reader.ReaderError as error:
    print(json.dumps([seen.min(axis=0).tolist(), seen.max(axis=0).tolist(), str(error)]))
"""


def test_boxes_are_drawn_with_their_classes(upload, night, give, given):
    upload({f"{DAY}/a.jpg": b"a"})
    give(a=[[600, 400, 0, 100], [10, 20, 100, 200]])
    night(DAY, of=given)
    first, last, refused = with_torch(DRAW, address(given))
    assert refused == "a is 640 x 480 pixels, the image given (8, 8)"
    assert np.abs(np.array([*first, *last]) - [20, 10, 220, 110]).max() <= 1  # half of the line's width


def test_the_way_from_installation_to_training_is_as_the_page_says(spec, featurised):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "reader/README.md").read_text(), re.DOTALL)
    script = block.replace("s3://bucket/features/photos/resnet101", address(spec))
    assert script != block
    guarded = f"if __name__ == '__main__':\n{re.sub('^', '    ', script, flags=re.MULTILINE)}"
    done = subprocess.run([WITH_TORCH, "-c", guarded], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    name, _, count, word = done.stdout.splitlines()[0].split()
    assert (name, count, word) == (spec.feature_set, "7", "SYNTHETIC")
    assert [line.split()[0] for line in done.stdout.splitlines()[-2:]] == ["0", "1"]


def test_the_example_notebook_runs_from_its_first_cell_to_its_last(spec, upload, night, extract, tmp_path):
    photo = (ROOT / "tests/golden/images/china.jpg").read_bytes()
    find = extract.find
    extract.find = lambda data: find(data, height=427)  # as china.jpg has it
    upload({f"{DAY}/china.jpg": photo} | {f"{DAY}/later_{n}.jpg": str(n).encode() for n in range(4)})
    night(DAY)
    notebook = json.loads((ROOT / "reader/example.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    script = "\n".join(["import os", f"os.environ['FEATURES'] = {address(spec)!r}", *cells])
    done = subprocess.run([WITH_TORCH, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert told[0].startswith(f"{spec.feature_set} version")
    assert [line.split()[:2] for line in told[-4:-2]] == [["epoch", "0"], ["epoch", "1"]]
    assert told[-2:] == ["10 samples of 5 images", "True"]


def test_the_reader_needs_neither_airflow_nor_the_registry():
    code = "import sys, featurise_reader; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"airflow", "featurise", "sqlalchemy", "extractor", "torch", "pydantic"} & set(loaded)


def test_no_thread_of_a_library_is_left_that_could_abort_a_process_at_its_end(spec, featurised, tmp_path):
    code = """if True:
        import os, sys
        import featurise_reader
        import pyarrow.parquet
        from featurise.objects import catalogue

        def threads():
            return len(os.listdir("/proc/self/task"))

        before = threads()
        read = len(featurise_reader.open(sys.argv[1]).ids)
        listed = sum(len(catalogue.rows(sys.argv[2], one)) for one in catalogue.version(sys.argv[2]).segments)
        print(read, listed, threads() - before)
    """
    arguments = [str(copied(spec, tmp_path)), layout.features(spec)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(featurised)), str(len(featurised)), "0"]
