"""The embedded servers: loopback only, their data there at the next start, their end said."""

import subprocess

import psutil
import pytest
import sqlalchemy

from extractor.core import storage
from featurise_demo import embedded


def test_the_store_listens_on_loopback_only_and_keeps_its_data(tmp_path, monkeypatch):
    credentials = embedded.Credentials.random()
    for start in range(2):
        with embedded.object_store(tmp_path / "store", credentials=credentials) as running:
            family = [
                psutil.Process(running.process.pid),
                *psutil.Process(running.process.pid).children(recursive=True),
            ]
            heard = [
                one.laddr.ip for process in family for one in process.net_connections("tcp") if one.status == "LISTEN"
            ]
            assert set(heard) == {"127.0.0.1"}
            for name, value in running.environment.items():
                monkeypatch.setenv(name, value)
            storage.client.cache_clear()
            if start == 0:
                storage.client().create_bucket(Bucket="kept")
                storage.write_bytes("s3://kept/key", b"data")
            assert storage.read_bytes("s3://kept/key") == b"data"
        assert running.process.poll() is not None
    storage.client.cache_clear()


def test_a_port_that_is_taken_is_said(tmp_path):
    with embedded.object_store(tmp_path / "one") as running:
        taken = int(running.endpoint.rsplit(":", 1)[1])
        with (
            pytest.raises(embedded.PartFailed, match=r"port \d+ of 127.0.0.1 is taken"),
            embedded.object_store(tmp_path / "two", port=taken),
        ):
            pass


def test_the_database_keeps_its_data(tmp_path):
    for start in range(2):
        with embedded.postgres(tmp_path / "data") as url:
            engine = sqlalchemy.create_engine(url)
            with engine.begin() as connection:
                if start == 0:
                    connection.execute(sqlalchemy.text("CREATE TABLE kept AS SELECT 7 AS number"))
                assert connection.scalar(sqlalchemy.text("SELECT number FROM kept")) == 7
            engine.dispose()
        # It is stopped, although a user of it was killed before it could say that it had done.
        assert not (tmp_path / "data/postmaster.pid").exists()
        with subprocess.Popen(["true"]) as killed:
            pass
        (tmp_path / "data/.handle_pids.json").write_text(f"[{killed.pid}]")
