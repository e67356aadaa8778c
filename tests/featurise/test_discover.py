"""What counts as new: late, changed, reverted, deleted, moved, doubled images; batches that are not ready."""

import dataclasses
import datetime
from collections.abc import Iterator

import pytest
from steps import discovered, fresh, planned

from extractor.core import storage
from extractor.core.exit_codes import StorageError
from featurise.declaration import batches
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.declaration.run_options import RunOptions
from featurise.registry import feature_sets, leases
from featurise.registry.coverage import coverage, places
from featurise.registry.session import reading
from featurise.steps.discover import readiness, second_look
from featurise.steps.report import step as report

DAY, BEFORE = "2026-11-23", "2026-11-22"
pytestmark = pytest.mark.usefixtures("registry")


def day(batch: str = DAY):
    with reading() as connection:
        return next(one for one in coverage(connection) if one.batch == batch)


def states(image: str) -> list[str]:
    with reading() as connection:
        return sorted(place.state for place in places(connection, image))


def remove(spec: FeatureSetSpec, name: str) -> None:
    storage.delete([f"s3://{spec.bucket}/{spec.prefix}{name}"])


def test_markers_and_folders_are_no_images(spec, upload):
    upload({f"{DAY}/a.jpg": b"a", f"{DAY}/_SUCCESS": b"", f"{DAY}/deep/b.png": b"b"})
    assert fresh(spec) == [f"{DAY}/a.jpg", f"{DAY}/deep/b.png"]


def test_an_empty_night_finds_nothing(spec):
    found = discovered(spec, DAY, "run")
    assert (found.found, found.fresh, found.left) == (0, 0, None)


def test_a_missing_bucket_is_named_with_its_endpoint(spec, store):
    elsewhere = spec.model_copy(update={"bucket": "no-such-bucket", "outputs": spec.outputs})
    with pytest.raises(StorageError, match=f"(?s)no-such-bucket.*{store.endpoint}"):
        discovered(elsewhere, DAY, "run")


def test_a_batch_is_named_by_a_day(spec):
    with pytest.raises(batches.BatchInvalid, match=r"'yesterday'.*expected a day"):
        discovered(spec, "yesterday", "run")


def test_late_images_are_found_by_the_lookback(spec, upload, night):
    upload({f"{BEFORE}/a.jpg": b"a"})
    night(BEFORE)
    upload({f"{BEFORE}/late.jpg": b"late", f"{DAY}/b.jpg": b"b"})
    found = night(DAY)
    assert (found.fresh, found.late) == (2, 1)
    assert (day(BEFORE).found, day(BEFORE).done, day(DAY).done) == (2, 2, 1)


def test_a_skipped_night_is_made_up_for_within_the_window_and_not_beyond(spec, upload):
    upload({"2026-11-20/in.jpg": b"in", "2026-11-19/out.jpg": b"out"})
    assert fresh(spec) == ["2026-11-20/in.jpg"]


def test_a_backfill_without_lookback_keeps_to_its_day(spec, upload):
    upload({f"{BEFORE}/a.jpg": b"a", f"{DAY}/b.jpg": b"b"})
    assert fresh(spec, lookback_days=0) == [f"{DAY}/b.jpg"]


def test_a_changed_image_is_done_again_and_the_old_row_kept(spec, upload, night):
    upload({f"{DAY}/a.jpg": b"old"})
    night()
    upload({f"{DAY}/a.jpg": b"new"})
    assert night(run_id="second").fresh == 1
    assert states("a") == ["featurised", "featurised, superseded"]
    assert (day().found, day().done, day().pending) == (1, 1, 0)


def test_an_image_that_is_put_back_needs_no_second_extraction(spec, upload, night, extract):
    for data in (b"old", b"new", b"old"):
        upload({f"{DAY}/a.jpg": data})
        night(run_id=f"run of {len(extract.made)}")
    assert len(extract.made) == 2
    assert states("a") == ["featurised", "featurised, superseded"]
    with reading() as connection:
        live = next(place for place in places(connection, "a") if place.state == "featurised")
    assert live.etag == storage.head(f"s3://{spec.bucket}/{spec.prefix}{DAY}/a.jpg").etag


def test_an_image_that_turned_bad_is_a_reject_and_its_features_count_no_more(upload, night):
    upload({f"{DAY}/a.jpg": b"fine"})
    night()
    upload({f"{DAY}/a.jpg": b"bad"})
    night(run_id="second")
    assert states("a") == ["featurised, superseded", "rejected"]
    assert (day().done, day().rejected, day().pending) == (0, 1, 0)


