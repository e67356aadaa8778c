"""A registry that the version before has filled is brought up to date, with a night at work, and loses nothing."""

import json
import sqlite3
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from steps import discovered, finish

from extractor.core import backbone_specs, storage
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.objects import identity, layout, verify
from featurise.registry import coverage, engine, schema
from featurise.registry.session import reading
from featurise.settings import settings
from featurise.steps import publish, register
from featurise.steps.plan import Shard
from featurise.steps.report import step as report

RELEASED = Path(__file__).parent / "released"
FIRST, SECOND, RUN = "2026-11-21", "2026-11-22", "scheduled__2026-11-22"
MIGRATE = "from featurise.cli import app; app(['migrate'])"


def text(name: str, bucket: str) -> str:
    return (RELEASED / name).read_text().replace("BUCKET", bucket)


@pytest.fixture
def released(empty_registry: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The registry and the bucket as version 0001 left them: see `released/make_0001.py`."""
    database = engine.of(empty_registry)
    script = text(f"0001.{database.dialect.name}.sql", bucket)
    # Not by the registry's own connections: the dumps have settings of theirs, and tables in the order of names.
    if (file := engine.file(database.url)) is not None:
        with closing(sqlite3.connect(file)) as connection:
            connection.executescript(script)
    else:
        with psycopg.connect(host=database.url.query["host"], user="postgres", dbname=database.url.database) as other:
            other.execute(script)
    with tarfile.open(RELEASED / "0001.bucket.tar.gz") as tar:
        for member in tar:
            data = tar.extractfile(member).read()
            if not member.name.endswith(".h5"):
                data = data.replace(b"BUCKET", bucket.encode())
            storage.write_bytes(f"s3://{bucket}/{member.name}", data)
    facts = json.loads(text("0001.json", bucket))
    # What the released files say of themselves, whatever changes a number since.
    monkeypatch.setattr(backbone_specs, "revision", lambda *_: facts["revision"])
    return facts


def migrations(count: int) -> list[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", MIGRATE]
    pipe = subprocess.PIPE
    return [subprocess.Popen(argv, stdout=pipe, stderr=subprocess.STDOUT, text=True) for _ in range(count)]


def waiting(connection: sqlalchemy.Connection) -> int:
    return connection.scalar(sqlalchemy.text("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"))


def days() -> list[tuple[str, int, int, int]]:
    with reading() as connection:
        found = coverage.coverage(connection)
    return [(day.batch, day.done, day.rejected, day.pending) for day in found if day.found]


def test_a_night_that_is_at_work_ends_on_the_new_schema(released, registry_before, extract):
    spec = FeatureSetSpec.model_validate(released["spec"])
    run = Run(spec, SECOND, RUN)
    shards = [Shard.model_validate(shard) for shard in released["shards"]]
    database = engine.of(settings().registry)
    with engine.transaction(database, writes=False) as at_work:
        at_work.execute(sqlalchemy.text("SELECT * FROM feature_sets")).all()
        both = migrations(2)
        while database.dialect.name == "postgresql" and waiting(at_work) < 2:
            time.sleep(0.1)  # one waits for this transaction, the other for the first
    for process in both:
        said, _ = process.communicate()
        assert process.returncode == 0, said
        assert "the registry has schema 0006" in said

    assert days() == [(FIRST, 2, 1, 0), (SECOND, 1, 0, 2)]
    files = {item.key: item.etag for item in storage.listing(layout.location(spec)) if item.key.endswith(".h5")}
    file = publish.Published.model_validate(released["published"])
    register.run(run, shards[1], file)
    extract(spec, shards[2], SECOND)
    finish(run, shards[2])
    told = report.run(run)
    assert (told.counts["done"], told.counts["pending"], told.counts["files"]) == (3, 0, 3)
    assert days() == [(FIRST, 2, 1, 0), (SECOND, 3, 0, 0)]
    after = {item.key: item.etag for item in storage.listing(layout.location(spec))}
    assert after.items() >= files.items()
    assert identity.ensure(spec)
    with reading() as connection:
        rows = verify.shards(connection)
        assert connection.scalar(sqlalchemy.text("SELECT count(*) FROM gpu_attempts WHERE ended_at IS NULL")) == 0
        assert connection.scalar(sqlalchemy.text("SELECT count(*) FROM claims")) == 0
    assert list(verify.run(rows, read=True, tell=lambda _: None)) == []


def test_what_the_version_before_published_and_never_registered_is_taken_in(released, registry_before, extract):
    schema.migrate(engine.of(settings().registry))
    with engine.transaction(engine.of(settings().registry), writes=True) as connection:
        connection.execute(sqlalchemy.text("DELETE FROM claims"))  # the night at work has died
    spec = FeatureSetSpec.model_validate(released["spec"])
    found = discovered(spec, SECOND, "next", lookback_days=1)
    assert (found.taken_in, found.told, found.fresh) == (1, [], 1)
    assert days() == [(FIRST, 2, 1, 0), (SECOND, 2, 0, 1)]


@pytest.fixture
def registry_before(empty_registry: str) -> None:
    """Readers of this version refuse the schema before, and name the command."""
    with pytest.raises(
        schema.SchemaMismatch, match=r"has schema 0001, this version needs 0006; run `featurise migrate`"
    ):
        schema.check(engine.of(empty_registry))


@pytest.mark.parametrize("versions", [[], ["0001", "0006"]])
@pytest.mark.parametrize("use", [schema.check, schema.migrate])
def test_a_lost_or_doubled_version_row_ends_in_a_sentence(registry, versions, use):
    with engine.of(registry).begin() as connection:
        connection.execute(sqlalchemy.text(f"DELETE FROM {schema.VERSION_TABLE}"))
        for version in versions:
            connection.execute(sqlalchemy.text(f"INSERT INTO {schema.VERSION_TABLE} VALUES ('{version}')"))
    rows = "has 2 rows" if versions else "has no row"
    with pytest.raises(schema.SchemaMismatch, match=rf"{rows}.*with version_num '0006'.*run `featurise migrate`"):
        use(engine.of(registry))
    with engine.of(registry).begin() as connection:  # what the sentence says
        connection.execute(sqlalchemy.text(f"DELETE FROM {schema.VERSION_TABLE}"))
        connection.execute(sqlalchemy.text(f"INSERT INTO {schema.VERSION_TABLE} VALUES ('0006')"))
    assert schema.migrate(engine.of(registry)) == "0006"


def test_four_processes_make_the_tables_at_once(empty_registry):
    for process in migrations(4):
        said, _ = process.communicate()
        assert process.returncode == 0, said
    schema.check(engine.of(empty_registry))
