"""A registry that is dropped, emptied or restored from a backup under a full bucket: nothing published changes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy
from steps import discovered, finish, planned, up_to_publication

from extractor.core import storage
from featurise import cli
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.declaration.run_options import RunOptions
from featurise.export import run as export
from featurise.objects import catalogue, identity, latest, layout, verify
from featurise.objects.identity import Stranger
from featurise.registry import coverage, engine, leases, models, schema, session
from featurise.registry.models import Base
from featurise.registry.session import reading
from featurise.settings import settings
from featurise.steps import plan, publish, rebuild, register
from featurise.steps.report import step as report
from featurise.steps.validate import step as validate

FIRST, SECOND, THIRD = "2026-11-21", "2026-11-22", "2026-11-23"
TABLES = [table for table in Base.metadata.sorted_tables if table.name != models.Registry.__tablename__]
Backup = dict[str, list[dict[str, object]]]


def backup() -> Backup:
    with session.reading() as connection:
        return {table.name: [{**row._mapping} for row in connection.execute(table.select())] for table in TABLES}


def restore(saved: Backup) -> None:
    """The registry as it was then; of an empty backup, without any row but its own name."""
    with session.writing() as connection:
        for table in reversed(TABLES):
            connection.execute(table.delete())
        for table in TABLES:
            if rows := saved.get(table.name):
                connection.execute(table.insert(), rows)


def drop() -> None:
    """The registry's database is made again, by a person who has lost it."""
    database = engine.of(settings().registry)
    with engine.transaction(database, writes=True) as connection:
        for table in reversed(Base.metadata.sorted_tables):
            table.drop(connection)
        connection.execute(sqlalchemy.text(f"DROP TABLE {schema.VERSION_TABLE}"))
    schema.migrate(database)


def published(spec: FeatureSetSpec) -> dict[str, str]:
    """Every published object with its etag, but the lists of them that are replaced."""
    found = storage.listing(layout.location(spec))
    lists = ("latest.json", "_registry.json", "catalogue.json")
    return {item.key: item.etag for item in found if not item.key.endswith(lists) and "/catalogue/" not in item.key}


def files(spec: FeatureSetSpec) -> list[str]:
    return [key for key in published(spec) if key.endswith(".h5")]


def listed(spec: FeatureSetSpec) -> tuple[int, list[str]]:
    view = json.loads(storage.read_bytes(layout.latest(spec)))
    return view["images"], sorted(file["uri"] for file in view["files"])


def truth() -> tuple[object, ...]:
    """What counts: each live outcome with its file, and each day's numbers."""
    with reading() as connection:
        rows = connection.execute(
            sqlalchemy.select(models.Image.__table__, models.RegisteredShard.uri).join(models.RegisteredShard)
        ).all()
        images = {(row.key, row.etag, row.batch, row.uri) for row in rows if not row.superseded and not row.deleted_at}
        rejects = {
            (row.key, row.etag, row.batch, row.reason)
            for row in connection.execute(models.RegisteredReject.__table__.select())
            if not row.superseded and not row.deleted_at
        }
        days = [(day.batch, day.found, day.done, day.rejected) for day in coverage.coverage(connection) if day.found]
    return images, rejects, days


def findings() -> list[str]:
    with reading() as connection:
        rows = verify.shards(connection)
    return [f"{one.kind}: {one.uri}" for one in verify.run(rows, read=True, tell=lambda _: None)]


@pytest.fixture
def two_nights(registry, spec: FeatureSetSpec, upload, night) -> FeatureSetSpec:
    """Two days, a late image, a rejected one, a replaced one, a deleted one, and a copy."""
    upload({f"{FIRST}/{name}.jpg": name.encode() for name in "abcd"} | {f"{FIRST}/x.jpg": b"bad"})
    night(FIRST)
    upload({f"{SECOND}/e.jpg": b"e", f"{SECOND}/d.jpg": b"d", f"{FIRST}/late.jpg": b"late", f"{FIRST}/a.jpg": b"new"})
    storage.delete([f"s3://{spec.bucket}/{spec.prefix}{FIRST}/b.jpg"])
    night(SECOND)
    assert len(files(spec)) >= 2
    return spec


