"""Ids that mmf's readers would confuse, found before anything is written: afterwards they give wrong features."""

from collections.abc import Iterator, Sequence

from featurise.export.selection import ExportFailed
from featurise.export.source import Source


def check_lmdb(sources: Sequence[Source]) -> None:
    """mmf's LMDB reader first tries the integer behind the last `_` of a path as the key.

    Raises ExportFailed when that is another image's id.
    """
    ids = {image_id for source in sources for image_id in source.ids}
    numbers = ((one, _number(one)) for one in ids)
    _refuse("lmdb-mmf", ((one, other) for one, other in numbers if other is not None and other != one and other in ids))


def check_files(sources: Sequence[Source]) -> None:
    """mmf's file reader takes `<id>_info.npy` for the facts of `<id>`, and ends a path at its first `.npy`.

    Raises ExportFailed when that is another image's file.
    """
    ids = {image_id for source in sources for image_id in source.ids}
    _refuse("npy-mmf", ((f"{one}_info", one) for one in ids if f"{one}_info" in ids))
    _refuse("npy-mmf", ((one, one.split(".npy")[0]) for one in ids if ".npy" in one))


def _number(image_id: str) -> str | None:
    try:
        return str(int(image_id.split("_")[-1]))
    except ValueError:
        return None


def _refuse(form: str, confused: Iterator[tuple[str, str]]) -> None:
    specs = sorted(confused)
    if specs:
        shown = "; ".join(f"{one!r} for {other!r}" for one, other in specs[:5])
        raise ExportFailed(
            f"{form}: mmf would take one image for another in {len(specs)} cases ({shown}); export in another format, "
            "or choose --id-form path"
        )
