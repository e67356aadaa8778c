"""The HDF5 contract: what is written is read, and what is no region table is refused."""

import dataclasses

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractor.core import contract
from extractor.core.contract import Regions


def regions(rows: int, *, attributes: bool, probabilities: bool) -> Regions:
    random = np.random.default_rng(rows)
    return Regions(
        features=random.random((rows, 2048), np.float32),
        boxes=random.random((rows, 4), np.float32),
        obj_id=random.integers(0, 1600, rows),
        obj_conf=random.random(rows, np.float32),
        num_boxes=rows,
        img_w=640,
        img_h=427,
        attr_id=random.integers(0, 400, rows) if attributes else None,
        attr_conf=random.random(rows, np.float32) if attributes else None,
        cls_prob=random.random((rows, 1600), np.float32) if probabilities else None,
    )


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(0, 12),
    attributes=st.booleans(),
    probabilities=st.booleans(),
    image_id=st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1).filter(
        lambda name: name.strip(".")
    ),
)
def test_what_is_written_is_read(rows, attributes, probabilities, image_id):
    expected = regions(rows, attributes=attributes, probabilities=probabilities)
    with h5py.File("memory.h5", "w", driver="core", backing_store=False) as file:
        contract.write_image(file, image_id, expected)
        found = contract.read_image(file[image_id])
        assert {name: (data.dtype, data.shape) for name, data in file[image_id].items()} == {
            field.name: (field.dtype, field.shape_for(rows)) for field in expected.fields
        }
    for name, value in dataclasses.asdict(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value, strict=isinstance(value, np.ndarray))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"features": np.zeros((3, 2048), np.float64)}, "one/features is float64"),
        ({"boxes": np.zeros((2, 4), np.float32)}, r"one/boxes is float32 \[2, 4\], expected float32 \[3, 4\]"),
        ({"obj_id": np.zeros(3, np.int32)}, "one/obj_id is int32"),
    ],
)
def test_other_dtypes_and_shapes_are_refused(tmp_path, change, text):
    wrong = dataclasses.replace(regions(3, attributes=True, probabilities=False), **change)
    with h5py.File(tmp_path / "f.h5", "w") as file, pytest.raises(ValueError, match=text):
        contract.write_image(file, "one", wrong)


def test_size_of_an_image_is_known_before_it_is_written(tmp_path):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        for n in range(50):
            contract.write_image(file, str(n), regions(36, attributes=True, probabilities=False))
    announced = 50 * contract.image_bytes(36, contract.fields(attributes=True))
    assert 0.9 * announced <= path.stat().st_size <= announced
