"""Who works on a batch now: a lease that its run renews, and that a dead run loses."""

import datetime

from featurise.pair import Pair


class ClaimLost(Exception):
    """Raised when a run's claim went to another run while it was silent; the run must stop."""


def renew(pair: Pair, batch: str, run_id: str, *, now: datetime.datetime | None = None) -> None:
    """Prolong the run's claims on this feature set; to be called now and then while a long task runs (cheap).

    Raises ClaimLost.
    """
    raise NotImplementedError
