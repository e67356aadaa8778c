"""Only what this is about: shards as they come from `plan`, each in a pod, then the step that follows.

At night many shards are extracted, and nothing follows: a task each takes as long as an extraction's.
"""

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task, task_group

from featurise.airflow import run_context
from featurise.airflow.notifier import notifiers
from featurise.airflow.operators.kubernetes import PodOperator
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.steps.plan import Shard

FOLDER = Path(os.environ["STUB_FOLDER"])


def build(name: str, spec: FeatureSetSpec, *, followed: bool) -> DAG:
    """A DAG over the shards that `<name>.shards` lists."""
    with DAG(dag_id=name, start_date=datetime(2026, 1, 1), schedule=None, max_active_tasks=500) as dag:

        @task
        def plan() -> list[dict[str, Any]]:
            shards = (FOLDER / f"{name}.shards").read_text().split()
            run = run_context.current_run(spec)
            return [Shard.of(run, shard, 1).model_dump() for shard in shards]

        @task_group(group_id="shard")
        def group(shard: dict[str, Any]) -> None:
            extract = PodOperator(
                task_id="extract",
                spec=spec,
                shard=shard,
                pool=spec.limits.pool,
                map_index_template="{{ task.shard['name'] }}",
                on_retry_callback=notifiers(spec, "attempt"),
            )
            if followed:
                extract >> publish(shard)

        @task
        def publish(shard: dict[str, Any]) -> str:
            return str(shard["name"])

        group.expand(shard=plan())
    return dag


declared = FeatureSetSpec.model_validate_json((FOLDER / "feature set.json").read_text())
for file in FOLDER.glob("*.shards"):
    # A dataset each: nothing here ends like a real run, which gives its batch back to others.
    build(file.stem, declared.model_copy(update={"dataset": file.stem}), followed=file.stem != "night")
