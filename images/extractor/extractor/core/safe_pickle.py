"""Pickles of unknown origin: numpy arrays and plain containers come out, anything else is refused before it is made.

A pickle is a program that may call any importable object. This reader lets it name only what a file of arrays names,
and hands out stand-ins of its own under those names: they check every argument and keep no state from one file to the
next.
"""

import math
import mmap
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

_NUMBER = re.compile(r"[?]|b1|[biu][1248]|f[248]|c8|c16")
MAX_STEPS = 100_000
"""Instructions of the longest pickle that is read; one of arrays takes about 25 for each."""

_MEMOS = ("PUT", "BINPUT", "LONG_BINPUT")


class Refused(Exception):
    """Raised when a file is no pickle, a damaged one, or one of something else than numbers in plain containers."""


def load(path: Path) -> Any:
    """The content of a pickle: plain containers, strings, bytes, numbers, numpy arrays and scalars of numbers.

    An OrderedDict becomes a dict. Text of Python 2 is read as latin-1, as array bytes are stored there.
    Raises Refused; OSError when the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                _check_steps(content)
            return _Restricted(file, encoding="latin1").load()
        except (Refused, OSError, MemoryError):
            raise
        except Exception as error:  # unpickling does what the bytes say, and raises whatever comes of that
            raise Refused(f"{path}: not a whole pickle: {type(error).__name__}: {error}") from error


def _check_steps(content: mmap.mmap) -> None:
    """Refuse what would take time or memory out of proportion to the file; arrays are passed over, not looked at.

    A few bytes can name memo place 4,000,000,000, and the unpickler makes room for all before it. Who writes pickles
    numbers them one by one, so that each is at most the number of instructions so far.
    """
    instructions = pickletools.genops(content)  # type: ignore[arg-type]  # a map reads like a file, and copies no more
    for step, (opcode, argument, _) in enumerate(instructions):
        if step == MAX_STEPS:
            raise Refused(f"it has more than {MAX_STEPS:,} instructions; expected arrays, with about 25 for each")
        if opcode.name in _MEMOS and argument is not None and argument > step:
            raise Refused(f"its instruction {step:,} refers to memo place {argument:,}; expected {step:,} at most")


class _Named:
    """A stand-in for an importable callable; a pickle can call it and change nothing about it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: object) -> NoReturn:
        raise Refused("it assigns to a function or class; refused before anything was run")


class _Dtype:
    """A stand-in for numpy.dtype: a kind of number and its byte order."""

    __slots__ = ("_dtype",)

    def __init__(self, code: object = None, *_: object) -> None:
        if not isinstance(code, str) or not _NUMBER.fullmatch(code):
            raise Refused(
                f"it holds an array of type {code!r}; expected numbers (objects may run code when they are read)"
            )
        self._dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, order, subarray, names, fields, *_sizes = state
        if order not in ("<", ">", "|", "=") or (subarray, names, fields) != (None, None, None):
            raise Refused("it holds an array of structures; expected numbers")
        self._dtype = self._dtype.newbyteorder(order)

    @staticmethod
    def of(value: object) -> np.dtype[Any]:
        """The dtype that a stand-in stands for."""
        if not isinstance(value, _Dtype):
            raise Refused(f"it gives an array the type {type(value).__name__}; expected a numpy.dtype of numbers")
        return value._dtype


class _Array(np.ndarray):
    """An array whose content may arrive later, as numpy pickles it: shape, dtype, order and bytes."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, fortran, content = state
        raw = content.encode("latin1") if isinstance(content, str) else content
        found = _sized(shape, _Dtype.of(dtype), raw)
        super().__setstate__((1, shape, found, bool(fortran), raw))  # type: ignore[arg-type]


def _sized(shape: object, dtype: np.dtype[Any], raw: object) -> np.dtype[Any]:
    """The dtype, once shape and bytes are found to agree."""
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise Refused(f"it gives an array the shape {shape!r}")
    if not isinstance(raw, bytes | bytearray) or len(raw) != math.prod(shape) * dtype.itemsize:
        raise Refused(f"an array of shape {shape} and type {dtype} does not have as many bytes as that takes")
    return dtype


def _reconstruct(kind: object, *_: object) -> _Array:
    if kind is not _NDARRAY:
        raise Refused("it holds a subclass of numpy.ndarray; expected plain arrays")
    return _Array((0,), np.int8)


def _from_buffer(raw: Any, dtype: object, shape: Any, order: object) -> np.ndarray[Any, Any]:
    found = _sized(shape, _Dtype.of(dtype), raw)
    return np.frombuffer(raw, found).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: object, raw: Any) -> np.generic:
    content = raw.encode("latin1") if isinstance(raw, str) else raw
    scalar: np.generic = np.frombuffer(content, _sized((), _Dtype.of(dtype), content))[0]
    return scalar


def _encode(text: object, encoding: object) -> bytes:
    """What pickles of protocol 2 call to write bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused(f"it encodes text as {encoding!r}; expected bytes written as latin1")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocol 2 writes no bytes at all."""
    return b""


def _not_called(*_: object) -> NoReturn:
    raise Refused("it makes an array without bytes; refused")


_NDARRAY = _Named(_not_called)
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Named(_Dtype),
    ("_codecs", "encode"): _Named(_encode),
    ("__builtin__", "bytes"): _Named(_no_bytes),
    ("collections", "OrderedDict"): _Named(dict),
}
for _core in ("numpy.core", "numpy._core"):  # the name before numpy 2, and since
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _Named(_reconstruct)
    _ADMITTED[f"{_core}.multiarray", "scalar"] = _Named(_scalar)
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = _Named(_from_buffer)


class _Restricted(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _ADMITTED[module_name, global_name]
        except KeyError:
            raise Refused(
                f"it names {module_name}.{global_name}, for which a file of arrays has no use; refused before it ran"
            ) from None

    def persistent_load(self, _pid: object, /) -> NoReturn:
        raise Refused("it refers to objects outside the file; expected one that is complete in itself")
