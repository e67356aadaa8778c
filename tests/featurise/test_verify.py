"""Published objects against the registry: what is missing, altered, or nobody's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from steps import discovered, finish, planned, up_to_publication

from extractor.core import manifest, storage
from extractor.core.manifest import Reject, RejectReason
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.declaration.run_options import RunOptions
from featurise.objects import layout, verify
from featurise.registry.session import reading

DAY = "2026-11-23"
# What is asked of the registry is asked on PostgreSQL in `test_faults`.
pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
FEATURISE = Path(sys.executable).with_name("featurise")


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FEATURISE, "verify", *argv], capture_output=True, text=True, check=False)


def findings(*, read: bool = True) -> list[tuple[str, str]]:
    with reading() as connection:
        files = verify.shards(connection)
    return [(found.kind, found.uri) for found in verify.run(files, read=read, tell=lambda _: None)]


def declare(monkeypatch: pytest.MonkeyPatch, folder: Path, *specs: FeatureSetSpec) -> None:
    datasets = {}
    for spec in specs:
        facts = spec.model_dump(mode="json", exclude={"dataset", "backbone"})
        datasets[spec.dataset] = {**facts, "backbones": [spec.backbone]}
    (folder / "featurise.yaml").write_text(json.dumps({"datasets": datasets}))
    monkeypatch.setenv("FEATURISE_DECLARATION", str(folder / "featurise.yaml"))


@pytest.fixture
def done(registry, spec: FeatureSetSpec, upload, night) -> FeatureSetSpec:
    upload({f"{DAY}/{name}.jpg": name.encode() for name in "abc"} | {f"{DAY}/x.jpg": b"bad"})
    night()
    return spec


@pytest.fixture
def file(done):
    with reading() as connection:
        (row,) = verify.shards(connection)
    return row


def test_missing_altered_and_orphaned_objects(done, file):
    assert run("--read").returncode == 0
    data = bytearray(storage.read_bytes(file.uri))
    data[-1] ^= 1
    storage.write_bytes(file.uri, bytes(data))
    storage.delete([file.index_uri])
    orphan = f"{layout.features(done)}/{DAY}/shard-00007-0123456789ab.h5"
    storage.write_bytes(orphan, b"nobody's")
    found = run("--read")
    assert found.returncode == 1
    for line in (f"altered: {file.uri}", f"missing: {file.index_uri}", f"orphaned: {orphan}"):
        assert line in found.stdout
    assert "1 files, 3 findings\n" in found.stdout
    found = run()
    assert "altered" not in found.stdout, "the size is the same: only reading tells"
    assert "1 files, 2 findings; contents not read" in found.stdout


def test_the_repair_of_a_lost_file_names_the_days_of_its_late_images(done, upload, night):
    upload({"2026-11-21/late.jpg": b"late", f"{DAY}/d.jpg": b"d"})
    night(run_id="again")
    with reading() as connection:
        (file,) = [row for row in verify.shards(connection) if row.run_id == "again"]
    storage.delete([file.uri])
    assert f"run batch {DAY} again with the option `force` and `lookback_days` 2" in run().stdout.replace("\n", " ")
    night(run_id="repair", options=RunOptions(force=True, lookback_days=2))
    assert findings() == []


def test_the_lists_beside_a_file_are_compared_line_by_line(file):
    index, rejects = (storage.read_bytes(uri) for uri in (file.index_uri, file.rejects_uri))
    for uri, data in (
        (file.index_uri, b"garbage"),
        (file.index_uri, index.splitlines(keepends=True)[0]),
        (file.index_uri, index.replace(b'"boxes":36', b'"boxes":35', 1)),
        (file.rejects_uri, b"garbage"),
        (file.rejects_uri, b""),
        (file.rejects_uri, rejects.replace(b"not_an_image", b"empty")),
        (file.rejects_uri, rejects.replace(b"x.jpg", b"y.jpg")),
    ):
        before = storage.read_bytes(uri)
        assert data != before
        storage.write_bytes(uri, data)
        assert findings() == [("altered", uri)], data
        assert findings(read=False) == []
        storage.write_bytes(uri, before)
    assert findings() == []


def test_lines_of_which_a_later_run_has_the_outcome_are_no_findings(done, upload, night):
    night(run_id="again", options=RunOptions(force=True))
    upload({f"{DAY}/a.jpg": b"replaced"})
    night(run_id="replaced")
    assert findings() == []


def test_copies_and_ids_that_were_given_away_are_no_findings(done, upload, night):
    upload({"2026-11-24/a.jpg": b"a", "2026-11-24/b.jpg": b"other"})
    night("2026-11-24")
    assert findings() == []


def test_a_deleted_image_leaves_no_findings(done, night):
    storage.delete([f"s3://{done.bucket}/{done.prefix}{DAY}/{name}.jpg" for name in "ab"])
    night(run_id="again")
    assert findings() == []
    storage.delete([f"s3://{done.bucket}/{done.prefix}{DAY}/c.jpg"])
    night(run_id="and again")
    assert findings() == []


def test_a_missing_file_keeps_its_lists_and_is_made_anew(done, file, night):
    storage.delete([file.uri])
    night(run_id="plain")
    assert findings() == [("missing", file.uri)], "a later run does not take the lists for abandoned"
    night(run_id="again", options=RunOptions(force=True))
    assert findings() == [], "nothing of the lost file counts any more"


def test_a_lost_list_of_rejects_is_no_finding_once_a_later_run_has_their_outcome(registry, spec, upload, night):
    upload({f"{DAY}/x.jpg": b"bad"})
    night()
    with reading() as connection:
        (only,) = verify.shards(connection)
    storage.delete([only.uri])
    night(run_id="plain")
    assert findings() == [("missing", only.uri)]
    upload({f"{DAY}/x.jpg": b"bad, too"})
    night(run_id="replaced")
    assert findings() == []


def test_a_reject_that_spoke_of_a_moment_may_have_another_outcome_of_its_run(done, file, upload, extract):
    upload({f"{DAY}/late.jpg": b"late", f"{DAY}/other.jpg": b"other"})
    for reason in (RejectReason.MISSING, RejectReason.CHANGED):
        (shard,) = planned(done, discovered(done, DAY, "cleared"), "cleared")
        (entry, *_) = manifest.read(shard.manifest_uri).entries
        upload({f"{DAY}/late.jpg": b"bad"})
        uri = extract(done, shard, DAY)
        upload({f"{DAY}/late.jpg": b"late"})
        line = Reject(**entry.model_dump(include={"key", "etag", "size", "image_id"}), reason=reason, detail="")
        storage.write_bytes(layout.rejects(uri), manifest.dump([line]))
        finish(Run(done, DAY, "cleared"), shard)
    assert findings() == []


def test_a_file_that_is_registered_meanwhile_is_no_orphan(done, upload, night):
    with reading() as connection:
        before = verify.shards(connection)
    upload({f"{DAY}/late.jpg": b"late"})
    night(run_id="meanwhile")
    found = verify.run(before, read=False, tell=lambda _: None)
    assert [one.kind for one in found if one.kind == "orphaned"] == []


def test_a_list_for_readers_that_was_lost_is_written_by_the_next_run(done, night):
    storage.delete([layout.latest(done)])
    night(run_id="again")
    assert findings() == []


def test_the_list_for_readers_is_compared(done, file):
    uri = layout.latest(done)
    view = json.loads(storage.read_bytes(uri))
    for data in (b"garbage", b"[]", json.dumps({**view, "files": []}).encode()):
        storage.write_bytes(uri, data)
        assert findings(read=False) == [("altered", uri)], data
    storage.delete([uri])
    assert findings(read=False) == [("missing", uri)]


def test_a_file_of_a_first_night_that_nobody_registered_is_found(
    registry, spec, upload, extract, tmp_path, monkeypatch
):
    upload({f"{DAY}/a.jpg": b"a"})
    (shard,) = planned(spec, discovered(spec, DAY, "first"), "first")
    extract(spec, shard, DAY)
    published = up_to_publication(Run(spec, DAY, "first"), shard)
    declare(monkeypatch, tmp_path, spec)
    found = run("--dataset", spec.dataset)
    assert (found.returncode, f"orphaned: {published.uri}" in found.stdout) == (1, True), found.stdout


def test_a_bucket_that_does_not_exist_holds_nothing(done, file, tmp_path, monkeypatch):
    declare(monkeypatch, tmp_path, done.model_copy(update={"dataset": "fish", "bucket": "not-made-yet"}), done)
    found = run()
    assert (found.returncode, "1 files, 0 findings" in found.stdout) == (0, True), found.stdout
    storage.client().delete_bucket(Bucket=done.bucket)
    found = run()
    storage.client().create_bucket(Bucket=done.bucket)
    assert (found.returncode, "1 files, 6 findings" in found.stdout) == (1, True), found.stdout
    for uri in (
        file.uri,
        file.index_uri,
        file.rejects_uri,
        file.record_uri,
        layout.latest(done),
        f"{layout.features(done)}/catalogue.json",
    ):
        assert f"missing: {uri} (" in found.stdout
