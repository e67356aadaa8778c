"""One run of a feature set's DAG: what every step of it is about."""

from dataclasses import dataclass, replace

from featurise.declaration.feature_set import FeatureSetSpec


@dataclass(frozen=True)
class Run:
    """A feature set, as the run's options mean it; the batch that the run works on; and the run's id in Airflow."""

    spec: FeatureSetSpec
    batch: str
    run_id: str

    def on(self, batch: str) -> "Run":
        """The same run, on another of its batches: late images belong to earlier ones."""
        return replace(self, batch=batch)
