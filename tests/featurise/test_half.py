"""Features that are stored as float16, through a night, its exports and the reader."""

import h5py
import numpy as np
import pytest
from consumers import READERS
from exporting import export
from steps import discovered, planned

import featurise_reader
from extractor.core import storage
from featurise.declaration.feature_set import FeatureSetSpec, Outputs
from featurise.declaration.run import Run
from featurise.export import formats
from featurise.objects import layout
from featurise.registry import coverage
from featurise.registry.session import reading
from featurise.steps import extract as job
from featurise.steps.validate.step import ValidationFailed

DAY = "2026-11-23"
pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def half(spec: FeatureSetSpec) -> FeatureSetSpec:
    """The same dataset, stored in half the size."""
    return spec.model_copy(update={"outputs": Outputs(features_dtype="float16")})


def test_float16_is_another_feature_set_and_float32_the_one_that_it_was(spec, half, upload, registry):
    assert spec.revision != half.revision
    assert spec.revision == "883095738bb1"
    upload({f"{DAY}/1.jpg": b"a"})
    (shard,) = planned(half, discovered(half, DAY, "run"), "run")
    argv = job.specification(Run(half, DAY, "run"), shard, job.Attempt()).argv
    assert argv[argv.index("--features-dtype") + 1] == "float16"


def test_what_is_stored_as_float16_is_read_as_float32_everywhere(half, upload, night, extract, tmp_path):
    upload({f"{DAY}/1.jpg": b"a"})
    night(of=half)
    expected = extract.find(b"a").features.astype(np.float16).astype(np.float32)
    (file,) = [item for item in storage.listing(f"{layout.features(half)}/") if item.key.endswith(".h5")]
    assert file.size < 0.6 * extract.find(b"a").nbytes
    for form, read in READERS.items():
        export(half, form, tmp_path / form)
        features = read(tmp_path / form)["1"]["features"]
        assert features.dtype == np.float32 or form == "parquet", form  # whose reader has Python's floats
        np.testing.assert_array_equal(features, expected, err_msg=form)
        if formats.named(form).halves:
            export(half, form, tmp_path / f"{form} half", half=True)
            np.testing.assert_array_equal(read(tmp_path / f"{form} half")["1"]["features"], expected, err_msg=form)
    with h5py.File(tmp_path / "h5" / "birds.h5") as exported:  # whose readers take the bytes for float32
        assert exported["1/features"].dtype == np.float32
    image = featurise_reader.open(f"s3://{half.bucket}/features/birds/resnet101")["1"]
    assert image.features.dtype == np.float32
    np.testing.assert_array_equal(image.features, expected)


def test_a_file_of_another_dtype_than_declared_is_not_published(spec, half, upload, night, extract, monkeypatch):
    upload({f"{DAY}/1.jpg": b"a"})
    found = extract._found
    monkeypatch.setattr(extract, "_found", lambda _spec, *rest: found(spec, *rest))
    with pytest.raises(ValidationFailed, match=r"1: features is float32 \[36, 2048\], expected float16 \[36, 2048\]"):
        night(of=half)
    with reading() as connection:
        assert not any(day.done for day in coverage.coverage(connection))
