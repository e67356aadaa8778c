"""Looks through a checkpoint before torch reads it: does it hold tensors and nothing else, and no more than its bytes?

torch's `weights_only` runs no code from a file, and sets no bound on time or memory: a record of an archive may unpack
to a thousand times its size, and a pickle may ask for any amount of either. What passes here is then read by torch.
"""

import errno
import io
import mmap
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, is_zipfile

import torch

from extractor.core.pickle_machine import Admitted, Allowance, Named, PickleRefused, copied, read, shown

MAGIC = 0x1950A86A20F9469CFC6C
"""The first number in a file of the years before torch 1.6."""
REBUILT = (
    *("_rebuild_parameter", "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_sparse_tensor"),
    *("_rebuild_qtensor", "_rebuild_meta_tensor_no_storage"),
)
"""What torch's own reader calls to make tensors, of those that a checkpoint can have."""


class _Dictionary(dict[Any, Any]):
    """An OrderedDict; the attributes that torch gives one, a state's versions, change nothing."""

    def built_from(self, allowance: Allowance, state: object) -> None:
        """Pass over them."""


class _Opaque:
    """In place of what torch makes: nothing is known of it here, and nothing may be done with it."""

    __slots__ = ()


def _opaque(*_: object) -> _Opaque:
    return _Opaque()


_PLAIN = (torch.dtype, torch.layout, torch.qscheme)
TENSORS: Admitted = {
    ("collections", "OrderedDict"): Named(lambda allowance, *items: _Dictionary(copied(allowance, *items))),
    ("collections", "Counter"): Named(lambda allowance, *items: _Dictionary(copied(allowance, *items))),
    **{("torch._utils", name): Named(_opaque) for name in REBUILT},
    **{("torch", name): Named(_opaque) for name in ("Size", "device")},
    **{("torch", name): Named(_opaque) for name, value in vars(torch).items() if isinstance(value, _PLAIN)},
    **{("torch", name): Named(_opaque) for name in vars(torch) if name.endswith("Storage")},
    ("torch.serialization", "_get_layout"): Named(_opaque),
}


def check(path: Path) -> None:
    """Refuse what is no checkpoint, or would take more than a checkpoint of its size does.

    Raises PickleRefused; OSError when the file cannot be read.
    """
    size = path.stat().st_size
    try:
        if is_zipfile(path):
            with ZipFile(path) as archive:
                _check_archive(archive, size)
        else:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                _check_stream(content)
    # An unknown compression is a NotImplementedError of zipfile.
    except (BadZipFile, NotImplementedError, ValueError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # damage names places before the file's start
            raise
        raise PickleRefused(f"damaged ({shown(error)})") from error


def _check_archive(archive: ZipFile, size: int) -> None:
    records = archive.infolist()
    # torch looks records up without regard to case.
    names = {record.filename.lower() for record in records}
    if len(names) < len(records):
        raise PickleRefused("an archive with two records of one name")
    if packed := [record.filename for record in records if record.compress_type != ZIP_STORED]:
        raise PickleRefused(f"an archive with a compressed record ({packed[0]}); torch.save writes them as they are")
    if sum(record.file_size for record in records) > size:
        raise PickleRefused(f"an archive whose records add up to more than its {size:,} bytes")
    programs = [record for record in records if record.filename.lower().endswith("data.pkl")]
    if len(programs) != 1:
        raise PickleRefused(f"an archive with {len(programs)} records data.pkl; expected one")
    program = archive.read(programs[0])
    read(io.BytesIO(program), len(program), TENSORS, _opaque)


def _check_stream(file: mmap.mmap) -> None:
    """A file of the years before torch 1.6: five pickles one after the other, then the numbers."""
    size = len(file)
    if read(file, size, {}) != MAGIC:
        raise PickleRefused("neither an archive nor a file as torch.save wrote it before version 1.6")
    sizes: dict[object, int] = {}

    def storage(identity: Any) -> _Opaque:
        kind, _type, key, _place, count, *_view = identity
        if kind != "storage" or type(key) is not str or type(count) is not int or count < 0:
            raise PickleRefused("it refers to an object outside the file that is no storage")
        sizes[key] = count
        return _Opaque()

    for admitted in ({}, {}, TENSORS, {}):
        read(file, size, admitted, storage)
    if sum(sizes.values()) > size:
        raise PickleRefused(f"it announces {sum(sizes.values()):,} numbers in {size:,} bytes")
