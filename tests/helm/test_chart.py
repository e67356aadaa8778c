"""The chart: linted and rendered by Helm's own engine, valid by Kubernetes' schemas, its pod a hardened one."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from helm_python.chart import Chart, lint
from helm_python.errors import HelmError

CHART = Path(__file__).parents[2] / "helm" / "featurise"
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


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` laid over `base`, level by level, as Helm does it."""
    both = {key: merged(base[key], value) for key, value in changes.items() if isinstance(base.get(key), dict)}
    return {**base, **changes, **both}


def render(**changes: Any) -> list[dict[str, Any]]:
    with Chart.load(CHART) as chart:
        files = chart.render(values=merged(VALUES, changes), name="night", namespace="featurise")
    texts = files.values() if isinstance(files, dict) else [files]
    return [each for text in texts for each in yaml.safe_load_all(text) if each]


def one(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    return next(each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name))


def pod(**changes: Any) -> dict[str, Any]:
    """The pod template of resnet101."""
    templates = one(render(**changes), "ConfigMap", "featurise-pods")["data"]
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


@pytest.mark.parametrize("changes", [{}, FULL], ids=["plain", "everything"])
def test_every_object_is_valid(changes: dict[str, Any]) -> None:
    objects = render(**changes)

    assert {each["kind"] for each in objects} >= {"ConfigMap", "Role", "RoleBinding", "ServiceAccount", "Job"}
    for each in [*objects, pod(**changes)]:
        kubernetes_validate.validate(merged(each, {"metadata": {"name": "x"}}), KUBERNETES, strict=True)


def test_lint_finds_nothing() -> None:
    report = lint(CHART, values=VALUES, kube_version=f"v{KUBERNETES}.0")

    findings = [each["error"] for each in report["messages"] if each["severity"] >= WARNING]
    # The dependency's archive is not in the repository; `helm dependency build` fetches it.
    assert [each for each in findings if "missing these dependencies: airflow" not in each] == []


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

    read = PodGenerator.deserialize_model_file(str(file))

    assert read.metadata.namespace == "featurise"
    assert read.spec.containers[0].security_context.read_only_root_filesystem is True
    assert read.spec.termination_grace_period_seconds == 60


def test_the_launcher_may_do_what_it_needs_and_no_more() -> None:
    objects = render()
    rules = {rule["resources"][0]: set(rule["verbs"]) for rule in one(objects, "Role", "night-launcher")["rules"]}

    assert rules == {
        "pods": {"create", "get", "list", "watch", "patch", "delete"},
        "pods/log": {"get", "list"},
        "events": {"get", "list", "watch"},
    }
    subjects = one(objects, "RoleBinding", "night-launcher")["subjects"]
    assert [(each["name"], each["namespace"]) for each in subjects] == [
        ("airflow-worker", "airflow"),
        ("airflow-triggerer", "airflow"),
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"backbones": {"resnet101": {"enabled": True, "image": ""}}}, "image"),
        ({"pod": {"resources": {"memory": "lots"}}}, "memory"),
        ({"storage": {"endpoint": "s3.example"}}, "endpoint"),
        ({"pods": {}}, "pods"),
        ({"pool": {"slots": 0}}, "slots"),
    ],
)
def test_wrong_values_are_refused_by_name(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(HelmError, match=says):
        render(**changes)


def test_the_dependency_is_pinned() -> None:
    dependency = yaml.safe_load((CHART / "Chart.yaml").read_text())["dependencies"][0]

    assert dependency["name"] == "airflow"
    assert dependency["condition"] == "airflow.enabled"
    assert dependency["version"].replace(".", "").isdigit()
