"""One image's group read with HDF5's own calls, and checked against the contract's layout on the way.

h5py's convenient objects would take ten times as long for this many small arrays.
"""

from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5g, h5s

from extractor.core.contract import Field, Regions, as_float32, stored_type


def read(file: h5py.File, image_id: str, fields: Sequence[Field]) -> tuple[Regions | None, list[str]]:
    """An image's arrays; or what is wrong with its layout: exactly these datasets, of the contract's types and shapes.

    Raises KeyError, OSError, RuntimeError or ValueError when HDF5 cannot read it.
    """
    group = h5g.open(file.id, image_id.encode())
    try:
        datasets = {field.name: h5d.open(group, field.name.encode()) for field in fields}
    except KeyError:
        datasets = {}
    if len(datasets) != group.get_num_objs():
        return None, _names(file[image_id], fields)
    wrong: list[str] = []
    rows = (datasets["features"].shape or (0,))[0]
    arrays: dict[str, Any] = {}
    for field in fields:
        dataset, shape = datasets[field.name], field.shape_for(rows)
        if dataset.shape != shape or not dataset.get_type().equal(stored_type(field.dtype.str)):
            found = f"{dataset.dtype} {list(dataset.shape)}"
            wrong.append(f"{field.name} is {found}, expected {field.dtype} {list(shape)}")
            continue
        array = np.empty(shape, field.dtype)
        dataset.read(h5s.ALL, h5s.ALL, array, stored_type(field.dtype.str))
        arrays[field.name] = array if shape else int(array)
    if wrong:
        return None, wrong
    return Regions(**arrays | {"features": as_float32(arrays["features"])}), []


def _names(found: h5py.Group, fields: Sequence[Field]) -> list[str]:
    wanted = {field.name for field in fields}
    wrong = [f"{name} is missing" for name in sorted(wanted - found.keys())]
    wrong += [f"{name} is no field of this feature set" for name in sorted(found.keys() - wanted)]
    present = sorted(wanted & found.keys())
    return wrong + [f"{name} is no dataset" for name in present if not isinstance(found[name], h5py.Dataset)]
