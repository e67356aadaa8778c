"""`featurise init`: a bucket is looked at, and a declaration is written that `featurise check` reads."""

import pytest

from extractor.core import storage
from featurise.cli import app
from featurise.declaration import starter
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.load import Broken, load


def put(bucket: str, *keys: str) -> str:
    for key in keys:
        storage.write_bytes(f"s3://{bucket}/{key}", b"x")
    return f"s3://{bucket}/photos"


@pytest.mark.parametrize(
    ("folder", "pattern"), [("2026-11-{:02d}", "%Y-%m-%d"), ("2026/11/{:02d}", "%Y/%m/%d"), ("202611{:02d}", "%Y%m%d")]
)
def test_folders_of_days_are_recognised_and_declared(bucket, tmp_path, capsys, folder, pattern):
    days = [folder.format(day) for day in (3, 4, 9)]
    uri = put(
        bucket, *(f"photos/{day}/a/{n}.JPG" for day in days for n in range(2)), "photos/loose.png", "photos/x.txt"
    )
    out = tmp_path / "featurise.yaml"
    app(["init", uri, "--out", str(out)], result_action="return_value")
    said = "7 images in 3 folders of days, 2026-11-03 to 2026-11-09; beside them 1, which are left alone"
    assert said in " ".join(capsys.readouterr().out.split())
    assert said in out.read_text()
    missing = load(out)
    assert missing
    assert all(isinstance(one, Broken) and "weights" in one.message for one in missing)
    out.write_text(out.read_text().replace("sha256: }", f"sha256: {'ab' * 32}}}"))
    specs = [one for one in load(out) if isinstance(one, FeatureSetSpec)]
    assert {(one.dataset, one.prefix, one.batches.pattern) for one in specs} == {("photos", "photos/", pattern)}
    assert {"resnet101", "resnext101"} <= {one.backbone for one in specs}
    assert str(specs[0].start_date) == "2026-11-03"


def test_without_folders_of_days_an_image_has_the_day_of_its_last_change(bucket, tmp_path):
    found = starter.look(put(bucket, "photos/a.jpg", "photos/cats/b.jpg"))
    assert starter.told(found).startswith("2 images, and most in no folder of a day")
    out = tmp_path / "featurise.yaml"
    out.write_text(starter.text(found).replace("sha256: }", f"sha256: {'ab' * 32}}}"))
    assert {one.batches.by for one in load(out) if isinstance(one, FeatureSetSpec)} == {"modified"}


def test_a_declaration_that_is_there_stays(bucket, tmp_path):
    out = tmp_path / "featurise.yaml"
    out.write_text("mine")
    with pytest.raises(starter.FeaturiseError, match="is there already, and stays as it is; name another"):
        app(["init", put(bucket, "photos/a.jpg"), "--out", str(out)], result_action="return_value")
    assert out.read_text() == "mine"


def test_a_place_without_images_is_named(bucket):
    with pytest.raises(starter.NothingThere, match="photos: none of 1 objects is named like an image"):
        starter.look(put(bucket, "photos/notes.txt"))
