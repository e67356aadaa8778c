"""The whole umbrella, with a stand-in of Airflow's chart in it: admitted, upgraded, two side by side, typos named."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from charts import CHART, merged, one, pods, rendered, umbrella
from check import TO_FILL, problems, wrong_archive
from pod_security import violations

AIRFLOW = Path(__file__).parent / "airflow_stand_in"


def test_every_pod_of_the_umbrella_is_admitted_where_pod_security_is_restricted() -> None:
    with umbrella(AIRFLOW) as chart:
        found = dict(pods(rendered(TO_FILL, chart=chart)))

    assert {name.partition(" ")[2] for name in found} >= {"night-airflow-scheduler", "night-airflow-api-server"}
    assert {name for name in found if "night-pods" in name} == {
        "ConfigMap night-pods, resnet101.yaml",
        "ConfigMap night-pods, resnext101.yaml",
    }
    assert {name: violations(spec) for name, spec in found.items() if violations(spec)} == {}


@pytest.mark.parametrize("profile", ["values.yaml", "values-kind.yaml", "values-production.yaml"])
def test_nothing_is_wrong_with_the_chart_as_it_comes(profile: str) -> None:
    assert problems(AIRFLOW, yaml.safe_load((CHART / profile).read_text())) == []


@pytest.mark.parametrize(
    ("airflow", "says"),
    [
        ({"securityContexts": {"pod": {"runAsNonRoot": False}}}, "night-airflow-scheduler: Pod Security"),
        ({"securityContexts": {"container": {"allowPrivilegeEscalation": True}}}, "allowPrivilegeEscalation is not"),
        ({"migrateDatabaseJob": {"enabled": True}}, "run-airflow-migrations: an upgrade would change it"),
        ({"schedular": {"replicas": 2}}, "airflow.schedular: Airflow's chart knows no such value; is scheduler meant?"),
        ({"scheduler": {"replica": 2}}, "airflow.scheduler.replica: Airflow's chart knows no such value; is replicas"),
        ({"extraEnvFrom": "- configMapRef: {name: other}"}, "there is no ConfigMap other"),
        ({"useStandardNaming": False}, "useStandardNaming: leave it true"),
    ],
)
def test_what_is_wrong_is_named(airflow: dict[str, Any], says: str) -> None:
    assert says in "\n".join(problems(AIRFLOW, {"airflow": airflow}))


def test_sections_and_options_of_airflow_s_own_configuration_are_free() -> None:
    given = {"config": {"logging": {"remote_logging": "True"}, "scheduler": {"parsing_processes": 2}}}

    assert problems(AIRFLOW, {"airflow": given}) == []


@pytest.mark.parametrize(
    "airflow",
    [
        {"fullnameOverride": "flow"},
        {"scheduler": {"serviceAccount": {"name": "mine"}}},
        {"triggerer": {"serviceAccount": {"create": False}}},
    ],
)
def test_the_role_is_bound_to_the_accounts_that_airflow_s_pods_have(airflow: dict[str, Any]) -> None:
    with umbrella(AIRFLOW) as chart:
        objects = rendered(merged(TO_FILL, {"airflow": airflow}), chart=chart)

    bound = {each["name"] for each in one(objects, "RoleBinding", "night-launcher")["subjects"]}
    made = dict(pods(objects))
    launching = [spec for name, spec in made.items() if name.endswith(("-scheduler", "-triggerer"))]
    assert {spec["serviceAccountName"] for spec in launching} == bound


def test_two_releases_live_in_one_namespace() -> None:
    with umbrella(AIRFLOW) as chart:
        first, second = (rendered(TO_FILL, name, chart=chart) for name in ("day", "night"))

    names = [{(each["kind"], each["metadata"]["name"]) for each in objects} for objects in (first, second)]
    assert not names[0] & names[1]
    for release, objects in (("day", first), ("night", second)):
        read = [volume for _, spec in pods(objects) for volume in spec.get("volumes") or () if "configMap" in volume]
        assert read
        assert all(volume["configMap"]["name"].startswith(f"{release}-") for volume in read)


def test_another_archive_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "airflow-1.22.0.tgz"
    archive.write_bytes(b"another")
    command = [sys.executable, str(Path(__file__).parent), str(archive)]

    said = subprocess.run(command, capture_output=True, text=True, check=False)

    assert said.returncode == 2
    pinned = yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]["featurise/airflow-chart-sha256"]
    assert f"Chart.yaml pins {pinned}" in said.stdout
    assert wrong_archive(archive)
    assert "there is no such file" in subprocess.run(
        [*command[:2], str(tmp_path / "none.tgz")], capture_output=True, text=True, check=False
    ).stdout  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"hostNetwork": True}, "hostNetwork is shared"),
        ({"volumes": [{"name": "a", "hostPath": {"path": "/"}}]}, "volume a is a hostPath"),
        ({"securityContext": {"runAsNonRoot": True}}, "seccompProfile is neither"),
        ({"securityContext": {"runAsNonRoot": True, "runAsUser": 0}}, "runAsUser is 0"),
    ],
)
def test_what_pod_security_refuses(spec: dict[str, Any], says: str) -> None:
    container = {
        "name": "a",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    admitted = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}

    assert violations({"containers": [container], "securityContext": admitted}) == []
    assert says in "\n".join(violations({"containers": [container], "securityContext": admitted, **spec}))
    assert len(violations({"containers": [{"name": "a"}]})) == 4
