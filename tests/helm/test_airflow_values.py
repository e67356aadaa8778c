"""What the chart sets of Airflow's own, and what follows from what a user sets there."""

import re
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from helm_python.errors import HelmError

from charts import CHART, REPOSITORY, merged, one, rendered
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.load import load
from given import AIRFLOW, VALUES, prepare, render


def test_what_airflow_itself_learns_from_the_values() -> None:
    environment = one(render(pod={"scheduleSeconds": 60}), "ConfigMap", "night-environment")["data"]

    assert environment == {
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": "https://s3.example",
        "FEATURISE_POD_SCHEDULE_SECONDS": "60",
        "FEATURISE_POD_QUEUE_SECONDS": "86400",
        "FEATURISE_POD_START_SECONDS": "1200",
    }
    at_home = one(render(storage={"endpoint": ""}), "ConfigMap", "night-environment")["data"]
    assert "AWS_ENDPOINT_URL" not in at_home


def test_airflow_reads_what_the_readme_has_made() -> None:
    readme = (CHART.parent / "README.md").read_text()
    secrets = set(re.findall(r"create secret generic (\S+)", readme))

    sources = yaml.safe_load(AIRFLOW["extraEnvFrom"])
    assert sources[1] == {"secretRef": {"name": "featurise-s3", "optional": True}}
    named = [each["secretName"] for each in AIRFLOW["secret"]]
    named += [volume["secret"]["secretName"] for volume in AIRFLOW["apiServer"]["extraVolumes"] if "secret" in volume]
    assert {*named, "featurise-s3", "featurise-users"} <= secrets


def test_the_readme_s_values_are_complete(tmp_path: Path) -> None:
    readme = (CHART.parent / "README.md").read_text()
    example = re.search(r"^    backbones:\n(?:    .*\n)+", readme, re.MULTILINE)
    assert example
    values = yaml.safe_load(textwrap.dedent(example[0]).replace("…", "a" * 64))

    declared = one(rendered(values, "night"), "ConfigMap", "night-declaration")
    file = tmp_path / "featurise.yaml"
    file.write_text(declared["data"]["featurise.yaml"])
    assert [spec.backbone for spec in load(file) if isinstance(spec, FeatureSetSpec)] == ["resnet101", "resnext101"]
    assert f"create secret generic {values['airflow']['data']['metadataSecretName']} " in readme


def test_airflow_runs_with_what_its_image_holds() -> None:
    lock = (REPOSITORY / "images" / "airflow" / "requirements.lock").read_text()

    assert f"apache-airflow=={AIRFLOW['airflowVersion']} " in lock
    assert AIRFLOW["executor"] == "LocalExecutor"
    for part, module in {"redis": "redis", "statsd": "statsd"}.items():
        assert not AIRFLOW[part]["enabled"] or f"\n{module}==" in lock
    for part in ("scheduler", "dagProcessor", "triggerer"):
        assert AIRFLOW[part]["logGroomerSidecar"] == {"enabled": False}
    assert AIRFLOW["airflowLocalSettings"] == "", "the chart's file would lie over that of the image"


def test_people_log_in_with_passwords_from_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = AIRFLOW["config"]["core"]
    secret, kept = AIRFLOW["apiServer"]["extraVolumeMounts"][1]["mountPath"], core["simple_auth_manager_passwords_file"]
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


def launchers(release: str = "night", **airflow: Any) -> list[str]:
    objects = render(release, launchers=[], airflow={"enabled": True, **airflow})
    return [each["name"] for each in one(objects, "RoleBinding", f"{release}-launcher")["subjects"]]


@pytest.mark.parametrize(
    ("release", "airflow", "names"),
    [
        ("night", {}, ["night-airflow-scheduler", "night-airflow-triggerer"]),
        ("my-airflow", {}, ["my-airflow-scheduler", "my-airflow-triggerer"]),
        ("night", {"fullnameOverride": "flow"}, ["flow-scheduler", "flow-triggerer"]),
        ("night", {"nameOverride": "dags"}, ["night-dags-scheduler", "night-dags-triggerer"]),
        ("night", {"scheduler": {"serviceAccount": {"name": "mine"}}}, ["mine", "night-airflow-triggerer"]),
        ("night", {"triggerer": {"serviceAccount": {"create": False}}}, ["night-airflow-scheduler", "default"]),
    ],
)
def test_the_service_accounts_that_a_user_names_may_launch(
    release: str, airflow: dict[str, Any], names: list[str]
) -> None:
    assert launchers(release, **airflow) == names
    assert AIRFLOW["allowPodLaunching"] is False, "Airflow's chart would grant more, such as exec"


def test_names_that_cannot_be_followed_are_refused() -> None:
    with pytest.raises(HelmError, match="useStandardNaming: leave it true"):
        launchers(useStandardNaming=False)


@pytest.mark.parametrize(
    ("airflow", "secret"),
    [
        ({}, "night-airflow-metadata"),
        ({"data": {"metadataSecretName": "own-database"}}, "own-database"),
        ({"fullnameOverride": "flow"}, "flow-metadata"),
    ],
)
def test_airflow_s_database_is_migrated_and_has_the_pool(airflow: dict[str, Any], secret: str) -> None:
    job = prepare(airflow={"enabled": True, **airflow})

    container = job["spec"]["template"]["spec"]["containers"][0]
    secrets = [each for each in container["env"] if "valueFrom" in each]
    names = {each["name"]: each["valueFrom"]["secretKeyRef"]["name"] for each in secrets}
    assert names == {"FEATURISE_REGISTRY": "featurise-registry", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": secret}
    assert {"name": "AIRFLOW_CONFIG", "value": "/tmp/airflow.cfg"} in container["env"], "its own folder is read-only"
    script = container["args"][0]
    assert script.index("airflow db migrate") < script.index('airflow pools set gpu 8 "GPUs" --include-deferred')
    assert AIRFLOW["migrateDatabaseJob"] == {"enabled": False}


def test_each_revision_prepares_by_a_job_of_its_own() -> None:
    """A job cannot be changed, and one that has failed is not run again."""
    values = merged(VALUES, {"airflow": {"enabled": True}})
    again = merged(values, {"controlPlane": {"image": "registry.example/featurise/airflow@sha256:" + "2" * 64}})

    def name(values: dict[str, Any], revision: int) -> str:
        objects = rendered(values, "night", revision=revision)
        (job,) = (each for each in objects if each["kind"] == "Job")
        assert "annotations" not in job["metadata"], "a hook would wait for pods that wait for it"
        return str(job["metadata"]["name"])

    assert len({name(values, 1), name(values, 2), name(again, 1)}) == 3, "GitOps renders each as the first revision"


def test_dags_from_git_are_not_defeated_by_the_image() -> None:
    """The chart mounts them over Airflow's own folder, and a variable would outweigh what it configures."""
    dockerfile = (REPOSITORY / "images" / "airflow" / "Dockerfile").read_text()

    assert "DAGS_FOLDER" not in dockerfile
    assert "COPY dags /opt/airflow/dags" in dockerfile
