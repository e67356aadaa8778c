"""Listing against registry in one pass, whatever the listing's order."""

import datetime

from hypothesis import given
from hypothesis import strategies as st

from extractor.core.storage import ObjectInfo
from featurise.registry.outcomes import Known
from featurise.steps.discover import diff, external_sort

NOW = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.UTC)
KEYS = st.text(alphabet="ab/-.0\u00e9\U0001f600", min_size=1, max_size=6)
LISTED = st.dictionaries(KEYS, st.sampled_from("12"), max_size=30)
ROWS = st.dictionaries(
    KEYS,
    st.lists(st.tuples(st.sampled_from("12"), st.booleans(), st.sampled_from([None, "empty", "missing"]))),
    max_size=30,
)


def item(key: str, etag: str = "1") -> ObjectInfo:
    return ObjectInfo(key, etag, 1, NOW)


@given(st.lists(KEYS, unique=True), st.integers(1, 7))
def test_a_listing_is_brought_into_the_order_of_bytes_through_files(keys, chunk):
    found = [one.key for one in external_sort.by_key(map(item, keys), chunk=chunk)]
    assert found == sorted(keys, key=str.encode)


def test_what_passes_through_a_file_comes_out_as_it_was():
    one, other = ObjectInfo("b", "x", 3, NOW), ObjectInfo("a", "y", 4, NOW)
    assert list(external_sort.by_key([one, other], chunk=1)) == [other, one]


@given(LISTED, ROWS)
def test_every_listed_image_is_new_done_or_rejected_and_every_other_known_one_deleted(listed, rows):
    known = [
        (key, [Known(key, etag, "d", live, why, passing=why == "missing") for etag, live, why in rows[key]])
        for key in sorted(rows)
    ]
    tally = diff.Tally()
    objects = [item(key, listed[key]) for key in sorted(listed)]
    new = {one.key for one, _ in diff.new(objects, known, lambda _: "d", tally)}
    settled = {
        key for key, etag in listed.items() for row in rows.get(key, []) if row[0] == etag and row[2] != "missing"
    }
    assert new == listed.keys() - settled
    assert tally.done.total() + tally.rejected.total() == len(settled)
    assert tally.found.total() == len(listed)
    assert set(tally.deleted) == {
        key for key, found in rows.items() if key not in listed and any(row[1] for row in found)
    }


def test_objects_of_other_batches_are_neither_new_nor_deleted():
    tally = diff.Tally()
    known = [("a", [Known("a", "1", "d", True, None, passing=False)])]
    assert list(diff.new([item("a"), item("b")], known, lambda _: None, tally)) == []
    assert (tally.deleted, tally.found.total()) == ([], 0)