def test_deleted_images_are_noted_and_come_back(spec, upload, night, extract):
    upload({f"{DAY}/a.jpg": b"a", f"{DAY}/b.jpg": b"b"})
    night()
    remove(spec, f"{DAY}/a.jpg")
    assert night(run_id="second").deleted == 1
    assert states("a") == ["featurised, deleted since"]
    assert (day().found, day().done, day().deleted) == (1, 1, 1)
    upload({f"{DAY}/a.jpg": b"a"})
    night(run_id="third")
    assert states("a") == ["featurised"]
    assert len(extract.made) == 2


@pytest.fixture
def forgetful(store) -> Iterator[set[str]]:
    """Names that the store's listings lack, although the images are there."""
    lost: set[str] = set()

    def forget(parsed, **_) -> None:
        kept = [item for item in parsed.get("Contents", ()) if item["Key"].rpartition("/")[2] not in lost]
        parsed["Contents"] = kept

    storage.client().meta.events.register("after-call.s3.ListObjectsV2", forget)
    yield lost
    storage.client().meta.events.unregister("after-call.s3.ListObjectsV2", forget)


@pytest.mark.parametrize("looked_for", [1000, 2])
def test_a_listing_that_lacks_images_deletes_none(spec, upload, night, forgetful, monkeypatch, looked_for):
    monkeypatch.setattr(second_look, "LOOKED_FOR", looked_for)
    upload({f"{DAY}/{name}.jpg": name.encode() for name in "abcdef"})
    night()
    remove(spec, f"{DAY}/a.jpg")
    forgetful |= {"b.jpg", "c.jpg", "d.jpg"}
    count = "3 of 4" if looked_for == 1000 else "1 of 2"
    with pytest.raises(StorageError, match=rf"jpg is there, and .* lacks it, as {count} images .*4 are missing"):
        discovered(spec, DAY, "second")
    assert (day().found, day().done, day().deleted) == (6, 6, 0)
    forgetful.clear()
    assert discovered(spec, DAY, "second").deleted == 1
    assert (day().found, day().done, day().deleted) == (5, 5, 1)


def test_a_deleted_image_that_comes_back_as_another_is_no_deleted_one(spec, upload, night):
    upload({f"{DAY}/a.jpg": b"a", f"{DAY}/b.jpg": b"b"})
    night()
    remove(spec, f"{DAY}/a.jpg")
    remove(spec, f"{DAY}/b.jpg")
    night(run_id="second")
    assert (day().done, day().deleted) == (0, 2)
    upload({f"{DAY}/a.jpg": b"another", f"{DAY}/b.jpg": b"bad"})
    night(run_id="third")
    assert (day().found, day().done, day().rejected, day().deleted) == (2, 1, 1, 0)


def test_rejects_are_not_tried_again_until_they_change(upload, night, extract):
    upload({f"{DAY}/a.jpg": b"bad"})
    night()
    assert night(run_id="second").rejected == 1
    upload({f"{DAY}/a.jpg": b"repaired"})
    assert night(run_id="third").fresh == 1
    assert states("a") == ["featurised", "rejected, superseded"]


def test_the_same_bytes_under_another_key_are_done_without_extraction(spec, upload, night, extract):
    upload({f"{BEFORE}/a.jpg": b"same"})
    night(BEFORE)
    upload({f"{DAY}/a.jpg": b"same"})
    found = night(DAY)
    assert (found.fresh, found.done) == (0, 2)
    assert extract.made == [f"{spec.prefix}{BEFORE}/a.jpg"]
    assert states("a") == ["featurised", "featurised"]


def test_other_bytes_under_a_known_id_are_a_reject_that_names_both(spec, upload, night):
    upload({f"{BEFORE}/a.jpg": b"one"})
    night(BEFORE)
    upload({f"{DAY}/a.jpg": b"two"})
    night(DAY)
    with reading() as connection:
        reject = next(place for place in places(connection, "a") if place.state == "rejected")
    assert reject.reason == "duplicate_id"
    assert f"{BEFORE}/a.jpg" in reject.detail
    assert f"{DAY}/a.jpg" in reject.detail


def test_a_moved_image_that_changed_is_new(spec, upload, night):
    upload({f"{BEFORE}/a.jpg": b"one"})
    night(BEFORE)
    remove(spec, f"{BEFORE}/a.jpg")
    upload({f"{DAY}/a.jpg": b"two"})
    assert night(DAY).fresh == 1
    assert states("a") == ["featurised", "featurised, deleted since"]


