"""Pickles of numpy arrays that numpy 1 reads too: researchers' environments are years old."""

import io
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

NEW, OLD = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"


def dumps(value: Any) -> bytes:
    """A pickle in protocol 3, in which modules stand as plain text, with the name that every numpy knows.

    The name stands at the first array, and later ones refer to it: nothing behind it is searched, which would take a
    sixth of an export's time.
    """
    return pickle.dumps(value, protocol=3).replace(NEW, OLD, 1)


def npy(value: Any) -> bytes:
    """A `.npy` file that holds one object, such as a dictionary, as `numpy.save` lays it out."""
    array = np.empty((), dtype=object)
    array[()] = value
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    return file.getvalue() + dumps(array)


def npz(values: Mapping[str, Any]) -> bytes:
    """A `.npz` file of arrays, numbers and dictionaries, as `numpy.savez` lays it out."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, value in values.items():
            array = io.BytesIO()
            if not isinstance(value, dict):
                np.save(array, value)
            archive.writestr(f"{name}.npy", npy(value) if isinstance(value, dict) else array.getvalue())
    return file.getvalue()
