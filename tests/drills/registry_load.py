"""How long each monitoring page takes, and each of its queries, on PostgreSQL.

`make pages-load`, outside the tests: ten million images take minutes to write, and some GB of disk. Fills a server of
its own with rows as nights leave them (attempts of two years, a bad node, two feature sets, alerts and incidents),
asks each question and each page seven times, prints the median and the worst in milliseconds, and ends with 1 when a
median is above LIMIT. Pages come from a real server, by HTTP, with all that they show.
"""

import datetime
import os
import platform
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from pages_served import Pages, served
from sqlalchemy import Connection, Engine, text

from featurise.registry import alerts, coverage, engine, image_search, nodes, overview, schema
from featurise.registry import attempt_history as history
from featurise.registry.attempt_history import Filter
from featurise_demo import embedded

LIMIT = 300.0
TIMES = 7
DAYS = 730
NOW = datetime.datetime.now(datetime.UTC)
YESTERDAY = f"{NOW - datetime.timedelta(days=1):%Y-%m-%d}"
DAGS = frozenset({"birds__resnet101", "birds__resnext101"})
FOR_THE_FILLING = ("fsync = off", "full_page_writes = off", "max_wal_size = '16GB'")
FILL = """
INSERT INTO feature_sets (id, name, dataset, backbone, revision, weights_uri, weights_sha256, box_rule, precision,
                          created_at)
SELECT n, 'birds__' || b || '__r', 'birds', b, 'r', 's3://w', 'sha', '{}', 'float32', now()
FROM (VALUES (1, 'resnet101'), (2, 'resnext101')) made (n, b);

INSERT INTO batches (feature_set_id, batch, found, done, rejected, deleted, run_id, listed_at)
SELECT s, to_char(now()::date - d, 'YYYY-MM-DD'), 7000, 6990, 10, 0, 'run-' || d, now()
FROM generate_series(1, 2) s, generate_series(1, :days) d;

INSERT INTO shards (id, feature_set_id, batch, run_id, name, uri, index_uri, rejects_uri, sha256, bytes, images,
                    rejects, statistics, samples, warnings, published_at)
SELECT n, 1 + n % 2, day, 'run-' || day, 'shard-' || n,
       's3://f/' || n || '.h5', '', '', 'sha', 1, 1000, 0, '{}', '[]', '[]', now() - n % :days * interval '1 day'
FROM (SELECT n, to_char(now()::date - (1 + n / 2 % :days), 'YYYY-MM-DD') AS day
      FROM generate_series(1, greatest(:images / 1000, 1)) n) made;

INSERT INTO images (feature_set_id, key, etag, image_id, batch, size, superseded, registered_at, shard_id, sha256,
                    boxes)
SELECT 1 + n % 2, 'images/birds/' || day || '/bird_' || n / 2 || '.jpg', md5(n::text), 'bird_' || n / 2, day, 1, false,
       now(), 1 + n % greatest(:images / 1000, 1), 'sha', 36
FROM (SELECT n, to_char(now()::date - (1 + n / 2 % :days), 'YYYY-MM-DD') AS day
      FROM generate_series(0, :images - 1) n) made;

INSERT INTO rejects (feature_set_id, key, etag, image_id, batch, size, superseded, registered_at, reason, detail,
                     run_id)
SELECT 1 + n % 2, 'images/birds/' || day || '/bad_' || n || '.jpg', md5(n::text), 'bad_' || n, day, 1, false, now(),
       'truncated', 'the file ends in the midst of the image', 'run-' || day
FROM (SELECT n, to_char(now()::date - (1 + n % :days), 'YYYY-MM-DD') AS day
      FROM generate_series(1, :images / 100) n) made;

INSERT INTO incidents (id, kind, subject, detail, advice, attempts, opened_at, closed_at, closed_because)
SELECT n, 'node', 'gpu-' || CASE WHEN n > 5000 THEN n - 5000 ELSE n % 40 END, 'Xid 79: off the bus', 'reboot it', 3,
       now() - (5003 - n) * interval '3 hours', CASE WHEN n <= 5000 THEN now() END, 'a shard did well on it'
FROM generate_series(1, 5003) n;

INSERT INTO node_holds (id, node, incident_id, held_by, note, held_at, retry_at, released_at, released_by, release_note)
SELECT id, subject, id, 'featurise', detail, opened_at, now(), closed_at, 'featurise', closed_because FROM incidents;

INSERT INTO alerts (id, kind, subject, facts, opened_at, closed_at, closed_because)
SELECT n, kind, subject, json_build_object(
           'kind', kind, 'subject', subject, 'title', repeat('word ', 20), 'reasons', json_build_array('failed'),
           'what', json_build_array(repeat('word ', 60)), 'waiting', 12, 'done', repeat('word ', 20),
           'todo', repeat('word ', 20), 'page', 'nodes', 'channels', json_build_array('email:a@b.c', 'webhook:ops')),
       t, CASE WHEN n <= 20000 THEN t + interval '3 hours' END, 'it ended well'
FROM (SELECT n, now() - (20010 - n) * interval '50 minutes' AS t,
             CASE n % 3 WHEN 0 THEN 'run' WHEN 1 THEN 'late' ELSE 'node' END AS kind,
             CASE n % 3 WHEN 2 THEN 'incident ' || n ELSE 'birds__resnet101 ' || n END AS subject
      FROM generate_series(1, 20010) n) made;

INSERT INTO alert_messages (alert_id, channel, over, sent_at)
SELECT id, channel, over, opened_at
FROM alerts, (VALUES ('email:a@b.c'), ('webhook:ops')) places (channel), (VALUES (false), (true)) words (over);

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

INSERT INTO gpu_attempts (feature_set_id, batch, run_id, shard, number, try_number, launcher, place, message, images,
                          images_per_second, started_at)
SELECT 1 + n % 2, to_char(now(), 'YYYY-MM-DD'), 'run-now', 'shard-' || n, 1, 1, 'kubernetes', 'pod-now-' || n,
       CASE WHEN n % 2 = 0 THEN 'queued: 2 Insufficient nvidia.com/gpu.' ELSE '' END, 0, 0, now()
FROM generate_series(1, 200) n;
"""
DECLARATION = f"""
defaults:
  bucket: images
  start_date: 2026-03-28
  weights: {{uri: "s3://models/weights", sha256: "{"a" * 64}"}}
datasets: {{birds: {{backbones: [resnet101, resnext101]}}}}
"""


