"""What other DAGs can be scheduled on: an asset per dataset and backbone, updated once by every run that adds to it."""

from airflow.sdk import Asset

from featurise.declaration.feature_set import FeatureSetSpec


def feature_set(spec: FeatureSetSpec) -> Asset:
    """The asset that a feature set's runs update, named as in `photos/resnet101`.

    Another revision updates the same asset: its events name the feature set. The address has a scheme of its own:
    for `s3://`, Airflow would import the Amazon provider and boto3 at every parse.
    """
    name = f"{spec.dataset}/{spec.backbone}"
    told = f"Region features of {spec.dataset} by {spec.backbone}; an event for each run that has added files, by day."
    return Asset(name=name, uri=f"x-featurise://{name}", extra={"description": told, "feature_set": spec.feature_set})
