"""OpenLineage, by Airflow's provider: a batch's images in, its feature set's files out, with what made them."""

from typing import Any

import attr
from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.generated.base import DatasetFacet
from openlineage.client.generated.input_statistics_input_dataset import InputStatisticsInputDatasetFacet
from openlineage.client.generated.output_statistics_output_dataset import OutputStatisticsOutputDatasetFacet

from featurise.declaration.run import Run
from featurise.objects import layout
from featurise.steps.report.step import Reported


@attr.define
class FeatureSetFacet(DatasetFacet):
    """What a feature set's files were made with, and what one run added to them; counts are of images."""

    featureSet: str = ""  # noqa: N815 - OpenLineage's facets are written like this
    backbone: str = ""
    revision: str = ""
    weightsUri: str = ""  # noqa: N815
    weightsSha256: str = ""  # noqa: N815
    precision: str = ""
    batch: str = ""
    featurised: int = 0
    rejected: int = 0
    pending: int = 0

    @staticmethod
    def _get_schema() -> str:
        return "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/DatasetFacet"


def of_run(run: Run, done: Reported) -> Any:
    """The lineage of a run that has been reported."""
    from airflow.providers.openlineage.extractors import OperatorLineage

    spec, counts = run.spec, done.counts
    facet = FeatureSetFacet(
        featureSet=spec.feature_set,
        backbone=spec.backbone,
        revision=spec.revision,
        weightsUri=spec.weights.uri,
        weightsSha256=str(spec.weights.sha256),
        precision=spec.precision.value,
        batch=run.batch,
        featurised=counts["done"],
        rejected=counts["rejected"],
        pending=counts["pending"],
    )
    found = InputStatisticsInputDatasetFacet(rowCount=counts["found"], fileCount=counts["found"])
    made = OutputStatisticsOutputDatasetFacet(rowCount=counts["done"], fileCount=counts["files"])
    bucket = layout.bucket(spec)
    return OperatorLineage(
        inputs=[
            InputDataset(
                namespace=f"s3://{spec.bucket}",
                name=f"{spec.prefix}{run.batch}" if spec.batches.by == "folder" else spec.prefix.rstrip("/"),
                inputFacets={"inputStatistics": found},
            )
        ],
        outputs=[
            OutputDataset(
                namespace=f"s3://{bucket}",
                name=layout.features(spec).removeprefix(f"s3://{bucket}/"),
                facets={"featurise_featureSet": facet},
                outputFacets={"outputStatistics": made},
            )
        ],
    )
