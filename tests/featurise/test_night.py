"""Whole nights, step by step, on a real store and both registries."""

import json

from extractor.core import storage
from extractor.core.manifest import ImageIds
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.export.source import sources
from featurise.objects import layout
from featurise.registry.session import reading

DAY = "2026-11-23"


def test_a_night_publishes_every_image_once_and_says_so(night, upload, spec: FeatureSetSpec, extract):
    upload({f"{DAY}/{n}.jpg": f"image {n}".encode() for n in range(9)} | {f"{DAY}/x.jpg": b"bad"})
    found = night()
    assert (found.found, found.fresh, found.done) == (10, 10, 0)
    view = json.loads(storage.read_bytes(layout.latest(spec)))
    assert view["images"] == 9
    assert view["synthetic"] is True
    assert sum(file["images"] for file in view["files"]) == 9
    assert len(extract.made) == 9
    again = night(run_id="manual")
    assert (again.fresh, again.done, again.rejected) == (0, 9, 1)
    assert len(extract.made) == 9
    assert not [item.key for item in storage.listing(f"s3://{spec.bucket}/work/") if "shard" in item.key]


def test_a_night_of_bad_images_only_ends_well(night, upload, spec: FeatureSetSpec):
    upload({f"{DAY}/{n}.jpg": f"bad {n}".encode() for n in range(3)})
    night()
    view = json.loads(storage.read_bytes(layout.latest(spec)))
    assert (view["images"], view["files"]) == (0, [])
    assert night(run_id="again").rejected == 3


def test_ids_made_of_paths_keep_images_of_one_name_apart(night, upload, spec: FeatureSetSpec, extract):
    paths = spec.model_copy(update={"image_ids": ImageIds.PATH})
    upload({f"{DAY}/x/1.jpg": b"one", f"{DAY}/y/1.jpg": b"another"})
    assert night(of=paths).fresh == 2
    with reading() as connection:
        ids = {image_id for source in sources(connection, 1) for image_id in source.ids}
    assert ids == {f"{DAY}%2Fx%2F1.jpg", f"{DAY}%2Fy%2F1.jpg"}


def test_results_may_go_to_another_bucket(night, upload, spec: FeatureSetSpec, extract):
    other = f"{spec.bucket}-results"
    storage.client().create_bucket(Bucket=other)
    elsewhere = spec.model_copy(update={"outputs": spec.outputs.model_copy(update={"bucket": other})})
    upload({f"{DAY}/a.jpg": b"a"})
    night(of=elsewhere)
    assert len(extract.made) == 1
    assert [item.key for item in storage.listing(f"s3://{spec.bucket}")] == [f"{spec.prefix}{DAY}/a.jpg"]
    assert json.loads(storage.read_bytes(layout.latest(elsewhere)))["images"] == 1


def test_one_night_after_another_makes_files_side_by_side(night, upload, spec: FeatureSetSpec):
    for day in ("2026-11-21", "2026-11-22", DAY):
        upload({f"{day}/{day}.jpg": day.encode()})
        night(day)
    view = json.loads(storage.read_bytes(layout.latest(spec)))
    assert [file["batch"] for file in view["files"]] == ["2026-11-21", "2026-11-22", DAY]
    assert view["images"] == 3
