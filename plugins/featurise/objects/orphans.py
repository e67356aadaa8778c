"""Published objects that nobody registered: a run that died between the two left them, and the next one removes them.

Only the run that holds the claim on a batch publishes below it, so whatever is not in the registry there is abandoned.
"""

from extractor.core import storage
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.objects import layout
from featurise.registry import shards
from featurise.registry.session import reading


def remove(spec: FeatureSetSpec, batch: str, name: str = "", keep: str | None = None) -> None:
    """Remove a batch's unregistered objects: those whose name starts like that, and not those of the file `keep`.

    Raises storage.StorageError.
    """
    folder = storage.join(layout.features(spec), batch)
    found = [f"s3://{layout.bucket(spec)}/{item.key}" for item in storage.listing(f"{folder}/{name}")]
    with reading() as connection:
        kept = {keep} | shards.known(connection, [layout.file_of(uri) for uri in found])
    storage.delete([uri for uri in found if layout.file_of(uri) not in kept])
