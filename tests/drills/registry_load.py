"""How long each query of the monitoring pages takes on PostgreSQL.

`python tests/drills/registry_load.py [IMAGES] [ATTEMPTS]`, outside the tests: ten million images take minutes to write.
Fills a server of its own with rows as nights leave them (attempts of two years, a bad node, two feature sets), asks
each question seven times, prints the median and the worst in milliseconds, and ends with 1 when a median is above
LIMIT.
"""

import datetime
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import Connection, text

from featurise.registry import attempt_history as history
from featurise.registry import coverage, engine, image_search, nodes, overview, schema
from featurise.registry.attempt_history import Filter
from featurise_demo import embedded

LIMIT = 300.0
TIMES = 7
DAYS = 730
NOW = datetime.datetime.now(datetime.UTC)
FILL = """
INSERT INTO feature_sets (id, name, dataset, backbone, revision, weights_uri, weights_sha256, box_rule, precision,
                          created_at)
SELECT n, 'birds__b' || n || '__r', 'birds', 'b' || n, 'r', 's3://w', 'sha', '{}', 'float32', now()
FROM generate_series(1, 2) n;

INSERT INTO batches (feature_set_id, batch, found, done, rejected, deleted, run_id, listed_at)
SELECT s, to_char(now()::date - d, 'YYYY-MM-DD'), 7000, 6990, 10, 0, 'run-' || d, now()
FROM generate_series(1, 2) s, generate_series(1, :days) d;

INSERT INTO shards (id, feature_set_id, batch, run_id, name, uri, index_uri, rejects_uri, sha256, bytes, images,
                    rejects, statistics, samples, warnings, published_at)
SELECT n, 1 + n % 2, to_char(now()::date - (1 + n % :days), 'YYYY-MM-DD'), 'run-' || n % :days, 'shard-' || n,
       's3://f/' || n || '.h5', '', '', 'sha', 1, 1000, 0, '{}', '[]', '[]', now() - n % :days * interval '1 day'
FROM generate_series(1, greatest(:images / 1000, 1)) n;

INSERT INTO images (feature_set_id, key, etag, image_id, batch, size, superseded, registered_at, shard_id, sha256,
                    boxes)
SELECT 1 + n % 2, 'images/birds/' || day || '/bird_' || n / 2 || '.jpg', md5(n::text), 'bird_' || n / 2, day, 1, false,
       now(), 1 + n % greatest(:images / 1000, 1), 'sha', 36
FROM (SELECT n, to_char(now()::date - (1 + n / 2 % :days), 'YYYY-MM-DD') AS day
      FROM generate_series(0, :images - 1) n) made;

INSERT INTO gpu_attempts (feature_set_id, batch, run_id, shard, number, try_number, launcher, place, node, reason,
                          fault, exit_code, message, images, images_per_second, started_at, ended_at)
SELECT 1 + n % 2, to_char(t::date, 'YYYY-MM-DD'), 'run-' || t::date, 'shard-' || n % 700, 1, 1, 'kubernetes',
       'pod-' || n, 'gpu-' || n % 40, why,
       CASE WHEN why = 'gpu_fault' THEN 'Xid 79' END, CASE WHEN why IS NULL THEN 0 ELSE 1 END,
       repeat('word ', 100), 1000, 5 + n % 40, t, t + interval '9 minutes'
FROM (SELECT n, now() - (:attempts - n) * (:days * interval '1 day') / :attempts AS t,
             CASE WHEN n % 40 = 7 AND n % 3 = 0 THEN 'gpu_fault' WHEN n % 50 = 0 THEN 'preempted'
                  WHEN n % 97 = 0 THEN 'storage' END AS why
      FROM generate_series(1, :attempts) n) made;
"""


def main(images: int, attempts: int) -> int:
    with (
        tempfile.TemporaryDirectory(prefix="featurise-load-") as folder,
        embedded.postgres(Path(folder) / "data") as url,
    ):
        database = engine.of(url)
        schema.migrate(database)
        began = time.monotonic()
        with database.begin() as connection:
            for statement in FILL.split(";\n"):
                if statement.strip():
                    given = {"images": images, "attempts": attempts, "days": DAYS}
                    used = {name: value for name, value in given.items() if f":{name}" in statement}
                    connection.execute(text(statement), used)
        with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
        print(f"{images:,} images, {attempts:,} attempts, written in {time.monotonic() - began:.0f} s")
        print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        with database.connect() as connection:
            return _ask(connection, attempts)


def _ask(connection: Connection, attempts: int) -> int:
    everything, since = Filter(dag_ids=frozenset({"birds__b1", "birds__b2"})), NOW - datetime.timedelta(days=14)
    yesterday = f"{NOW - datetime.timedelta(days=1):%Y-%m-%d}"
    start = f"images/birds/{yesterday}/"
    questions: dict[str, Callable[[], Any]] = {
        "attempts, newest": lambda: history.page(connection, everything),
        "attempts, in the middle": lambda: history.page(connection, everything, before=attempts // 2),
        "attempts of a reason": lambda: history.page(connection, _only(outcome="gpu_fault")),
        "attempts of a rare reason": lambda: history.page(connection, _only(outcome="crash")),
        "attempts of a node": lambda: history.page(connection, _only(node="gpu-7")),
        "attempts of a node and a reason it never had": lambda: history.page(
            connection, _only(node="gpu-8", outcome="gpu_fault")
        ),
        "attempts of a day": lambda: history.page(connection, _only(batch=yesterday)),
        "attempts of a run": lambda: history.of_run(connection, _only(run_id=f"run-{yesterday}")),
        "open attempts": lambda: history.open_since(connection, NOW, everything),
        "reasons by day": lambda: history.counts(connection, "day", since, everything),
        "reasons by node": lambda: history.counts(connection, "node", since, everything),
        "GPU hours by feature set": lambda: history.counts(connection, "feature_set", since, everything),
        "last faults by node": lambda: nodes.last_faults(connection, since),
        "nodes to avoid": lambda: nodes.avoid(connection, NOW),
        "incidents": lambda: nodes.incidents(connection),
        "overview": lambda: overview.standings(connection, everything.dag_ids),
        "an image by its id": lambda: coverage.places(connection, "bird_4711"),
        "an image by its key": lambda: coverage.places(connection, f"{start}bird_{DAYS}.jpg"),
        "images by the beginning of their key": lambda: image_search.keys(connection, [start], everything.dag_ids),
        "images, nothing found": lambda: image_search.keys(connection, ["zebra"], everything.dag_ids),
    }
    slow = 0
    for name, question in questions.items():
        took = []
        for _ in range(TIMES):
            began = time.perf_counter()
            question()
            took.append(1000 * (time.perf_counter() - began))
        slow += median(took) > LIMIT
        print(f"{name:46} {median(took):8.1f} ms, worst {max(took):8.1f}")
    return int(slow > 0)


def _only(**wanted: str) -> Filter:
    return Filter(dag_ids=frozenset({"birds__b1", "birds__b2"}), **wanted)


if __name__ == "__main__":
    numbers = [int(each.replace("_", "")) for each in sys.argv[1:]]
    sys.exit(main(*(numbers + [10_000_000, 1_000_000][len(numbers) :])))
