"""The pod templates that the chart makes: hardened, each backbone's as its values have it, no field lost."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from helm_python.errors import HelmError
from kubernetes.utils.quantity import parse_quantity

from charts import merged, one
from featurise.cluster.templates import lost
from given import FULL, IMAGE, KUBERNETES, pod, prepare, render
from pod_security import violations


def test_the_pod_is_a_hardened_one() -> None:
    spec = pod()["spec"]
    base = spec["containers"][0]

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    assert base["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert base["name"] == "base"
    assert base["image"] == IMAGE
    assert base["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert base["resources"]["limits"]["memory"] == base["resources"]["requests"]["memory"] == "16Gi"
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["scratch"]["emptyDir"]["sizeLimit"] == "40Gi"
    assert {mount["name"] for mount in base["volumeMounts"]} == set(volumes)


def test_secrets_are_named_and_never_written() -> None:
    base = pod()["spec"]["containers"][0]

    assert base["envFrom"] == [{"secretRef": {"name": "featurise-s3"}}]
    assert not [each for each in base["env"] if "SECRET" in each["name"] or "ACCESS_KEY" in each["name"]]
    assert "envFrom" not in pod(storage={"secret": ""})["spec"]["containers"][0]
    assert not [each for each in render() if each["kind"] == "Secret"]


def test_what_a_cluster_has_beyond_the_plain_one() -> None:
    full = pod(**FULL)

    assert full["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert full["spec"]["runtimeClassName"] == "nvidia"
    assert full["spec"]["priorityClassName"] == "batch"
    assert full["spec"]["nodeSelector"] == {"gpu": "h100"}
    assert {"name": "weights", "persistentVolumeClaim": {"claimName": "weights"}} in full["spec"]["volumes"]
    assert one(render(**FULL), "ResourceQuota", "night-gpus")["spec"]["hard"] == {"requests.nvidia.com/gpu": "4"}
    assert not {"runtimeClassName", "priorityClassName", "nodeSelector"} & set(pod()["spec"])


def test_a_cluster_without_gpus_is_asked_for_none() -> None:
    limits = pod(pod={"gpu": {"resource": ""}})["spec"]["containers"][0]["resources"]["limits"]

    assert limits == {"memory": "16Gi"}


def test_the_operator_reads_the_template(tmp_path: Path) -> None:
    file = tmp_path / "resnet101.yaml"
    file.write_text(yaml.safe_dump(pod(**FULL)))

    assert lost(pod(**FULL)) == []
    read = PodGenerator.deserialize_model_file(str(file))

    assert read.metadata.namespace == "featurise"
    assert read.spec.containers[0].security_context.read_only_root_filesystem is True
    assert read.spec.termination_grace_period_seconds == 60


@pytest.mark.parametrize("cpu", [4, 0.5, "500m"])
def test_quantities_may_be_numbers(cpu: Any) -> None:
    resources = pod(pod={"resources": {"cpu": cpu, "memory": 2**34}})["spec"]["containers"][0]["resources"]

    assert resources["requests"]["cpu"] == str(cpu)
    assert parse_quantity(resources["limits"]["memory"]) == 2**34


RICH: dict[str, Any] = {
    "resources": {"cpuLimit": "8", "memory": "24Gi"},
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "labels": {"team": "vision"},
    "env": [{"name": "AWS_CA_BUNDLE", "value": "/ca/ca.crt"}],
    "envFrom": [{"configMapRef": {"name": "proxy"}}],
    "volumes": [{"name": "ca", "configMap": {"name": "private-ca"}}],
    "volumeMounts": [{"name": "ca", "mountPath": "/ca", "readOnly": True}],
    "initContainers": [{"name": "warm", "image": "registry.example/warm:1"}],
    "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
    "gpu": {"resource": ""},
    "weightsCache": {"image": "registry.example/weights:1"},
    "nodeSelector": {"gpu": "h100"},
}


def test_a_backbone_s_pods_may_differ() -> None:
    rich = {"resnet101": {"pod": RICH}, "resnext101": {"enabled": True, "image": "registry.example/x:1"}}
    templates = one(render(backbones=rich), "ConfigMap", "night-pods")["data"]
    spec, plain = (yaml.safe_load(templates[f"{name}.yaml"]) for name in ("resnet101", "resnext101"))
    base = spec["spec"]["containers"][0]

    kubernetes_validate.validate(merged(spec, {"metadata": {"name": "x"}}), KUBERNETES, strict=True)
    assert violations({**spec["spec"], "initContainers": []}) == []
    assert lost(spec) == []
    assert spec["metadata"]["labels"]["team"] == "vision"
    for field in ("affinity", "topologySpreadConstraints", "initContainers", "resourceClaims", "nodeSelector"):
        assert spec["spec"][field] == RICH[field]
        assert field not in plain["spec"]
    assert base["resources"] == {
        "requests": {"cpu": "4", "memory": "24Gi"},
        "limits": {"cpu": "8", "memory": "24Gi"},
        "claims": [{"name": "gpu"}],
    }
    assert RICH["env"][0] in base["env"]
    assert base["envFrom"] == [{"secretRef": {"name": "featurise-s3"}}, *RICH["envFrom"]]
    assert RICH["volumeMounts"][0] in base["volumeMounts"]
    weights = {"name": "weights", "image": {"reference": "registry.example/weights:1", "pullPolicy": "IfNotPresent"}}
    assert {**RICH["volumes"][0]} in spec["spec"]["volumes"]
    assert weights in spec["spec"]["volumes"]
    assert plain["spec"]["containers"][0]["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": 1}


@pytest.mark.parametrize(
    "field", [{"nodeselector": {}}, {"tolerations": [{"keys": "a"}]}, {"volumes": [{"name": "a", "configmap": {}}]}]
)
def test_a_misspelt_field_of_a_pod_is_refused_when_the_chart_is_rendered(field: dict[str, Any]) -> None:
    misspelt = re.search(r"nodeselector|keys|configmap", str(field))
    assert misspelt

    with pytest.raises(HelmError, match=misspelt[0]):
        render(pod=field)
    with pytest.raises(HelmError, match=misspelt[0]):
        render(backbones={"resnet101": {"pod": field}})


def test_image_pull_secrets_that_would_not_reach_airflow_are_refused() -> None:
    with pytest.raises(HelmError, match=r"airflow\.registry\.secretName"):
        render(imagePullSecrets=["registry"], airflow={"enabled": True})

    for there in ({"imagePullSecrets": [{"name": "registry"}]}, {"registry": {"secretName": "registry"}}):
        assert render(imagePullSecrets=["registry"], airflow={"enabled": True, **there})


@pytest.mark.parametrize("secrets", [["one", "two"], [{"name": "one"}, "two"]])
def test_image_pull_secrets_are_taken_in_both_forms(secrets: list[Any]) -> None:
    expected = [{"name": "one"}, {"name": "two"}]

    assert pod(imagePullSecrets=secrets)["spec"]["imagePullSecrets"] == expected
    assert prepare(imagePullSecrets=secrets)["spec"]["template"]["spec"]["imagePullSecrets"] == expected
