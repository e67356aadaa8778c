"""The chart: linted and rendered by Helm's own engine, valid by Kubernetes' schemas, each value used and told."""

import json
import os
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python.chart import lint
from helm_python.errors import HelmError

from charts import CHART, REPOSITORY, merged, one
from given import DEFAULTS, FULL, IMAGE, KUBERNETES, VALUES, WARNING, pod, render
from pod_security import violations


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
    """The paths of all values in `tree`; backbones are the user's to name, and some are Kubernetes' own."""
    found: list[str] = []
    for key, value in tree.items():
        deeper = isinstance(value, dict) and value and f"{above}{key}" not in {"backbones", "prepare.resources"}
        found += values_of(value, f"{above}{key}.") if deeper else [f"{above}{key}"]
    return found


def test_every_value_is_used() -> None:
    templates = "".join(each.read_text() for each in (CHART / "templates").rglob("*") if each.is_file())
    ours = {name: value for name, value in DEFAULTS.items() if name != "airflow"}

    def used(path: str) -> bool:
        ways = (f"alues.{path}", f"${path}", f'"{path.rpartition(".")[2]}"')
        return any(way in templates for way in ways)

    assert [path for path in values_of(ours) if not used(path)] == []


def test_two_releases_in_a_namespace_share_no_object() -> None:
    first, second = ({(each["kind"], each["metadata"]["name"]) for each in render(name)} for name in ("a", "b"))

    assert first
    assert not first & second


def test_labels_names_and_further_objects() -> None:
    extra = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-ca"}, "data": {}}
    objects = render(commonLabels={"team": "vision"}, nameOverride="features", extraObjects=[extra])

    assert one(objects, "ConfigMap", "night-ca")
    for each in objects:
        if each["metadata"]["name"] != "night-ca" and "-test-" not in each["metadata"]["name"]:
            assert each["metadata"]["labels"]["team"] == "vision"
            assert each["metadata"]["labels"]["app.kubernetes.io/name"] == "features"


def test_the_lock_belongs_to_the_dependencies() -> None:
    """Helm's own digest of Chart.yaml's dependencies and the lock's: `helm dependency build` refuses another."""
    chart, lock = (yaml.safe_load((CHART / name).read_text()) for name in ("Chart.yaml", "Chart.lock"))
    fields = ("name", "version", "repository", "condition")
    both = [
        [{field: each[field] for field in fields if field in each} for each in found["dependencies"]]
        for found in (chart, lock)
    ]

    assert lock["digest"] == f"sha256:{sha256(json.dumps(both, separators=(',', ':')).encode()).hexdigest()}"


def described(schema: dict[str, Any], path: str = "") -> list[str]:
    """Values of the schema without a description or an example."""
    found = []
    for name, one_of_them in (schema.get("properties") or {}).items():
        if not one_of_them.get("description") and "$ref" not in one_of_them:
            found.append(f"{path}{name}: description")
        below = one_of_them.get("properties")
        if not below and not one_of_them.get("examples") and "$ref" not in one_of_them and name != "global":
            found.append(f"{path}{name}: example")
        found += described(one_of_them, f"{path}{name}.")
    return found


def test_every_value_is_described_with_an_example() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    assert described(schema) == []
    ours = {name: value for name, value in DEFAULTS.items() if name != "airflow"}
    assert set(ours) <= set(schema["properties"])


def test_extractors_reach_names_and_storage_only() -> None:
    storage = {"ports": [8333], "to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}
    policy = one(render(networkPolicy={"enabled": True, "storage": storage}), "NetworkPolicy", "night-extractor")

    dns = [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]
    rules = [{"ports": dns}, {"ports": [{"protocol": "TCP", "port": 8333}], "to": storage["to"]}]
    assert policy["spec"]["egress"] == rules
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy["spec"]
    labels = pod()["metadata"]["labels"].items()
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels
    kubernetes_validate.validate(policy, KUBERNETES, strict=True)
    assert "NetworkPolicy" not in {each["kind"] for each in render()}


def test_a_drain_takes_one_of_airflow_s_pods_of_a_kind_at_a_time() -> None:
    objects = render(airflow={"enabled": True}, podDisruptionBudgets={"enabled": True})
    budgets = [each for each in objects if each["kind"] == "PodDisruptionBudget"]

    kinds = {each["spec"]["selector"]["matchLabels"]["component"] for each in budgets}
    assert kinds == {"scheduler", "triggerer", "api-server", "dag-processor"}
    assert {each["spec"]["maxUnavailable"] for each in budgets} == {1}
    for each in budgets:
        kubernetes_validate.validate(each, KUBERNETES, strict=True)


def test_what_helm_test_starts() -> None:
    objects = {each["metadata"]["name"]: each for each in render() if each["kind"] == "Pod"}
    asked = objects["night-test"]["spec"]["containers"][0]["args"][0]

    assert set(objects) == {"night-test", "night-test-resnet101"}
    assert {each["metadata"]["annotations"]["helm.sh/hook"] for each in objects.values()} == {"test"}
    assert "featurise cluster --namespace featurise --account airflow/airflow-worker" in asked
    detector = objects["night-test-resnet101"]["spec"]["containers"][0]
    assert (detector["image"], detector["resources"]["limits"]["nvidia.com/gpu"]) == (IMAGE, 1)
    assert (detector["command"][:2], detector["command"][-1], "args" in detector) == (["sh", "-ec"], "resnet101", False)
    for each in objects.values():
        kubernetes_validate.validate(each, KUBERNETES, strict=True)
        assert violations(each["spec"]) == []


def test_helm_test_featurises_an_image_on_each_backbone_s_node(tmp_path: Path) -> None:
    """With the stub in the detector's place: all else is the script's, and the extractor's own."""
    (detector,) = (each for each in render() if each["metadata"]["name"] == "night-test-resnet101")
    programs = REPOSITORY / "images" / "extractor" / ".venv" / "bin"
    stub = {"PYTHONPATH": str(REPOSITORY / "tests" / "extractor" / "stub"), "TMPDIR": str(tmp_path)}
    command = detector["spec"]["containers"][0]["command"]

    def said(*argv: str) -> subprocess.CompletedProcess[str]:
        given = {**os.environ, **stub, "PATH": f"{programs}:{os.environ['PATH']}"}
        return subprocess.run(argv, env=given, capture_output=True, text=True, check=False)

    done = said(*command)
    assert done.returncode == 0, done.stderr
    assert "1 images, 36 boxes" in done.stdout
    assert said(*command[:-1], "no-backbone").returncode != 0
