"""One pod task in the test's own process, without Airflow's: its feature set, its settings, what Airflow hands it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from featurise.airflow.operators.kubernetes import PodOperator
from featurise.airflow.retry_policy import HEADROOM
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.registry import engine, schema
from featurise.settings import settings
from installation import TEMPLATE

BATCH, RUN = "2026-11-23", "scheduled__2026-11-24"


@contextmanager
def furnished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A pod template and a registry in the folder, and the settings that name them."""
    (folder / "resnet101.yaml").write_text(yaml.safe_dump(TEMPLATE))
    monkeypatch.setenv("FEATURISE_REGISTRY", f"sqlite:///{folder / 'registry.db'}")
    monkeypatch.setenv("FEATURISE_POD_TEMPLATES", str(folder))
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps({"conn_type": "kubernetes"}))
    settings.cache_clear()
    schema.migrate(engine.of(settings().registry))
    yield
    settings.cache_clear()


def spec() -> FeatureSetSpec:
    """The task's feature set."""
    weights = {"uri": "s3://models/w.pkl", "sha256": "a" * 64}
    return FeatureSetSpec(
        dataset="birds", backbone="resnet101", bucket="images", start_date="2026-11-01", weights=weights
    )


def context(operator: PodOperator, try_number: int) -> Any:
    """Of a try, as Airflow gives it to the operator."""
    run = SimpleNamespace(run_type="scheduled", partition_key=BATCH, run_id=RUN, conf=None)
    ti = SimpleNamespace(
        dag_id="birds", task_id="extract", run_id=RUN, map_index=0, try_number=try_number,
        max_tries=operator.spec.limits.retries + HEADROOM, start_date=datetime.now(UTC), xcom_push=lambda **_: None,
    )  # fmt: skip
    kept: dict[str, Any] = {}
    store = SimpleNamespace(get=kept.get, set=kept.__setitem__)
    return {"dag_run": run, "run_id": RUN, "params": {}, "ti": ti, "task_state_store": store, "dag": SimpleNamespace()}
