"""The formats that are installed: one class each, found by entry point, so that another package can bring its own."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points

from featurise.export.selection import ExportFailed
from featurise.export.writer import Writer


@cache
def formats() -> Mapping[str, type[Writer]]:
    """The formats by name."""
    found = {point.name: point.load() for point in entry_points(group="featurise.formats")}
    return dict(sorted(found.items()))


def named(form: str) -> type[Writer]:
    """The writer of a format.

    Raises ExportFailed when there is none of that name.
    """
    if form not in formats():
        raise ExportFailed(f"there is no format {form!r}; expected one of {', '.join(formats())}")
    return formats()[form]
