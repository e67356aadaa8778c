"""Runs that are repeated, overtaken or contradicted: the newest image counts, and nothing that is open is lost."""

import pytest
from sqlalchemy import select
from steps import discovered, finish, planned, up_to_publication

from extractor.core import storage
from extractor.core.manifest import Reject, RejectReason
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.declaration.run_options import RunOptions
from featurise.objects import layout
from featurise.registry import feature_sets, models, upsert
from featurise.registry.coverage import coverage, places
from featurise.registry.session import reading, writing
from featurise.steps import plan
from featurise.steps.discover import step as discover
from featurise.steps.report import step as report

DAY, BEFORE = "2026-11-23", "2026-11-22"
pytestmark = pytest.mark.usefixtures("registry")


def begin(spec: FeatureSetSpec, batch: str, run_id: str, **options) -> list[plan.Shard]:
    """The shards of a run."""
    return planned(spec, discovered(spec, batch, run_id, **options), run_id, **options)


def states(image: str) -> dict[str, str]:
    with reading() as connection:
        found = places(connection, image)
    return {f"{place.batch} {place.etag[:4]}": place.state for place in found}


def live(image: str) -> list[str]:
    with reading() as connection:
        return sorted(f"{place.batch} {place.state}" for place in places(connection, image) if "," not in place.state)


def files(image: str) -> set[str | None]:
    """The files that an image's outcomes are in that count."""
    with reading() as connection:
        return {place.uri for place in places(connection, image) if "," not in place.state}


def day(batch: str = DAY):
    with reading() as connection:
        return next(one for one in coverage(connection) if one.batch == batch)


def remove(spec: FeatureSetSpec, name: str) -> None:
    storage.delete([f"s3://{spec.bucket}/{spec.prefix}{name}"])


def test_a_run_that_is_cleared_from_discovery_does_what_is_new_since(spec, upload, night, extract):
    upload({f"{DAY}/a.jpg": b"a", f"{DAY}/b.jpg": b"b"})
    night(run_id="run")
    upload({f"{DAY}/a.jpg": b"changed", f"{DAY}/c.jpg": b"c"})
    night(run_id="run")

    assert sorted(extract.made[2:]) == [f"{spec.prefix}{DAY}/a.jpg", f"{spec.prefix}{DAY}/c.jpg"]
    assert (day().found, day().done, day().pending) == (3, 3, 0)
    told = report.run(Run(spec, DAY, "run"))
    assert (told.counts["done"], told.counts["pending"], told.counts["files"]) == (4, 0, 2)


def test_a_finished_run_that_is_cleared_finds_all_of_it_done(spec, upload, night, extract):
    upload({f"{DAY}/a.jpg": b"a"})
    found = night(run_id="run")

    (shard,) = planned(spec, found, "run")  # `plan` alone is cleared
    assert shard.name == "shard-00001"
    night(run_id="run")
    assert len(extract.made) == 1
    told = report.run(Run(spec, DAY, "run"))
    assert (told.counts["new"], told.counts["done"], told.counts["pending"]) == (1, 1, 0)


def test_the_newer_image_stays_when_an_old_run_ends_after_it(spec, upload, night, extract):
    upload({f"{DAY}/a.jpg": b"old"})
    (shard,) = begin(spec, DAY, "slow")
    extract(spec, shard, DAY)
    report.run(Run(spec, DAY, "slow"))
    upload({f"{DAY}/a.jpg": b"new", f"{DAY}/b.jpg": b"open"})
    night(run_id="quick", options=RunOptions(keys=[f"{spec.prefix}{DAY}/a.jpg"]))
    finish(Run(spec, DAY, "slow"), shard)

    found = states("a")
    assert sorted(found.values()) == ["featurised", "featurised, superseded"]
    with reading() as connection:
        (current,) = [place for place in places(connection, "a") if place.state == "featurised"]
    assert current.etag == storage.head(f"s3://{spec.bucket}/{spec.prefix}{DAY}/a.jpg").etag
    assert day().done == 1