def test_limit_and_keys_narrow_what_is_new_and_not_what_is_counted(spec, upload):
    upload({f"{DAY}/{n}.jpg": str(n).encode() for n in range(5)})
    found = discovered(spec, DAY, "run", limit=2)
    assert (found.found, found.fresh) == (5, 2)
    assert fresh(spec, keys=[f"{spec.prefix}{DAY}/3"]) == [f"{DAY}/3.jpg"]


def test_force_finds_everything_new(spec, upload, night, extract):
    upload({f"{DAY}/a.jpg": b"a"})
    night()
    night(run_id="again", options=RunOptions(force=True))
    assert len(extract.made) == 2
    assert states("a") == ["featurised"]
    assert day().done == 1


def test_force_and_limit_keep_to_the_runs_own_day(spec, upload, night):
    upload({f"{BEFORE}/{name}.jpg": name.encode() for name in "ab"} | {f"{DAY}/c.jpg": b"c", f"{DAY}/d.jpg": b"d"})
    assert fresh(spec, "some", limit=1) == [f"{DAY}/c.jpg"]
    assert fresh(spec, "some", limit=3) == [f"{DAY}/c.jpg", f"{DAY}/d.jpg", f"{BEFORE}/a.jpg"]
    night(run_id="some")
    assert fresh(spec, "forced", force=True) == [f"{DAY}/c.jpg", f"{DAY}/d.jpg"]
    assert len(fresh(spec, "forced", force=True, lookback_days=1)) == 4


def test_of_new_images_with_one_id_the_earlier_day_has_it(upload, night):
    upload({f"{DAY}/a.jpg": b"later", f"{BEFORE}/a.jpg": b"earlier"})
    night()
    assert (day(BEFORE).done, day(DAY).rejected) == (1, 1)


def test_a_dry_run_claims_and_changes_nothing(spec, upload):
    upload({f"{DAY}/a.jpg": b"a"})
    found = discovered(spec, DAY, "dry", dry_run=True)
    assert found.fresh == 1
    assert planned(spec, found, "dry", dry_run=True) == []
    assert report.run(Run(spec, DAY, "dry")).text == "dry run: 1 new images in 1 shards"
    with reading() as connection:
        assert coverage(connection) == []
        assert feature_sets.find(connection, spec) is None


def test_a_batch_waits_for_its_success_object(spec, upload):
    spec = spec.model_copy(update={"ready": type(spec.ready)(success="_SUCCESS")})
    assert readiness.not_ready(spec, DAY) is None, "nothing at all: an empty night"
    upload({f"{DAY}/a.jpg": b"a"})
    assert "_SUCCESS is not there yet" in readiness.not_ready(spec, DAY)
    assert discovered(spec, DAY, "run").left.startswith(f"batch {DAY} is not ready")
    upload({f"{DAY}/_SUCCESS": b""})
    assert readiness.not_ready(spec, DAY) is None
    assert fresh(spec) == [f"{DAY}/a.jpg"]


def test_a_batch_waits_until_it_is_quiet_and_gives_its_claim_back(spec, upload):
    unsettled = spec.model_copy(update={"ready": type(spec.ready)(settle_seconds=3600)})
    upload({f"{DAY}/a.jpg": b"a"})
    assert "it settles after 3600 s" in readiness.not_ready(unsettled, DAY)
    assert "it settles after 3600 s" in discovered(unsettled, DAY, "early").left
    assert fresh(spec, "other") == [f"{DAY}/a.jpg"]


@pytest.mark.parametrize(
    ("ready", "why"), [({"success": "_SUCCESS"}, "_SUCCESS is not there yet"), ({"settle_seconds": 3600}, "it settles")]
)
def test_the_lookback_leaves_a_batch_alone_that_is_not_ready(spec, upload, ready, why):
    spec = spec.model_copy(update={"ready": type(spec.ready)(**ready)})
    upload({f"{BEFORE}/half.jpg": b"half"})
    found = discovered(spec, DAY, "run")
    assert (found.found, found.fresh) == (0, 0)
    (passed_over,) = found.passed_over
    assert passed_over.startswith(f"batch {BEFORE} is not ready: ")
    assert why in passed_over
    with reading() as connection:
        assert leases.holder(connection, feature_sets.find(connection, spec), BEFORE) is None


