"""What other DAGs can be scheduled on: one asset per feature set, updated once by every run that added something."""

from airflow.sdk import Asset

from featurise.declaration.feature_set import Pair


def feature_set(pair: Pair) -> Asset:
    """The asset of a pair's feature set.

    The address has a scheme of its own: for `s3://`, Airflow would import the Amazon provider and boto3 at every parse.
    """
    return Asset(name=pair.feature_set, uri=f"x-featurise://{pair.dataset}/{pair.backbone}/{pair.revision}")
