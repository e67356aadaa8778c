"""Region features of a feature set, read from its bucket or a copy of it: no registry, no Airflow.

    import featurise_reader

    fs = featurise_reader.open("s3://bucket/features/photos/resnet101")
    fs["china"].features            # (boxes, 2048) float32
    fs.as_of(12).ids                # as they were then

What counts is what the catalogue in the bucket says; every version of it reads the same for ever.
"""

from featurise_reader.errors import NotFound, ReaderError
from featurise_reader.feature_set import FeatureSet, Image
from featurise_reader.feature_set import open_ as open
from featurise_reader.locations import normalised

__all__ = ["FeatureSet", "Image", "NotFound", "ReaderError", "normalised", "open"]