def test_batches_by_the_day_of_the_last_change(spec, upload, night):
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    spec = spec.model_copy(update={"batches": type(spec.batches)(by="modified"), "lookback_days": 0})
    upload({"x/a.jpg": b"a", "y/b.jpg": b"b"})
    assert fresh(spec, "today", today) == ["x/a.jpg", "y/b.jpg"]
    assert fresh(spec, "long ago", "2026-11-01") == []
    night(today, of=spec, run_id="today")
    remove(spec, "x/a.jpg")
    assert discovered(spec, "2026-11-01", "long ago").deleted == 1


def test_a_day_of_the_last_change_keeps_count_of_images_that_leave_it(spec, upload, night, monkeypatch):
    days = {f"{name}.jpg": 1 for name in "abcd"}
    listing = storage.listing

    def dated(uri: str) -> Iterator[storage.ObjectInfo]:
        for item in listing(uri):
            day = days.get(item.key.rsplit("/", 1)[1], 1)
            yield dataclasses.replace(item, modified=datetime.datetime(2026, 11, day, tzinfo=datetime.UTC))

    def counts() -> list[tuple[str, int, int, int]]:
        with reading() as connection:
            return [(one.batch[-2:], one.found, one.done, one.pending) for one in coverage(connection)]

    monkeypatch.setattr(storage, "listing", dated)
    spec = spec.model_copy(update={"batches": type(spec.batches)(by="modified"), "lookback_days": 1})
    upload({name: name.encode() for name in days})
    night("2026-11-01", of=spec)
    days["a.jpg"] = 20
    night("2026-11-20", of=spec, run_id="put again as it was")
    assert counts() == [("01", 4, 4, 0), ("19", 0, 0, 0), ("20", 0, 0, 0)]
    days["b.jpg"] = 20
    upload({"b.jpg": b"replaced"})
    night("2026-11-20", of=spec, run_id="replaced")
    assert counts() == [("01", 3, 3, 0), ("19", 0, 0, 0), ("20", 1, 1, 0)]
    remove(spec, "c.jpg")
    night("2026-11-20", of=spec, run_id="deleted")
    assert counts() == [("01", 2, 2, 0), ("19", 0, 0, 0), ("20", 1, 1, 0)]


def test_a_backfill_may_have_an_earlier_batch_that_the_night_has_nothing_to_do_in(spec, upload, night):
    upload({f"{BEFORE}/a.jpg": b"a"})
    night(BEFORE)
    upload({f"{DAY}/b.jpg": b"b"})
    assert fresh(spec, "tonight", DAY) == [f"{DAY}/b.jpg"]
    assert fresh(spec, "backfill", BEFORE, force=True, lookback_days=0) == [f"{BEFORE}/a.jpg"]


def test_a_name_that_makes_no_id_is_a_reject_and_the_night_goes_on(spec, upload, night):
    upload({f"{DAY}/..jpg": b"no id", f"{DAY}/a.jpg": b"a"})
    assert night().fresh == 1
    assert (day().found, day().done, day().rejected, day().pending) == (2, 1, 1, 0)
    with reading() as connection:
        (reject,) = places(connection, f"{spec.prefix}{DAY}/..jpg")
    assert reject.reason == "unsupported"
    assert "cannot name an HDF5 group" in reject.detail


@pytest.mark.parametrize(("letter", "shown"), [("\0", "%00"), ("\ud83d", "%ED%A0%BD")], ids=["NUL", "surrogate"])
def test_a_key_that_no_database_takes_is_a_reject_once(spec, upload, night, monkeypatch, letter, shown):
    # The tests' store refuses such keys; others list them.
    listing = storage.listing

    def listed(uri: str):
        for item in listing(uri):
            yield dataclasses.replace(item, key=item.key.replace("a=b", f"a{letter}b"))

    monkeypatch.setattr(storage, "listing", listed)
    upload({f"{DAY}/a=b.jpg": b"odd", f"{DAY}/b.jpg": b"b"})
    night(DAY)
    assert (day().found, day().done, day().rejected) == (2, 1, 1)
    assert states(f"a{shown}b") == ["rejected"]
    again = discovered(spec, DAY, "again")
    assert (again.fresh, again.refused) == (0, 0)


def test_a_store_that_lists_by_folder_is_compared_as_well_as_any(spec, upload, night):
    upload({f"{DAY}/{name}.jpg": name.encode() for name in ("a/one", "a-b/two", "a.b", "a0", "Z", "\u00e9")})
    listed = [item.key for item in storage.listing(f"s3://{spec.bucket}/{spec.prefix}{DAY}/")]
    assert listed != sorted(listed), "this store lists folders, not bytes; otherwise nothing is tested here"
    assert night().fresh == 6
    again = night(run_id="again")
    assert (again.fresh, again.done, again.deleted) == (0, 6, 0)
