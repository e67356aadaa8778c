"""The chart: linted and rendered by Helm's own engine, valid by Kubernetes' schemas, its pod a hardened one."""

import re
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from helm_python.chart import Chart, lint
from helm_python.errors import HelmError

from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.load import load

REPOSITORY = Path(__file__).parents[2]
CHART = REPOSITORY / "helm" / "featurise"
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


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` laid over `base`, level by level, as Helm does it."""
    both = {key: merged(base[key], value) for key, value in changes.items() if isinstance(base.get(key), dict)}
    return {**base, **changes, **both}


def render(release: str = "night", **changes: Any) -> list[dict[str, Any]]:
    return rendered(merged(VALUES, changes), release)


def rendered(values: dict[str, Any], release: str) -> list[dict[str, Any]]:
    with Chart.load(CHART) as chart:
        files = chart.render(values=values, name=release, namespace="featurise")
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


def values_of(tree: dict[str, Any], above: str = "") -> list[str]:
    """The paths of all values in `tree`; backbones are the user's to name."""
    found: list[str] = []
    for key, value in tree.items():
        deeper = isinstance(value, dict) and value and key != "backbones"
        found += values_of(value, f"{above}{key}.") if deeper else [f"{above}{key}"]
    return found


def test_every_value_is_used() -> None:
    templates = "".join(each.read_text() for each in (CHART / "templates").iterdir())
    ours = {name: value for name, value in DEFAULTS.items() if name != "airflow"}

    assert [path for path in values_of(ours) if f"alues.{path}" not in templates] == []


def test_what_airflow_itself_learns_from_the_values() -> None:
    environment = one(render(pod={"scheduleSeconds": 60}), "ConfigMap", "featurise-environment")["data"]

    assert environment == {
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": "https://s3.example",
        "FEATURISE_POD_SCHEDULE_SECONDS": "60",
        "FEATURISE_POD_START_SECONDS": "1200",
    }
    at_home = one(render(storage={"endpoint": ""}), "ConfigMap", "featurise-environment")["data"]
    assert "AWS_ENDPOINT_URL" not in at_home


def test_airflow_reads_what_this_chart_makes_and_what_the_readme_has_made() -> None:
    made = {(each["kind"], each["metadata"]["name"]) for each in render()}
    readme = (CHART.parent / "README.md").read_text()
    secrets = set(re.findall(r"create secret generic (\S+)", readme))

    assert yaml.safe_load(AIRFLOW["extraEnvFrom"]) == [
        {"configMapRef": {"name": "featurise-environment"}},
        {"secretRef": {"name": "featurise-s3", "optional": True}},
    ]
    mounted = [volume["configMap"]["name"] for volume in AIRFLOW["volumes"]]
    assert {("ConfigMap", name) for name in [*mounted, "featurise-environment"]} <= made
    named = [each["secretName"] for each in AIRFLOW["secret"]]
    named += [volume["secret"]["secretName"] for volume in AIRFLOW["apiServer"]["extraVolumes"]]
    assert {*named, "featurise-s3"} <= secrets


def test_the_readme_s_values_are_complete(tmp_path: Path) -> None:
    readme = (CHART.parent / "README.md").read_text()
    example = re.search(r"^    backbones:\n(?:    .*\n)+", readme, re.MULTILINE)
    assert example
    values = yaml.safe_load(textwrap.dedent(example[0]).replace("…", "a" * 64))

    declared = one(rendered(values, "night"), "ConfigMap", "featurise-declaration")
    file = tmp_path / "featurise.yaml"
    file.write_text(declared["data"]["featurise.yaml"])
    assert [spec.backbone for spec in load(file) if isinstance(spec, FeatureSetSpec)] == ["resnet101", "resnext101"]
    assert f"create secret generic {values['airflow']['data']['metadataSecretName']} " in readme


def test_airflow_runs_with_what_its_image_holds() -> None:
    lock = (REPOSITORY / "images" / "airflow" / "requirements.lock").read_text()

    assert f"apache-airflow=={AIRFLOW['airflowVersion']} " in lock
    assert AIRFLOW["executor"] == "LocalExecutor"
    for part, module in {"redis": "redis", "statsd": "statsd"}.items():
        assert AIRFLOW[part]["enabled"] is (f"\n{module}==" in lock)
    for part in ("scheduler", "dagProcessor", "triggerer"):
        assert AIRFLOW[part]["logGroomerSidecar"] == {"enabled": False}
    assert AIRFLOW["airflowLocalSettings"] == "", "the chart's file would lie over that of the image"


def test_people_log_in_with_passwords_from_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = AIRFLOW["config"]["core"]
    secret, kept = AIRFLOW["apiServer"]["extraVolumeMounts"][0]["mountPath"], core["simple_auth_manager_passwords_file"]
    there, here = tmp_path / "secret", tmp_path / "passwords.json"
    there.mkdir()
    (there / "passwords.json").write_text('{"admin": "from the secret"}')
    (there / "passwords.json").chmod(0o444)
    command = AIRFLOW["apiServer"]["args"]
    *shell, script = [each.replace(secret, str(there)).replace(kept, str(here)) for each in command]
    for option, value in {**core, "simple_auth_manager_passwords_file": str(here)}.items():
        monkeypatch.setenv(f"AIRFLOW__CORE__{option.upper()}", value)

    subprocess.run([*shell, script.replace("airflow api-server", "true")], check=True)

    assert core["auth_manager"] == f"{SimpleAuthManager.__module__}.{SimpleAuthManager.__name__}"
    SimpleAuthManager().init()
    assert {user.username for user in SimpleAuthManager.get_users()} == {"admin"}
    assert SimpleAuthManager.get_passwords() == {"admin": "from the secret"}
    assert here.stat().st_mode & 0o777 == 0o600
    assert AIRFLOW["createUserJob"] == {"enabled": False}


@pytest.mark.parametrize(("release", "prefix"), [("night", "night-airflow"), ("my-airflow", "my-airflow")])
def test_airflow_s_own_service_accounts_may_launch(release: str, prefix: str) -> None:
    objects = render(release, launchers=[], airflow={"enabled": True})

    subjects = one(objects, "RoleBinding", f"{release}-launcher")["subjects"]
    assert [each["name"] for each in subjects] == [f"{prefix}-scheduler", f"{prefix}-triggerer"]
    assert AIRFLOW["allowPodLaunching"] is False, "Airflow's chart would grant more, such as exec"


@pytest.mark.parametrize(
    ("data", "secret"), [({}, "night-airflow-metadata"), ({"metadataSecretName": "own-database"}, "own-database")]
)
def test_the_pool_is_set_in_airflow_s_database(data: dict[str, str], secret: str) -> None:
    job = one(render(airflow={"enabled": True, "data": data}), "Job", "night-prepare")

    container = job["spec"]["template"]["spec"]["containers"][0]
    secrets = [each for each in container["env"] if "valueFrom" in each]
    names = {each["name"]: each["valueFrom"]["secretKeyRef"]["name"] for each in secrets}
    assert names == {"FEATURISE_REGISTRY": "featurise-registry", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": secret}
    assert {"name": "AIRFLOW_CONFIG", "value": "/tmp/airflow.cfg"} in container["env"], "its own folder is read-only"
    assert 'airflow pools set gpu 8 "GPUs" --include-deferred' in container["args"][0]
