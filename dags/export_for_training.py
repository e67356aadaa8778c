"""An example of what can follow a feature set: when a day has brought something, the training data grow with it.

One DAG per dataset and backbone, scheduled on its asset. The event says what was added and carries the day on, so that
a run here stands for the same day as the run that it follows. Readers find a feature set in the folder of its name: new
files are added to it; when an image was replaced or deleted, all is exported again beside it and then takes its place.
Off unless FEATURISE_TRAINING names a folder to write to.
"""

from pathlib import Path
from typing import Any

from airflow.sdk import DAG, PartitionedAssetTimetable, task

from featurise.airflow import assets
from featurise.declaration import load as declaration
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.settings import settings


def build(spec: FeatureSetSpec, folder: Path) -> None:
    """The DAG that keeps one feature set's training data up to date."""
    with DAG(
        dag_id=f"export__{spec.dag_id}",
        description=f"Features of {spec.dataset} by {spec.backbone} for training",
        schedule=PartitionedAssetTimetable(assets=assets.feature_set(spec)),
        catchup=False,
        max_active_runs=1,
        tags=[spec.dataset, spec.backbone, "example"],
    ):

        @task
        def export(*, triggering_asset_events: Any = None) -> dict[str, Any]:
            from featurise.export.run import renew

            for events in triggering_asset_events.values():
                for event in events:
                    print(f"{event.extra['images']} images in {len(event.extra['files'])} new files")
            out = folder / spec.feature_set
            done = renew(spec.dataset, spec.backbone, spec.revision, "h5", out, lambda *_: None)
            return {"folder": str(out), "images": done.images}

        export()


if (folder := settings().training) is not None:
    for found in declaration.load(settings().declaration):
        if isinstance(found, FeatureSetSpec):
            build(found, folder)