@pytest.mark.parametrize("options", [{}, {"lookback_days": 3}, {"force": True, "lookback_days": 2}])
def test_a_night_of_an_emptied_registry_takes_in_what_is_published(two_nights, upload, night, extract, options):
    spec, before, whole = two_nights, published(two_nights), listed(two_nights)
    made = len(extract.made)
    restore({})
    upload({f"{THIRD}/f.jpg": b"f"})
    found = night(THIRD, options=RunOptions(**options))

    assert found.taken_in == sum(key.endswith(".h5") for key in before)
    assert published(spec).items() >= before.items()
    if "force" not in options:
        assert extract.made[made:] == [f"{spec.prefix}{THIRD}/f.jpg"], "nothing is featurised twice"
        assert listed(spec)[0] >= whole[0] + 1
        assert set(listed(spec)[1]) > set(whole[1])
    assert findings() == []


def test_discovery_of_a_done_day_by_an_emptied_registry_finds_it_done(two_nights):
    before, done = published(two_nights), truth()
    restore({})
    for day in (FIRST, SECOND):
        assert discovered(two_nights, day, f"backfill {day}", lookback_days=0).fresh == 0
        report.run(Run(two_nights, day, f"backfill {day}"))
    assert published(two_nights) == before
    assert truth() == done


@pytest.mark.parametrize("nights", [0, 1])
def test_a_registry_that_is_restored_from_a_backup_knows_all_again(registry, spec, upload, night, extract, nights):
    upload({f"{FIRST}/{name}.jpg": name.encode() for name in "abc"})
    saved = backup()
    if nights:
        night(FIRST)
        saved = backup()
    night(FIRST, run_id="again")
    upload({f"{SECOND}/d.jpg": b"d", f"{FIRST}/late.jpg": b"late", f"{FIRST}/a.jpg": b"new"})
    night(SECOND)
    before, done, made = published(spec), truth(), len(extract.made)
    restore(saved)
    assert night(SECOND, run_id="restored").fresh == 0

    assert published(spec) == before
    assert truth() == done
    assert listed(spec)[0] == 5
    assert len(extract.made) == made
    assert findings() == []


def in_flight(spec: FeatureSetSpec, extract, upload) -> tuple[plan.Shard, publish.Published]:
    upload({f"{FIRST}/a.jpg": b"a"})
    (shard,) = planned(spec, discovered(spec, FIRST, "run"), "run")
    extract(spec, shard, FIRST)
    return shard, up_to_publication(Run(spec, FIRST, "run"), shard)


def test_a_backup_from_between_publication_and_registration_removes_nothing(registry, spec, upload, extract, night):
    shard, file = in_flight(spec, extract, upload)
    saved = backup()
    register.run(Run(spec, FIRST, "run"), shard, file)
    report.run(Run(spec, FIRST, "run"))
    before, done = published(spec), truth()
    restore(saved)
    with session.writing() as connection:
        connection.execute(sqlalchemy.delete(models.Lease))
    night(FIRST, run_id="next")
    assert published(spec) == before
    assert truth() == done


@pytest.mark.parametrize("lost_claim", [True, False])
def test_steps_that_are_cleared_after_a_restore_do_not_take_the_file_for_their_own(
    registry, spec, upload, extract, night, lost_claim
):
    upload({f"{FIRST}/a.jpg": b"a"})
    found = discovered(spec, FIRST, "run")
    saved = backup()
    (shard,) = planned(spec, found, "run")
    extract(spec, shard, FIRST)
    validated = validate.run(Run(spec, FIRST, "run"), shard)
    file = publish.run(Run(spec, FIRST, "run"), shard, validated)
    work = [(item.key, storage.read_bytes(f"s3://{spec.bucket}/{item.key}")) for item in below(shard.work_uri)]
    register.run(Run(spec, FIRST, "run"), shard, file)
    before = published(spec)
    for key, data in work:
        storage.write_bytes(f"s3://{spec.bucket}/{key}", data)
    restore(saved)
    publish.run(Run(spec, FIRST, "run"), shard, validated)
    if lost_claim:
        with session.writing() as connection:
            connection.execute(sqlalchemy.update(models.Lease).values(owner="other"))
        with pytest.raises(leases.LeaseLost):
            register.run(Run(spec, FIRST, "run"), shard, file)
    else:
        with session.writing() as connection:
            connection.execute(sqlalchemy.delete(models.Lease))
        night(FIRST, run_id="other")
    assert published(spec) == before


def below(uri: str) -> Iterator[storage.ObjectInfo]:
    return storage.listing(f"{uri}/")


def test_a_file_that_only_a_person_can_judge_is_left_and_told(two_nights, night, caplog):
    spec = two_nights
    orphan = f"{layout.features(spec)}/{FIRST}/shard-00007-0123456789ab.h5"
    storage.write_bytes(orphan, b"no file of features")
    alone = f"{layout.features(spec)}/{FIRST}/shard-00008-0123456789ab.index.jsonl"
    storage.write_bytes(alone, b"")
    before = published(spec)
    for options in (RunOptions(), RunOptions(force=True, lookback_days=2)):
        found = night(THIRD, run_id=str(options.force), options=options)
        assert any(orphan in told and "left alone" in told for told in found.told)
        assert any(alone in told and "left alone" in told for told in found.told)
        assert published(spec).items() >= before.items()