def main(images: int, attempts: int) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is ended and its data removed
    with (
        tempfile.TemporaryDirectory(prefix="featurise-load-") as folder,
        embedded.postgres(Path(folder) / "data") as url,
    ):
        database = engine.of(url)
        schema.migrate(database)
        began = time.monotonic()
        filled(database, images, attempts)
        print(f"{images:,} images, {attempts:,} attempts, written in {time.monotonic() - began:.0f} s")
        print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        with database.connect() as connection:
            slow = _slow(_questions(connection, attempts))
        home = Path(folder) / "airflow"
        home.mkdir()
        with served(home, url, DECLARATION, f"run-{YESTERDAY}") as pages:
            return int(slow + _slow(_pages(pages, attempts)) > 0)


def filled(database: Engine, images: int, attempts: int) -> None:
    """Write the rows of two years into an empty registry on PostgreSQL."""
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for setting in FOR_THE_FILLING:
            connection.exec_driver_sql(f"ALTER SYSTEM SET {setting}")
        connection.exec_driver_sql("SELECT pg_reload_conf()")
    with database.begin() as connection, _indexed_afterwards(connection, "images"):
        for statement in FILL.split(";\n"):
            if statement.strip():
                given = {"images": images, "attempts": attempts, "days": DAYS}
                used = {name: value for name, value in given.items() if re.search(f"[^:]:{name}", statement)}
                connection.execute(text(statement), used)
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")


@contextmanager
def _indexed_afterwards(connection: Connection, table: str) -> Iterator[None]:
    """Without a table's indexes while it is filled: each is made in one go at the end."""
    rows = connection.execute(text("SELECT indexname, indexdef FROM pg_indexes WHERE tablename = :t"), {"t": table})
    indexes = {str(row.indexname): str(row.indexdef) for row in rows}
    key = f"{table}_pkey"
    connection.exec_driver_sql(f"ALTER TABLE {table} DROP CONSTRAINT {key}")
    for name in indexes.keys() - {key}:
        connection.exec_driver_sql(f"DROP INDEX {name}")
    yield
    connection.exec_driver_sql("SET LOCAL maintenance_work_mem = '1GB'")
    for definition in indexes.values():
        connection.exec_driver_sql(definition)
    connection.exec_driver_sql(f"ALTER TABLE {table} ADD PRIMARY KEY USING INDEX {key}")


