"""Where everything that runs make lies: one function per kind of object."""

import re

from extractor.core import manifest, storage
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run


def bucket(spec: FeatureSetSpec) -> str:
    """The bucket of all results."""
    return spec.outputs.bucket or spec.bucket


def slug(name: str) -> str:
    """A run's name as a piece of a key: Airflow's own have colons and plus signs."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def works(spec: FeatureSetSpec, batch: str) -> str:
    """The folder of the passing objects of all runs on a batch, slash included."""
    return f"s3://{bucket(spec)}/{spec.outputs.work}{spec.feature_set}/{batch}/"


def work(run: Run) -> str:
    """The folder of one run's passing objects."""
    return works(run.spec, run.batch) + slug(run.run_id)


def fresh(run: Run) -> str:
    """The list of a run's new images."""
    return storage.join(work(run), "fresh.jsonl")


def given(run: Run) -> str:
    """The given boxes of a run's new images, a line each."""
    return storage.join(work(run), "boxes.jsonl")


def discovered(run: Run) -> str:
    """What `discover` found, for the report."""
    return f"{report(run)}.discovered.json"


def plan(run: Run) -> str:
    """A run's shards, for the report."""
    return f"{report(run)}.plan.json"


def shard(run: Run, name: str) -> str:
    """The folder of a shard's passing objects."""
    return storage.join(work(run), name)


def shard_manifest(run: Run, name: str) -> str:
    """The list of a shard's images."""
    return storage.join(shard(run, name), "manifest.jsonl")


def validation(work_uri: str) -> str:
    """What validation found in a shard's file."""
    return storage.join(work_uri, "validation.json")


def location(spec: FeatureSetSpec) -> str:
    """The prefix of all published files of a bucket, slash included: what belongs to one registry."""
    return f"s3://{bucket(spec)}/{spec.outputs.features}"


def identity(location_uri: str) -> str:
    """The object that names the registry of a location; no dataset's name starts like that."""
    return f"{location_uri}_registry.json"


def features(spec: FeatureSetSpec) -> str:
    """The folder of a feature set."""
    return f"{location(spec)}{spec.dataset}/{spec.backbone}/{spec.revision}"


def published(spec: FeatureSetSpec, batch: str, shard: str, sha256: str) -> str:
    """The final, content-addressed place of a shard's file."""
    return storage.join(features(spec), batch, f"{shard}-{sha256[:12]}.h5")


def latest(spec: FeatureSetSpec) -> str:
    """The list of a feature set's files, for readers without the registry."""
    return latest_in(features(spec))


def latest_in(folder: str) -> str:
    """The same, of a feature set's folder."""
    return storage.join(folder, "latest.json")


def catalogue_in(folder: str) -> str:
    """The pointer to the catalogue that holds, of a feature set's folder."""
    return storage.join(folder, "catalogue.json")


def catalogue_version(folder: str, version: int) -> str:
    """A version of the catalogue, of a feature set's folder."""
    return storage.join(folder, f"catalogue/{version:08d}.json")


def quarantine(run: Run, shard: str) -> str:
    """The folder of a shard that failed validation."""
    spec = run.spec
    return f"s3://{bucket(spec)}/{spec.outputs.quarantine}{spec.feature_set}/{run.batch}/{slug(run.run_id)}/{shard}"


def report(run: Run, feature_set: str | None = None) -> str:
    """A run's report, without its suffix; `feature_set` names an earlier revision's."""
    spec = run.spec
    name = feature_set or spec.feature_set
    return f"s3://{bucket(spec)}/{spec.outputs.reports}{name}/{run.batch}/{slug(run.run_id)}"


def index(file_uri: str) -> str:
    """The list of the images in a file."""
    return manifest.list_of(file_uri, "index")


def thumbnails(output: str) -> str:
    """The thumbnails of a few images, which an extractor may leave beside its output; they are never published."""
    return manifest.list_of(output, "thumbnails")


def report_thumbnails(run: Run, shard: str) -> str:
    """The same beside the run's report, which shows them."""
    return f"{report(run)}.{shard}.thumbnails.jsonl"


def record(file_uri: str) -> str:
    """What is known of a file beside its images: who made it, from what, and its numbers in sum."""
    return f"{file_uri.removesuffix('.h5')}.record.json"


def beside(file_uri: str) -> tuple[str, str, str]:
    """The objects that belong to a published file, in the order in which they are written, before it."""
    return index(file_uri), rejects(file_uri), record(file_uri)


def rejects(file_uri: str) -> str:
    """The list of the images that a file's shard could not featurise."""
    return manifest.list_of(file_uri, "rejects")


def file_of(uri: str) -> str:
    """The published file that an object belongs to: itself, or the one that it lies beside."""
    for suffix in (".index.jsonl", ".rejects.jsonl", ".record.json"):
        if uri.endswith(suffix):
            return f"{uri.removesuffix(suffix)}.h5"
    return uri
