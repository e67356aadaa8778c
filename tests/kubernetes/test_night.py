"""A night of 200 shards on a bad cluster: every fifth pod is taken away, and the API is out twice for a minute."""

import hashlib
from collections.abc import Mapping
from functools import partial
from itertools import cycle

import pytest

from featurise_demo import processes
from installation import Installation
from stand_in import Fault

# An installation of its own: for a minute at a time, nothing else on its cluster could be told apart from the night.
pytestmark = pytest.mark.xdist_group("airflow")

SHARDS = [f"shard-{number:05d}" for number in range(200)]
IMAGES = 10
FIFTH = 5
OUTAGE_SECONDS = 60
ENDS = cycle([Fault.PREEMPTED, Fault.EVICTED, Fault.DRAINED, Fault.VANISHED])


def unlucky(labels: Mapping[str, str]) -> bool:
    """Every fifth attempt, by chance that is the same each night."""
    name = f"{labels.get('shard')} {labels.get('attempt')}"
    return labels.get("shard") in SHARDS and hashlib.sha256(name.encode()).digest()[0] % FIFTH == 0


def test_every_image_is_featurised_once(installation: Installation) -> None:
    cluster = installation.cluster
    for _ in range(len(SHARDS)):
        cluster.faults.add(next(ENDS), unlucky, after=1.0)
    installation.script("night", {shard: {"images": IMAGES, "seconds": 0.5} for shard in SHARDS})
    before = cluster.started
    run = installation.start("night")

    def done() -> int:
        return sum(len(installation.done(shard)) >= IMAGES for shard in SHARDS)

    def reached(share: float) -> bool:
        return done() >= share * len(SHARDS)

    for share in (0.2, 0.6):
        installation.wait(partial(reached, share), 1800, f"{share:.0%} of the shards")
        cluster.stop_listening()
        processes.wait_until(lambda: False, OUTAGE_SECONDS, "")
        cluster.start()
    ended = {"success", "failed"}
    installation.wait(lambda: installation.airflow.api.run("night", run)["state"] in ended, 1800, "the night's end")

    assert installation.airflow.api.run("night", run)["state"] == "success"
    assert {shard: installation.done(shard) for shard in SHARDS} == {shard: list(range(IMAGES)) for shard in SHARDS}
    attempts = {shard: installation.attempts(run, shard) for shard in SHARDS}
    assert all(rows[-1]["exit_code"] == 0 for rows in attempts.values())
    assert all(row["ended_at"] for rows in attempts.values() for row in rows)
    started = cluster.started - before
    assert started == sum(len(rows) for rows in attempts.values())
    assert len(SHARDS) < started <= 1.3 * len(SHARDS)