def test_another_registry_is_a_stranger_to_every_step_and_the_rebuilt_one_is_not(two_nights, upload, extract, night):
    spec, before, done, view = two_nights, published(two_nights), truth(), listed(two_nights)
    upload({f"{THIRD}/f.jpg": b"f"})
    (shard,) = planned(spec, discovered(spec, THIRD, "run"), "run")
    extract(spec, shard, THIRD)
    validated = validate.run(Run(spec, THIRD, "run"), shard)
    file = publish.run(Run(spec, THIRD, "run"), shard, validated)
    for uri in (file.uri, *layout.beside(file.uri)):
        storage.delete([uri])
    drop()
    steps: list[Callable[[], object]] = [
        lambda: discovered(spec, THIRD, "next"),
        lambda: discovered(spec, THIRD, "dry", dry_run=True),
        lambda: publish.run(Run(spec, THIRD, "run"), shard, validated),
        lambda: register.run(Run(spec, THIRD, "run"), shard, file),
        lambda: rebuild.run([spec], adopt=False, tell=lambda _: None),
    ]
    for step in steps:
        with pytest.raises(Stranger, match=r"belongs to registry .* `featurise registry rebuild --adopt`"):
            step()
    assert (published(spec), listed(spec)) == (before, view)

    rebuilt = rebuild.run([spec], adopt=True, tell=lambda _: None)
    assert (rebuilt.told, rebuilt.taken_in) == ([], len([key for key in before if key.endswith(".h5")]))
    assert (published(spec), listed(spec), truth()) == (before, view, done)
    assert findings() == []
    made = len(extract.made)
    night(THIRD)
    assert extract.made[made:] == [f"{spec.prefix}{THIRD}/f.jpg"]
    assert rebuild.run([spec], adopt=False, tell=lambda _: None).taken_in == 0


def test_a_bucket_of_the_version_before_is_rebuilt_from_its_files(two_nights, night):
    spec, done, view = two_nights, truth(), listed(two_nights)
    records = [key for key in published(spec) if key.endswith(".record.json")]
    storage.delete([f"s3://{spec.bucket}/{key}" for key in records])
    storage.delete([layout.identity(layout.location(spec))])
    before = published(spec)
    drop()
    with pytest.raises(Stranger, match="the registry knows none of them"):
        night(THIRD)
    assert rebuild.run([spec], adopt=True, tell=lambda _: None).told == []
    assert (published(spec), listed(spec), truth()) == (before, view, done)
    assert findings() == []
    with reading() as connection:
        for row in verify.shards(connection):
            assert row.statistics["images"] == len({*storage.read_bytes(row.index_uri).splitlines()})


def test_a_revision_that_is_declared_no_more_is_rebuilt_too(two_nights, night):
    other = RunOptions(precision="bf16").applied(two_nights)
    night(SECOND, of=other)
    view, done = (listed(two_nights), listed(other)), truth()
    drop()
    rebuild.run([other], adopt=True, tell=lambda _: None)
    with reading() as connection:
        assert {day.revision for day in coverage.coverage(connection)} == {two_nights.revision, other.revision}
    assert (listed(two_nights), listed(other)) == view
    assert (truth(), findings()) == (done, [])


def test_a_lost_registry_loses_nothing_that_the_bucket_s_readers_were_told(two_nights, upload, night):
    """Declared or not: the same images with the same provenance, now and as of each version before."""
    spec, folder = two_nights, layout.features(two_nights)
    upload({f"{SECOND}/again/c.jpg": b"c"})  # a copy, which no file's lists name
    night(SECOND, run_id="with a copy")
    last = catalogue.version(folder).version
    before = {number: told_by_catalogue(folder, number) for number in range(1, last + 1)}
    assert {str(row["key"]).rsplit("/", 1)[1] for row in before[last]} >= {"a.jpg", "late.jpg", "e.jpg"}
    for declared in ([spec], [RunOptions(precision="bf16").applied(spec)]):
        drop()
        assert rebuild.run(declared, adopt=True, tell=lambda _: None).told == []
        now = catalogue.version(folder)
        assert now.version > last
        assert told_by_catalogue(folder, now.version) == before[last]
        assert {number: told_by_catalogue(folder, number) for number in before} == before
        assert findings() == []


