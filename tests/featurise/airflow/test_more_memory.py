"""A retry with more memory gets it, wherever the template says how much there is."""

from typing import Any

import pytest
from kubernetes.client import models as k8s

from featurise.airflow.pods import more_memory

GIB = 2**30


def spec(base: dict[str, Any] | None, whole: dict[str, Any] | None) -> k8s.V1PodSpec:
    container = k8s.V1Container(name="base", resources=k8s.V1ResourceRequirements(**base) if base else None)
    return k8s.V1PodSpec(
        containers=[k8s.V1Container(name="mesh"), container],
        resources=k8s.V1ResourceRequirements(**whole) if whole else None,
    )


@pytest.mark.parametrize(
    ("base", "whole", "in_base", "in_whole"),
    [
        ({"limits": {"memory": "16Gi"}}, None, 24 * GIB, None),
        # Another container's share of the pod's stays as it is.
        ({"limits": {"memory": "16Gi"}}, {"limits": {"memory": "20Gi"}}, 24 * GIB, 28 * GIB),
        (None, {"limits": {"memory": "16Gi", "cpu": "4"}}, None, 24 * GIB),
    ],
)
def test_memory_is_raised_in_the_container_and_in_the_pod(
    base: Any, whole: Any, in_base: int | None, in_whole: int | None
) -> None:
    pod = spec(base, whole)
    more_memory(pod, 1.5)

    if in_base is not None:
        assert pod.containers[1].resources.limits["memory"] == str(in_base)
    if in_whole is not None:
        assert pod.resources.limits["memory"] == str(in_whole)


def test_a_first_attempt_has_what_is_declared() -> None:
    pod = spec({"limits": {"memory": "16Gi"}}, {"limits": {"memory": "20Gi"}})
    more_memory(pod, 1)

    assert (pod.containers[1].resources.limits, pod.resources.limits) == ({"memory": "16Gi"}, {"memory": "20Gi"})
