"""Manifests: ids, JSON lines, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractor.core import manifest
from extractor.core.exit_codes import ManifestInvalid
from extractor.core.manifest import Entry, ImageIds, Manifest, dump, image_id, load


@pytest.mark.parametrize(
    ("key", "rule", "expected"),
    [
        ("images/flickr/2026-11-22/COCO_000001.jpg", ImageIds.STEM, "COCO_000001"),
        ("images/flickr/a.b.jpg", ImageIds.STEM, "a.b"),
        ("images/flickr/.hidden", ImageIds.STEM, ".hidden"),
        ("images/flickr/2026-11-22/a.jpg", ImageIds.PATH, "2026-11-22%2Fa.jpg"),
        ("images/flickr/100%/a.jpg", ImageIds.PATH, "100%25%2Fa.jpg"),
        ("images/flickr/x/100%.a.jpg", ImageIds.RELATIVE, "x%2F100%25.a"),
        ("images/flickr/.hidden", ImageIds.RELATIVE, ".hidden"),
    ],
)
def test_id_is_the_stem_or_the_path(key, rule, expected):
    assert image_id(key, rule, "images/flickr/") == expected


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
entries = st.builds(
    Entry,
    key=names,
    etag=names,
    size=st.integers(0),
    image_id=names.map(lambda name: name.replace("/", "%2F")).filter(lambda name: name != "."),
)


@given(st.lists(entries))
def test_lines_are_read_as_they_were_written(listed):
    assert load(Entry, dump(listed), "here") == listed


@given(st.lists(entries, min_size=1), entries)
def test_digest_tells_manifests_apart(listed, other):
    assert manifest.digest(listed) != manifest.digest([*listed, other])


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'{"key": "a.jpg", "etag": "e", "size": 1}', "line 2: image_id: Field required"),
        (b'{"key": "a.jpg", "etag": "e", "size": "many", "image_id": "a"}', "line 2: size"),
        (b'{"key": "a.jpg", "etag": "e", "size": 1, "image_id": "b/a"}', "cannot name an HDF5 group"),
        (b"a.jpg", "line 2: the line"),
    ],
)
def test_what_is_no_image_is_named_by_line_and_field(line, text):
    good = dump([Entry(key="x.jpg", etag="e", size=1, image_id="x")])
    with pytest.raises(ManifestInvalid, match=text):
        load(Entry, good + line, "s3://bucket/manifest.jsonl")


def test_folder_is_listed_whole(tmp_path):
    for name in ("b.jpg", "a/c.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    listed = manifest.of_images(str(tmp_path))
    assert [entry.key for entry in listed.entries] == ["a/c.png", "b.jpg", "notes.txt"]
    assert listed.uri(listed.entries[0]) == f"{tmp_path}/a/c.png"


def test_a_name_that_leaves_no_id_is_one_itself(tmp_path):
    for name in ("..jpg", "..png", "a.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert [entry.image_id for entry in manifest.of_images(str(tmp_path)).entries] == ["..jpg", "..png", "a"]


@pytest.mark.parametrize("key", ["/etc/hostname", "s3://other/x.png", "images/a.png"])
def test_a_key_of_a_bucket_is_one_of_that_bucket_whatever_it_looks_like(key):
    entry = Entry(key=key, etag="e", size=1, image_id="x")
    assert Manifest("s3://bucket", (entry,), "").uri(entry) == f"s3://bucket/{key}"
    assert Manifest("/folder", (entry,), "").uri(entry) == (f"/folder/{key}" if key.startswith("images") else key)
