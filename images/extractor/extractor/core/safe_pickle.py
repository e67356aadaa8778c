"""Pickles of unknown origin: numpy arrays and plain containers come out, anything else is refused before it is made.

The machine hands out the stand-ins below under the names of numpy's functions: they check every argument, and keep no
state from one file to the next.
"""

import math
import mmap
import re
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from extractor.core.pickle_machine import Admitted, Allowance, Named, PickleRefused, copied, read, shown

_NUMBER = re.compile(r"[?]|b1|[biu][1248]|f[248]|c8|c16")


def load(path: Path) -> Any:
    """The content of a pickle: plain containers, strings, bytes, numbers, numpy arrays and scalars of numbers.

    An OrderedDict becomes a dict. Text of Python 2 is read as latin-1, as array bytes are stored there.
    Raises PickleRefused; OSError when the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            # A map reads like a file; an empty file has none, and is no pickle.
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return read(content, len(content), ARRAYS)
        except PickleRefused as error:
            raise PickleRefused(f"{path}: {error}") from error
        except ValueError as error:
            raise PickleRefused(f"{path}: not a whole pickle: {shown(error)}") from error


class _Dtype:
    """A stand-in for numpy.dtype: a kind of number and its byte order."""

    __slots__ = ("_dtype",)

    def __init__(self, _: Allowance, code: object = None, *__: object) -> None:
        if not isinstance(code, str) or not _NUMBER.fullmatch(code):
            raise PickleRefused(
                f"it holds an array of type {shown(code)}; expected numbers (objects may run code when they are read)"
            )
        self._dtype = np.dtype(code)

    def built_from(self, _: Allowance, state: tuple[Any, ...]) -> None:
        """Set the byte order."""
        _version, order, subarray, names, fields, *_sizes = state
        plain = subarray is names is fields is None
        if not (plain and isinstance(order, str) and order in {"<", ">", "|", "="}):
            raise PickleRefused("it holds an array of structures; expected numbers")
        self._dtype = self._dtype.newbyteorder(order)  # type: ignore[arg-type]  # one of four

    @staticmethod
    def of(value: object) -> np.dtype[Any]:
        """The dtype that a stand-in stands for."""
        if not isinstance(value, _Dtype):
            raise PickleRefused(f"it gives an array the type {type(value).__name__}; expected a numpy.dtype of numbers")
        return value._dtype


class _Array(np.ndarray):
    """An array whose content may arrive later, as numpy pickles it: shape, dtype, order and bytes."""

    def built_from(self, allowance: Allowance, state: tuple[Any, ...]) -> None:
        """Set shape, dtype and content."""
        _version, shape, dtype, fortran, content = state
        raw = _raw(allowance, content)
        found = _sized(shape, _Dtype.of(dtype), raw)
        allowance.copy(len(raw))
        super().__setstate__((1, shape, found, bool(fortran), raw))  # type: ignore[arg-type]


def _raw(allowance: Allowance, content: object) -> Any:
    """Bytes as they are, and Python 2's as bytes."""
    return _encode(allowance, content, "latin1") if isinstance(content, str) else content


def _sized(shape: object, dtype: np.dtype[Any], raw: object) -> np.dtype[Any]:
    """The dtype, once shape and bytes are found to agree."""
    if not isinstance(shape, tuple) or len(shape) > 64 or not all(type(side) is int and side >= 0 for side in shape):
        raise PickleRefused("it gives an array a shape that is none; expected at most 64 whole numbers")
    if not isinstance(raw, bytes | bytearray) or len(raw) != math.prod(shape) * dtype.itemsize:
        raise PickleRefused(
            f"an array of shape {shown(str(shape))} and type {dtype} does not have the bytes that that takes"
        )
    return dtype


def _reconstruct(_: Allowance, kind: object, *__: object) -> _Array:
    if kind is not _NDARRAY:
        raise PickleRefused("it holds a subclass of numpy.ndarray; expected plain arrays")
    return _Array((0,), np.int8)


def _from_buffer(_: Allowance, raw: Any, dtype: object, shape: Any, order: object) -> np.ndarray[Any, Any]:
    found = _sized(shape, _Dtype.of(dtype), raw)
    return np.frombuffer(raw, found).reshape(shape, order="F" if isinstance(order, str) and order == "F" else "C")


def _scalar(allowance: Allowance, dtype: object, content: object) -> np.generic:
    raw = _raw(allowance, content)
    scalar: np.generic = np.frombuffer(raw, _sized((), _Dtype.of(dtype), raw))[0]
    return scalar


def _encode(allowance: Allowance, text: object, encoding: object) -> bytes:
    """What pickles of protocol 2 call to write bytes."""
    if not isinstance(text, str) or not isinstance(encoding, str) or encoding != "latin1":
        raise PickleRefused(f"it encodes text as {shown(encoding)}; expected bytes written as latin1")
    allowance.copy(len(text))
    return text.encode("latin1")


def _no_bytes(_: Allowance) -> bytes:
    """How protocol 2 writes no bytes at all."""
    return b""


def _dictionary(allowance: Allowance, *items: object) -> dict[Any, Any]:
    return dict(copied(allowance, *items))


def _not_called(*_: object) -> NoReturn:
    raise PickleRefused("it makes an array without bytes; refused")


_NDARRAY = Named(_not_called)
ARRAYS: Admitted = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): Named(_Dtype),
    ("_codecs", "encode"): Named(_encode),
    ("__builtin__", "bytes"): Named(_no_bytes),
    ("collections", "OrderedDict"): Named(_dictionary),
    **{  # the module's name before numpy 2, and since
        (f"{core}.{module}", name): Named(make)
        for core in ("numpy.core", "numpy._core")
        for module, name, make in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}
