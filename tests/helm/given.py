"""The values that the tests render the chart with, and what comes of them."""

from typing import Any

import yaml

from charts import CHART, merged, one, rendered

DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
AIRFLOW: dict[str, Any] = DEFAULTS["airflow"]
IMAGE = "registry.example/featurise/resnet101@sha256:" + "0" * 64
KUBERNETES = "1.36"
WARNING = 2
VALUES: dict[str, Any] = {
    "backbones": {"resnet101": {"enabled": True, "image": IMAGE}, "resnext101": {"enabled": False, "image": ""}},
    "storage": {"endpoint": "https://s3.example", "secret": "featurise-s3"},
    "controlPlane": {"image": "registry.example/featurise/airflow@sha256:" + "1" * 64},
    # The published chart of Airflow cannot be had here; ours must stand without it.
    "airflow": {"enabled": False},
    "launchers": [
        {"name": "airflow-worker", "namespace": "airflow"},
        {"name": "airflow-triggerer", "namespace": "airflow"},
    ],
}


def render(release: str = "night", **changes: Any) -> list[dict[str, Any]]:
    return rendered(merged(VALUES, changes), release)


def pod(**changes: Any) -> dict[str, Any]:
    """The pod template of resnet101."""
    templates = one(render(**changes), "ConfigMap", "night-pods")["data"]
    return dict(yaml.safe_load(templates["resnet101.yaml"]))


FULL = {
    "queue": "gpus",
    "quota": {"enabled": True, "gpus": 4},
    "imagePullSecrets": ["registry"],
    "pod": {
        "runtimeClassName": "nvidia",
        "priorityClassName": "batch",
        "nodeSelector": {"gpu": "h100"},
        "weightsCache": {"claim": "weights"},
        "annotations": {"a": "b"},
    },
}


def prepare(**changes: Any) -> dict[str, Any]:
    jobs = [each for each in render(**changes) if each["kind"] == "Job"]
    assert len(jobs) == 1
    return jobs[0]