def told_by_catalogue(folder: str, number: int) -> list[dict[str, object]]:
    segments = catalogue.version(folder, number).segments
    return [row for segment in segments for row in catalogue.rows(folder, segment)]


def test_a_known_bucket_without_its_name_is_another_store(two_nights, night):
    storage.delete([layout.identity(layout.location(two_nights))])
    with pytest.raises(Stranger, match="another store or an emptied bucket; check AWS_ENDPOINT_URL"):
        night(THIRD)
    rebuild.run([two_nights], adopt=True, tell=lambda _: None)
    assert night(THIRD).fresh == 0


def test_two_registries_that_start_at_once_do_not_share_a_bucket(registry, spec):
    storage.client().head_bucket(Bucket=spec.bucket)
    mine = identity.ensure(spec)
    drop()
    with pytest.raises(Stranger):
        identity.ensure(spec)
    found = identity.read(layout.location(spec))
    assert found is not None
    assert found.registry == mine


def test_an_export_by_a_registry_that_is_behind_is_refused_and_stays(two_nights, upload, night, tmp_path: Path):
    saved = backup()
    upload({f"{THIRD}/f.jpg": b"f"})
    night(THIRD)
    out = tmp_path / "export"
    ask = (two_nights.dataset, two_nights.backbone, None, "h5", out, lambda *_: None)
    export.run(*ask)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    restore(saved)
    for use in (export.run, export.renew):
        with pytest.raises(latest.RegistryBehind, match="run `featurise registry rebuild`"):
            use(*ask)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    rebuild.run([two_nights], adopt=False, tell=lambda _: None)
    assert export.run(*ask).before == 6


def test_only_what_this_registry_wrote_down_is_removed(registry, spec, upload, extract, night):
    in_flight(spec, extract, upload)
    report.run(Run(spec, FIRST, "run"))
    with session.writing() as connection:
        connection.execute(sqlalchemy.delete(models.Publication))
    before = published(spec)
    assert night(FIRST, run_id="next").fresh == 0, "it is taken in"
    assert published(spec) == before
    assert findings() == []


def test_a_run_whose_file_was_taken_in_meanwhile_registers_it_as_its_own(registry, spec, upload, extract):
    shard, file = in_flight(spec, extract, upload)
    with session.writing() as connection:  # published by the version before, which wrote nothing down
        connection.execute(sqlalchemy.delete(models.Publication))
    storage.delete([layout.record(file.uri)])
    assert discovered(spec, SECOND, "other").taken_in == 1
    finish(Run(spec, FIRST, "run"), shard)
    told = report.run(Run(spec, FIRST, "run"))
    assert (told.counts["done"], told.counts["files"], told.counts["pending"]) == (1, 1, 0)


def test_an_id_that_was_given_on_stays_with_its_second_image(registry, spec, upload, night, extract):
    upload({f"{FIRST}/x.jpg": b"one"})
    night(FIRST)
    storage.delete([f"s3://{spec.bucket}/{spec.prefix}{FIRST}/x.jpg"])
    upload({f"{SECOND}/x.jpg": b"two"})
    night(SECOND)
    done, made = truth(), len(extract.made)
    restore({})
    for day in (SECOND, FIRST):
        assert night(day, run_id=f"{day} again", options=RunOptions(lookback_days=0)).fresh == 0
    assert truth() == done
    assert len(extract.made) == made


@pytest.mark.parametrize("database", ["sqlite"])
def test_the_command_rebuilds_what_is_declared_and_says_what_it_left(two_nights, tmp_path, monkeypatch, capsys):
    facts = two_nights.model_dump(mode="json", exclude={"dataset", "backbone"})
    datasets = {two_nights.dataset: {**facts, "backbones": [two_nights.backbone]}}
    (tmp_path / "featurise.yaml").write_text(json.dumps({"datasets": datasets}))
    monkeypatch.setenv("FEATURISE_DECLARATION", str(tmp_path / "featurise.yaml"))
    settings.cache_clear()
    done, count = truth(), len(files(two_nights))
    drop()
    assert cli.rebuild(adopt=True) == 0
    assert f"{count} files taken in, 0 things left alone" in capsys.readouterr().out
    assert truth() == done
    storage.write_bytes(f"{layout.features(two_nights)}/{FIRST}/shard-00007-0123456789ab.h5", b"nobody's")
    assert cli.rebuild() == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "shard-00007-0123456789ab.h5 is not registered, and cannot be taken in" in said
    assert "0 files taken in, 1 things left alone" in said
