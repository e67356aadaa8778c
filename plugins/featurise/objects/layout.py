"""Where everything that runs make lies: one function per kind of object."""

import re

from extractor.core import manifest, storage
from featurise.declaration.feature_set import Pair


def bucket(pair: Pair) -> str:
    """The bucket of all results."""
    return pair.outputs.bucket or pair.bucket


def slug(name: str) -> str:
    """A run's name as a piece of a key: Airflow's own have colons and plus signs."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def works(pair: Pair, batch: str) -> str:
    """The folder of the passing objects of all runs on a batch, slash included."""
    return f"s3://{bucket(pair)}/{pair.outputs.work}{pair.feature_set}/{batch}/"


def work(pair: Pair, batch: str, run_id: str) -> str:
    """The folder of one run's passing objects."""
    return works(pair, batch) + slug(run_id)


def fresh(pair: Pair, batch: str, run_id: str) -> str:
    """The list of a run's new images."""
    return storage.join(work(pair, batch, run_id), "fresh.jsonl")


def discovered(pair: Pair, batch: str, run_id: str) -> str:
    """What `discover` found, for the report."""
    return f"{report(pair, batch, run_id)}.discovered.json"


def plan(pair: Pair, batch: str, run_id: str) -> str:
    """A run's shards, for the report."""
    return f"{report(pair, batch, run_id)}.plan.json"


def validation(work_uri: str) -> str:
    """What validation found in a shard's file."""
    return storage.join(work_uri, "validation.json")


def features(pair: Pair) -> str:
    """The folder of a feature set."""
    return f"s3://{bucket(pair)}/{pair.outputs.features}{pair.dataset}/{pair.backbone}/{pair.revision}"


def published(pair: Pair, batch: str, shard: str, sha256: str) -> str:
    """The final, content-addressed place of a shard's file."""
    return storage.join(features(pair), batch, f"{shard}-{sha256[:12]}.h5")


def latest(pair: Pair) -> str:
    """The list of a feature set's files, for readers without the registry."""
    return storage.join(features(pair), "latest.json")


def quarantine(pair: Pair, batch: str, run_id: str, shard: str) -> str:
    """The folder of a shard that failed validation."""
    return f"s3://{bucket(pair)}/{pair.outputs.quarantine}{pair.feature_set}/{batch}/{slug(run_id)}/{shard}"


def report(pair: Pair, batch: str, run_id: str) -> str:
    """A run's report, without its suffix."""
    return f"s3://{bucket(pair)}/{pair.outputs.reports}{pair.feature_set}/{batch}/{slug(run_id)}"


def index(file_uri: str) -> str:
    """The list of the images in a file."""
    return manifest.list_of(file_uri, "index")


def rejects(file_uri: str) -> str:
    """The list of the images that a file's shard could not featurise."""
    return manifest.list_of(file_uri, "rejects")


def file_of(uri: str) -> str:
    """The published file that an object belongs to: itself, or the one that it is a list of."""
    for suffix in (".index.jsonl", ".rejects.jsonl"):
        if uri.endswith(suffix):
            return f"{uri.removesuffix(suffix)}.h5"
    return uri