def test_a_shard_that_ends_after_another_run_did_its_images_leaves_them_where_they_are(spec, upload, night, extract):
    upload({f"{BEFORE}/a.jpg": b"a", f"{BEFORE}/b.jpg": b"b"})
    (shard,) = begin(spec, BEFORE, "failed")
    report.run(Run(spec, BEFORE, "failed"))
    night(DAY, options=RunOptions(keys=[f"{spec.prefix}{BEFORE}/a.jpg"]))  # b is open still, so the shard is kept
    before = files("a")
    extract(spec, shard, BEFORE)
    finish(Run(spec, BEFORE, "failed"), shard)

    assert files("a") == before != files("b")
    assert (day(BEFORE).found, day(BEFORE).done, day(BEFORE).pending) == (2, 2, 0)
    assert report.run(Run(spec, BEFORE, "failed")).counts["pending"] == 0


def test_an_old_runs_reject_does_not_touch_the_newer_image(spec, upload, night):
    upload({f"{DAY}/a.jpg": b"old"})
    found = discovered(spec, DAY, "slow")
    old = storage.head(f"s3://{spec.bucket}/{spec.prefix}{DAY}/a.jpg")
    report.run(Run(spec, DAY, "slow"))
    upload({f"{DAY}/a.jpg": b"new"})
    night(run_id="quick")
    line = Reject(
        key=old.key, etag=old.etag, size=old.size, image_id="a", reason=RejectReason.CHANGED, detail="replaced"
    )
    row = line.model_dump(mode="json") | {"batch": DAY, "run_id": "slow"}
    with writing() as connection:
        upsert.rejects(connection, feature_sets.ensure(connection, spec), [row], seen_at=found.listed_at)

    assert live("a") == [f"{DAY} featurised"]


def test_an_old_runs_reject_is_kept_beside_what_another_run_featurised_since(spec, upload, night):
    upload({f"{DAY}/a.jpg": b"a"})
    found = discovered(spec, DAY, "slow")
    report.run(Run(spec, DAY, "slow"))
    night(run_id="quick")
    with reading() as connection:
        (done,) = places(connection, "a")
    facts = {"key": done.key, "etag": done.etag, "size": 1, "image_id": "a", "batch": DAY, "run_id": "slow"}
    with writing() as connection:
        number = feature_sets.ensure(connection, spec)
        upsert.rejects(connection, number, [facts | {"reason": "unreadable", "detail": ""}], seen_at=found.listed_at)

    with reading() as connection:
        assert sorted(place.state for place in places(connection, "a")) == ["featurised", "rejected, superseded"]
    remove(spec, f"{DAY}/a.jpg")
    night(run_id="deleted")
    upload({f"{DAY}/a.jpg": b"a"})
    night(run_id="returned")
    assert live("a") == [f"{DAY} featurised"]


def test_a_copy_that_changes_is_no_second_owner_of_its_id(spec, upload, night):
    upload({f"{BEFORE}/x.jpg": b"one"})
    night(BEFORE)
    upload({f"{DAY}/x.jpg": b"one"})
    night(DAY)
    for name in (DAY, BEFORE):
        upload({f"{name}/x.jpg": b"other"})
        night(DAY, run_id=f"changed {name}")
        assert f"{name} rejected" in live("x")
        assert len([state for state in live("x") if "featurised" in state]) == 1
        upload({f"{name}/x.jpg": b"one"})
        night(DAY, run_id=f"as it was {name}")
        assert live("x") == [f"{BEFORE} featurised", f"{DAY} featurised"]


def test_copies_that_are_replaced_together_are_copies_still(upload, night):
    upload({f"{BEFORE}/x.jpg": b"one", f"{DAY}/x.jpg": b"one"})
    night(BEFORE)
    night(DAY)
    (old,) = files("x")
    upload({f"{BEFORE}/x.jpg": b"other", f"{DAY}/x.jpg": b"other"})
    night(DAY, run_id="replaced")
    assert live("x") == [f"{BEFORE} featurised", f"{DAY} featurised"]
    (new,) = files("x")
    assert new != old


def test_copies_that_are_replaced_night_after_night_are_copies_again(upload, night):
    upload({f"{BEFORE}/x.jpg": b"one", f"{DAY}/x.jpg": b"one"})
    night(BEFORE)
    night(DAY)
    upload({f"{BEFORE}/x.jpg": b"other"})
    night(DAY, run_id="one of them")
    assert live("x") == [f"{BEFORE} rejected", f"{DAY} featurised"]
    upload({f"{DAY}/x.jpg": b"other"})
    night(DAY, run_id="the other one")
    night(DAY, run_id="looked at again")
    assert live("x") == [f"{BEFORE} featurised", f"{DAY} featurised"]
    assert night(DAY, run_id="nothing new").fresh == 0


