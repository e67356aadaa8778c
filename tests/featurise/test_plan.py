"""Which image goes into which shard, for any number of images, in any order."""

import hypothesis.strategies as st
from hypothesis import given, settings
from steps import discovered, planned

from extractor.core import manifest, storage
from featurise.declaration.feature_set import FeatureSetSpec, Weights
from featurise.steps import plan

PAIR = FeatureSetSpec(
    dataset="birds",
    backbone="resnet101",
    bucket="bucket",
    start_date="2026-11-01",
    weights=Weights(uri="w", sha256="a" * 64),
    images_per_shard=8,
)
IDS = st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=200)


def split(ids: list[str], spec: FeatureSetSpec = PAIR) -> dict[str, list[str]]:
    _, groups = plan.split([(one, one.encode()) for one in ids], spec)
    return {name: [line.decode() for line in lines] for name, lines in groups}


@given(IDS)
def test_every_image_is_in_exactly_one_shard_of_legal_size(ids):
    shards = split(ids)
    assert sorted(one for members in shards.values() for one in members) == sorted(ids)
    assert all(0 < len(members) <= PAIR.images_per_shard for members in shards.values())


@given(IDS, st.text(min_size=9, max_size=12))
def test_one_image_more_changes_one_shard_at_the_most(ids, extra):
    before, after = split(ids), split([*ids, extra])
    home = {one: name for name, members in before.items() for one in members}
    moved = {home[one] for name, members in after.items() for one in members if one != extra and home[one] != name}
    grown = {name for name in before if name in after and set(after[name]) != set(before[name])}
    assert len(moved | grown) <= 1


@given(IDS, st.randoms())
def test_shards_do_not_depend_on_the_order_of_the_listing(ids, random):
    shuffled = random.sample(ids, len(ids))
    assert {name: set(members) for name, members in split(shuffled).items()} == {
        name: set(members) for name, members in split(ids).items()
    }


@settings(deadline=None, max_examples=5)
@given(st.integers(1, 40))
def test_shards_grow_to_stay_below_the_limit(limit):
    spec = PAIR.model_copy(update={"limits": PAIR.limits.model_copy(update={"max_shards": limit})})
    ids = [str(n) for n in range(2000)]
    shards = split(ids, spec)
    assert len(shards) <= limit
    assert sum(map(len, shards.values())) == len(ids)


def test_keys_with_one_id_share_a_shard():
    _, groups = plan.split(
        [("same", b"x/same.jpg"), *((str(n), b"") for n in range(50)), ("same", b"y/same.jpg")], PAIR
    )
    assert sum(b"x/same.jpg" in lines and b"y/same.jpg" in lines for _, lines in groups) == 1


def test_manifests_lie_where_the_shards_say_and_name_the_images(registry, spec, upload):
    day = "2026-11-23"
    upload({f"{day}/{n}.jpg": str(n).encode() for n in range(10)})
    found = discovered(spec, day, "manual__2026-11-23T02:00:00+00:00")
    shards = planned(spec, found, "manual__2026-11-23T02:00:00+00:00")
    again = planned(spec, found, "manual__2026-11-23T02:00:00+00:00")
    assert shards == again
    ids = []
    for shard in shards:
        lines = manifest.read(shard.manifest_uri)
        assert len(lines.entries) == shard.images
        assert storage.read_bytes(lines.uri(lines.entries[0])) == lines.entries[0].image_id.encode()
        ids += [entry.image_id for entry in lines.entries]
    assert sorted(ids) == [str(n) for n in range(10)]
    assert all(":" not in shard.work_uri.removeprefix("s3:") and "+" not in shard.work_uri for shard in shards)
    bigger = planned(spec, found, "manual__2026-11-23T02:00:00+00:00", images_per_shard=100)
    assert [shard.name for shard in bigger] == ["shard-00001"]
