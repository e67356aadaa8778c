"""What other DAGs can be scheduled on: one asset per feature set, updated once by every run that added something."""

from airflow.sdk import Asset

from featurise.declaration.feature_set import FeatureSetSpec


def feature_set(spec: FeatureSetSpec) -> Asset:
    """The asset of a feature set's feature set.

    The address has a scheme of its own: for `s3://`, Airflow would import the Amazon provider and boto3 at every parse.
    """
    return Asset(name=spec.feature_set, uri=f"x-featurise://{spec.dataset}/{spec.backbone}/{spec.revision}")