def test_copies_that_are_replaced_leave_their_id_to_the_copy_that_stays(upload, night):
    upload({f"{BEFORE}/x.jpg": b"one", f"{BEFORE}/deep/x.jpg": b"one", f"{DAY}/x.jpg": b"one"})
    night(BEFORE)
    night(DAY)
    for stays, left in ((DAY, BEFORE), (BEFORE, DAY)):
        replaced = {f"{BEFORE}/x.jpg", f"{BEFORE}/deep/x.jpg", f"{DAY}/x.jpg"} - {f"{stays}/x.jpg"}
        upload(dict.fromkeys(replaced, b"other"))
        night(DAY, run_id=f"{stays} stays")
        assert sorted(live("x")) == sorted([f"{stays} featurised", f"{BEFORE} rejected", f"{left} rejected"])
        upload(dict.fromkeys(replaced, b"one"))
        night(DAY, run_id=f"{stays} stayed")
        assert live("x") == [f"{BEFORE} featurised", f"{BEFORE} featurised", f"{DAY} featurised"]


@pytest.mark.parametrize(
    ("first", "second", "again"),
    [
        (f"{DAY}/x/a.jpg", f"{DAY}/y/a.jpg", DAY),
        (f"{BEFORE}/a.jpg", f"{DAY}/a.jpg", BEFORE),
        (f"{BEFORE}/a.jpg", f"{DAY}/a.jpg", DAY),
    ],
)
def test_force_makes_the_file_of_copies_anew(spec, upload, night, first, second, again):
    upload({first: b"same", second: b"same"})
    night(BEFORE)
    night(DAY)
    (lost,) = files("a")
    storage.delete([lost])
    upload({f"{again}/more.jpg": b"more"})
    night(again, run_id="again", options=RunOptions(force=True, lookback_days=0))

    (found,) = files("a")
    assert found != lost
    assert storage.head(found) is not None
    assert len(live("a")) == 2


def test_an_image_that_returns_does_not_take_its_id_back(spec, upload, night):
    upload({f"{BEFORE}/x.jpg": b"one"})
    night(BEFORE)
    remove(spec, f"{BEFORE}/x.jpg")
    upload({f"{DAY}/x.jpg": b"two"})
    night(DAY)
    upload({f"{BEFORE}/x.jpg": b"one"})
    found = night(DAY, run_id="returned")

    assert live("x") == [f"{BEFORE} rejected", f"{DAY} featurised"]
    assert (found.done, found.rejected, found.refused) == (1, 1, 1)
    assert (day(BEFORE).done, day(BEFORE).rejected, day(BEFORE).pending) == (0, 1, 0)
    assert report.run(Run(spec, DAY, "returned")).text == "no new images, 1 rejected at once"


def test_a_reject_for_its_id_is_tried_again_when_the_id_is_free(spec, upload, night):
    upload({f"{BEFORE}/x.jpg": b"one"})
    night(BEFORE)
    upload({f"{DAY}/x.jpg": b"two"})
    night(DAY)
    assert live("x") == [f"{BEFORE} featurised", f"{DAY} rejected"]
    assert night(DAY, run_id="nothing new").fresh == 0
    remove(spec, f"{BEFORE}/x.jpg")
    night(DAY, run_id="deleted")
    night(DAY, run_id="free")

    assert live("x") == [f"{DAY} featurised"]


def test_an_image_that_returns_has_its_latest_outcome_and_no_other(spec, upload, night):
    upload({f"{DAY}/a.jpg": b"bad", f"{DAY}/b.jpg": b"b"})
    night()
    with reading() as connection:
        refused = connection.execute(select(models.RegisteredReject.__table__)).one()
        other = connection.execute(select(models.Image.__table__)).one()
    row = {name: getattr(refused, name) for name in ("key", "etag", "size", "image_id", "batch")}
    with writing() as connection:  # what a forced run does that finds the image good after all
        number = feature_sets.ensure(connection, spec)
        upsert.images(connection, number, [row | {"shard_id": other.shard_id, "sha256": "0" * 64, "boxes": 36}])
    remove(spec, f"{DAY}/a.jpg")
    night(run_id="deleted")
    upload({f"{DAY}/a.jpg": b"bad"})
    night(run_id="returned")

    assert live("a") == [f"{DAY} featurised"]
    assert (day().found, day().done, day().rejected) == (2, 2, 0)


