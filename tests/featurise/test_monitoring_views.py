"""What the monitoring pages read beside attempts: standings, images by how their keys begin, one image's boxes."""

import io

import h5py
import numpy
import pytest

from extractor.core import storage
from featurise.airflow.web import image_views
from featurise.objects import remote_file
from featurise.registry import coverage, image_search, overview
from featurise.registry.session import reading

DAYS = ("2026-11-22", "2026-11-23")


def test_a_feature_set_stands_with_its_sums_and_nights(featurised):
    with reading() as connection:
        (one,) = overview.standings(connection)
        assert overview.standings(connection, {"cats__resnet101"}) == []
        files = {day: overview.published(connection, one.feature_set, day, f"scheduled__{day}") for day in DAYS}
    assert (one.dag_id, one.found, one.done, one.rejected, one.pending) == ("birds__resnet101", 7, 7, 0, 0)
    nights = [(night.batch, night.done, night.pending) for night in one.nights if night.found]
    assert nights == [(DAYS[1], 1, 0), (DAYS[0], 6, 0)]
    assert one.published_at == max(files[DAYS[1]].values())
    assert [len(found) for found in files.values()] == [2, 1]


def test_images_are_found_by_how_their_keys_begin_a_page_at_a_time(featurised):
    def found(*beginnings, **options):
        with reading() as connection:
            return [key.rpartition("/")[2] for key in image_search.keys(connection, beginnings, **options)]

    first = [f"bird_{number}.jpg" for number in range(6)]
    assert found("images/birds/2026-11-22/") == first
    assert found("images/birds/2026-11-22/bird_3", "images/birds/2026-11-23/") == ["bird_3.jpg", "late.jpg"]
    assert found("images/birds/", size=2) == first[:2]
    assert found("images/birds/", size=2, after=f"images/birds/{DAYS[0]}/bird_1.jpg") == first[2:4]
    assert found("images/cats/") == found("images/birds/", dag_ids=frozenset()) == []
    assert found("100%_") == []


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_one_image_is_read_out_of_a_file_where_it_lies(featurised):
    with reading() as connection:
        (place,) = coverage.places(connection, "bird_3")
    read = remote_file.detections(place.uri, place.image_id)
    assert (len(read.boxes), read.width > 0, read.height > 0) == (place.boxes, True, True)
    assert len(read.classes) == len(read.confidences) == len(read.attributes) == place.boxes
    assert remote_file.detections(place.uri, "another") is None
    assert remote_file.detections(f"{place.uri}.gone", "bird_3") is None


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_damaged_file_is_an_error_that_the_page_knows(featurised, bucket):
    uri = f"s3://{bucket}/damaged.h5"
    storage.write_bytes(uri, b"no HDF5")
    with pytest.raises(OSError, match="signature"):
        remote_file.detections(uri, "bird_3")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_an_image_s_features_are_saved_as_they_lie_in_the_file(featurised, tmp_path):
    with reading() as connection:
        places = image_views.places(connection, "bird_3", frozenset({"birds__resnet101"}))
    (place,) = places
    data = image_views.download(places, place.feature_set)
    saved = numpy.load(io.BytesIO(data), allow_pickle=False)
    storage.download(place.uri, tmp_path / "file.h5")
    with h5py.File(tmp_path / "file.h5") as file:
        held = {name: field[()] for name, field in file[place.image_id].items()}
    assert set(saved.files) == set(held) >= {"features", "boxes", "obj_id"}
    assert all((saved[name] == held[name]).all() for name in held)
    assert saved["features"].shape[1] == 2048
    assert image_views.download(places, "another") is None
    assert image_views.download([], place.feature_set) is None
