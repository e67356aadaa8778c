"""`latest.json`: the list of a feature set's files, for readers without the registry."""

import json

from extractor.core import storage
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.objects import layout
from featurise.registry import feature_sets, shards
from featurise.registry.session import writing


def update(spec: FeatureSetSpec) -> None:
    """Write the list anew, from the registry, once there is a file; writers take turns, so the last one knows all.

    Raises storage.StorageError.
    """
    with writing() as connection:
        number = feature_sets.ensure(connection, spec)
        feature_sets.lock(connection, number)
        if not shards.any_of(connection, number):
            return
        files = [{**row._mapping} for row in shards.visible(connection, number)]
        view = {
            "feature_set": spec.feature_set,
            "dataset": spec.dataset,
            "backbone": spec.backbone,
            "revision": spec.revision,
            "synthetic": feature_sets.synthetic(connection, number),
            "images": shards.live_images(connection, number),
            "files": files,
        }
        data = json.dumps(view, indent=1).encode()
        storage.write_bytes(layout.latest(spec), data, content_type="application/json")
