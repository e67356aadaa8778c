"""What tasks hand on is checked before it is used: an edited return value opens, publishes and deletes nothing."""

import pytest
from pydantic import ValidationError
from steps import discovered, planned, up_to_publication

from extractor.core import storage
from featurise.declaration.run import Run
from featurise.declaration.run_options import RunOptions
from featurise.objects import layout
from featurise.objects.own import NotOwn
from featurise.steps import extract as job
from featurise.steps import plan, publish, register
from featurise.steps.extract import Attempt
from featurise.steps.plan import Shard
from featurise.steps.validate import step as validate

DAY, RUN = "2026-11-23", "scheduled__2026-11-24"
# Nothing is asked of the registry that differs between databases.
pytestmark = [
    pytest.mark.usefixtures("registry"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]


@pytest.fixture
def run(spec) -> Run:
    return Run(spec, DAY, RUN)


@pytest.fixture
def foreign(spec, tmp_path) -> list[str]:
    """Addresses that the control plane could read or write, and has no business with."""
    (tmp_path / "secret").write_text("ours alone")
    storage.write_bytes(f"s3://{spec.bucket}/private/secret", b"ours alone")
    another = layout.work(Run(spec, DAY, "another"))
    storage.write_bytes(f"{another}/secret", b"ours alone")
    return [
        str(tmp_path / "secret"),
        f"file://{tmp_path}/secret",
        f"s3://{spec.bucket}/private/secret",
        f"{another}/secret",
        f"{layout.work(Run(spec, DAY, RUN))}/../another/secret",
        "s3://another-bucket/secret",
    ]


@pytest.fixture
def shard(spec, upload, extract) -> Shard:
    """A shard that has been extracted."""
    upload({f"{DAY}/a.jpg": b"a", f"{DAY}/b.jpg": b"b"})
    (found,) = planned(spec, discovered(spec, DAY, RUN), RUN)
    extract(spec, found, DAY)
    return found


def objects(spec) -> dict[str, str]:
    return {item.key: item.etag for item in storage.listing(f"s3://{spec.bucket}/")}


def test_the_list_of_new_images(spec, run, upload, foreign):
    upload({f"{DAY}/a.jpg": b"a"})
    found = discovered(spec, DAY, RUN)
    before = objects(spec)
    for address in foreign:
        with pytest.raises(NotOwn, match="nothing was opened"):
            plan.run(run, found.model_copy(update={"listing_uri": address}), RunOptions())
    assert objects(spec) == before


@pytest.mark.parametrize("field", ["work_uri", "manifest_uri"])
def test_a_shard_s_addresses(spec, run, shard, foreign, field):
    published = up_to_publication(run, shard)
    validated = validate.run(run, shard)
    before = objects(spec)
    for address in foreign:
        edited = shard.model_copy(update={field: address})
        for step in (
            lambda it=edited: job.specification(run, it, Attempt()),
            lambda it=edited: validate.run(run, it),
            lambda it=edited: publish.run(run, it, validated),
            lambda it=edited: register.run(run, it, published),
        ):
            with pytest.raises(NotOwn, match="nothing was opened"):
                step()
    assert objects(spec) == before


def test_a_shard_that_is_another_runs(spec, run, shard):
    with pytest.raises(NotOwn):
        validate.run(run, Shard.of(Run(spec, DAY, "another"), shard.name, shard.images))


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", ".hidden"])
def test_a_shard_s_name_is_no_path(run, name):
    with pytest.raises(ValidationError):
        Shard.of(run, name, 1)


def test_the_file_that_is_published(spec, run, shard, foreign):
    validated = validate.run(run, shard)
    before = objects(spec)
    for address in foreign:
        with pytest.raises(NotOwn, match="nothing was opened"):
            publish.run(run, shard, validated.model_copy(update={"file_uri": address}))
    assert objects(spec) == before


@pytest.mark.parametrize("field", ["uri", "index_uri", "rejects_uri"])
def test_the_objects_that_are_registered(spec, run, shard, foreign, field):
    published = up_to_publication(run, shard)
    before = objects(spec)
    for address in foreign:
        with pytest.raises(NotOwn, match="nothing was opened"):
            register.run(run, shard, published.model_copy(update={field: address}))
    assert objects(spec) == before
    assert register.run(run, shard, published).images == 2