def test_a_report_keeps_what_another_run_has_still_to_do(spec, upload, night, extract):
    upload({f"{DAY}/{name}.jpg": name.encode() for name in "abcd"})
    (shard,) = begin(spec, DAY, "first")
    extract(spec, shard, DAY)
    report.run(Run(spec, DAY, "first"))
    night(run_id="one more", options=RunOptions(limit=1))

    assert storage.head(shard.manifest_uri) is not None
    finish(Run(spec, DAY, "first"), shard)
    assert (day().done, day().pending) == (4, 0)
    report.run(Run(spec, DAY, "first"))
    assert list(storage.listing(layout.works(spec, DAY))) == []


def left(spec: FeatureSetSpec) -> set[str]:
    """The run folders that there are of work."""
    folder = layout.works(spec, DAY).removeprefix(f"s3://{spec.bucket}/").removesuffix(f"{DAY}/")
    found = storage.listing(f"s3://{spec.bucket}/{folder}")
    return {"/".join(item.key.removeprefix(folder).split("/")[:2]) for item in found}


def test_a_night_that_makes_up_for_a_failed_one_removes_what_that_left(spec, upload, night, extract):
    upload({f"{BEFORE}/a.jpg": b"a"})
    (shard,) = begin(spec, BEFORE, "failed")
    extract(spec, shard, BEFORE)
    published = up_to_publication(Run(spec, BEFORE, "failed"), shard)
    report.run(Run(spec, BEFORE, "failed"))
    upload({f"{DAY}/b.jpg": b"b", f"{BEFORE}/c.jpg": b"c"})
    night(DAY, run_id="first", options=RunOptions(limit=1))
    assert left(spec) == {f"{BEFORE}/failed"}, "there is an image still to do"
    assert storage.head(published.uri) is not None
    night(DAY, run_id="second")
    assert left(spec) == set()
    assert storage.head(published.uri) is None


def test_a_night_does_not_touch_the_day_that_another_run_works_on(spec, upload, night):
    upload({f"{BEFORE}/a.jpg": b"a", f"{DAY}/b.jpg": b"b"})
    night(BEFORE)
    begin(spec, BEFORE, "backfill", force=True)
    night(DAY)
    assert left(spec) == {f"{BEFORE}/backfill"}


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"limit": 1, "max_boxes": 50}])
def test_a_dry_run_leaves_its_report_and_nothing_else(spec, upload, night, options):
    upload({f"{DAY}/a.jpg": b"a"})
    begin(spec, DAY, "real")
    for _again in range(2):
        night(DAY, run_id="dry", options=RunOptions(dry_run=True, **options))
        assert left(spec) == {f"{DAY}/real"}
        assert left(RunOptions(**options).applied(spec)) <= {f"{DAY}/real"}
    told = report.run(Run(RunOptions(**options).applied(spec), DAY, "dry"))
    assert told.text == "dry run: 1 new images in 1 shards"


def test_a_report_of_a_failed_discovery_removes_nothing(spec, upload, extract, monkeypatch):
    upload({f"{DAY}/a.jpg": b"a"})
    (shard,) = begin(spec, DAY, "first")
    report.run(Run(spec, DAY, "first"))
    monkeypatch.setattr(discover, "_look", lambda *_: storage.read_bytes("s3://nowhere-at-all/x"))
    with pytest.raises(storage.StorageError):
        discovered(spec, DAY, "second")
    report.run(Run(spec, DAY, "second"))

    extract(spec, shard, DAY)
    finish(Run(spec, DAY, "first"), shard)
    assert day().done == 1


def test_the_list_for_readers_follows_deletions(spec, upload, night):
    upload({f"{DAY}/a.jpg": b"a", f"{DAY}/b.jpg": b"b"})
    night()
    remove(spec, f"{DAY}/a.jpg")
    night(run_id="second")
    assert b'"images": 1' in storage.read_bytes(layout.latest(spec))
    remove(spec, f"{DAY}/b.jpg")
    night(run_id="third")
    assert b'"images": 0' in storage.read_bytes(layout.latest(spec))


def test_a_day_has_one_name(spec):
    with pytest.raises(discover.batches.BatchInvalid, match="write it 2026-11-23"):
        discovered(spec, "20261123", "run")