def _questions(connection: Connection, attempts: int) -> dict[str, Callable[[], Any]]:
    """What the pages and the commands ask of the registry."""
    everything, since = _only(), NOW - datetime.timedelta(days=14)
    yesterday = YESTERDAY
    start = f"images/birds/{yesterday}/"
    hidden = alerts.of_other_dags(connection, ("run", "late"), DAGS)
    return {
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
        "open alerts": lambda: alerts.open_ones(connection),
        "queued attempts": lambda: history.page(connection, _only(outcome="queued")),
        "one attempt": lambda: history.one(connection, attempts // 2, everything),
        "incidents": lambda: nodes.incidents(connection),
        "incidents, older": lambda: nodes.incidents(connection, before=2_500),
        "nodes held back": lambda: nodes.holds(connection),
        "holds that are over": lambda: nodes.holds(connection, ended=True, size=20),
        "alerts": lambda: alerts.page(connection, hidden),
        "alerts, of nobody's DAGs": lambda: alerts.page(connection, alerts.of_other_dags(connection, ("run",), ())),
        "alerts, older": lambda: alerts.page(connection, hidden, before=10_000),
        "messages of a page of alerts": lambda: alerts.messages(connection, range(19_950, 20_010)),
        "published shards of a run": lambda: overview.published(
            connection, "birds__resnet101__r", yesterday, f"run-{yesterday}"
        ),
        "overview": lambda: overview.standings(connection, everything.dag_ids),
        "an image by its id": lambda: coverage.places(connection, "bird_4711"),
        "an image by its key": lambda: coverage.places(connection, f"{start}bird_{DAYS}.jpg"),
        "images by the beginning of their key": lambda: image_search.keys(connection, [start], everything.dag_ids),
        "images, nothing found": lambda: image_search.keys(connection, ["zebra"], everything.dag_ids),
    }


def _pages(pages: Pages, attempts: int) -> dict[str, Callable[[], Any]]:
    """Every page and table, as a viewer gets it. An image's boxes come from object storage, which is not here."""
    start = f"images/birds/{YESTERDAY}/"
    night = f"dag_id=birds__resnet101&run_id=run-{YESTERDAY}"
    paths = (
        "/",
        "/attempts",
        f"/attempts?before={attempts // 2}",
        "/attempts?outcome=gpu_fault&node=gpu-7",
        "/attempts?outcome=queued",
        f"/attempts?batch={YESTERDAY}",
        f"/attempts/{attempts // 2}",
        "/nodes",
        "/alerts",
        "/alerts?before=10000",
        f"/night?{night}",
        f"/images?text={start}",
        "/images?text=zebra",
        "/api/overview",
        "/api/attempts",
        "/api/attempts.csv",
        "/api/nodes",
        "/api/incidents",
        "/api/alerts",
        f"/api/night?{night}",
        "/api/images?text=bird_4711",
        "/api/images?text=bad_4711",
        f"/api/images?text={start}bird_{DAYS}.jpg",
    )

    def asked(path: str) -> Callable[[], Any]:
        return lambda: pages.get(path).raise_for_status()

    return {path: asked(path) for path in paths}


def _slow(questions: dict[str, Callable[[], Any]]) -> int:
    """Ask each question; how many took too long."""
    slow = 0
    for name, question in questions.items():
        took = []
        for _ in range(TIMES):
            began = time.perf_counter()
            question()
            took.append(1000 * (time.perf_counter() - began))
        slow += median(took) > LIMIT
        print(f"{name:62} {median(took):8.1f} ms, worst {max(took):8.1f}", flush=True)
    return slow


def _only(**wanted: str) -> Filter:
    return Filter(dag_ids=DAGS, **wanted)


if __name__ == "__main__":
    numbers = [int(each.replace("_", "")) for each in sys.argv[1:]]
    sys.exit(main(*(numbers + [10_000_000, 1_000_000][len(numbers) :])))
