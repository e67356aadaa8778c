"""Fields under the names that they had before: accepted for one release, with a warning."""

import warnings
from collections.abc import Mapping
from typing import Any

FORMER = {"look_back_days": "lookback_days", "max_twin_share": "max_duplicate_share"}
"""Until 0.2: former names and those that the fields have now."""


class FormerName(FutureWarning):
    """Told when a field is given under the name that it had before."""


def replaced(data: Any) -> Any:
    """The same data with every field under the name that it has now.

    Raises ValueError when one mapping gives a field under both names.
    """
    if not isinstance(data, Mapping):
        return data
    found = {name: replaced(value) for name, value in data.items() if name not in FORMER}
    for name in data.keys() & FORMER.keys():
        now = FORMER[name]
        if found.get(now) is not None:
            raise ValueError(f"{now} is given twice, once under its former name {name}; remove {name}")
        found[now] = data[name]
        warnings.warn(
            f"{name} is called {now} now; rename it: the former name is accepted for this release only",
            FormerName,
            stacklevel=2,
        )
    return found
