"""Pod templates whose fields would be lost are refused by name, and `featurise cluster` says so before a night."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config

import stand_in
from featurise.cluster import rights, templates
from featurise.settings import settings


def template(**spec: Any) -> dict[str, Any]:
    base = {"name": "base", "image": "a", "resources": {"limits": {"memory": "1Gi", "nvidia.com/gpu": 1}}}
    whole = {"containers": [base], "volumes": [{"name": "a", "emptyDir": {}}], "nodeSelector": None, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "n", "labels": {"a": "b"}}, "spec": whole}


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ({}, []),
        ({"nodeselector": {"gpu": "h100"}}, ["spec.nodeselector"]),
        ({"volumes": [{"name": "a", "emptyDir": {"sizelimit": "1Gi"}}]}, ["spec.volumes[0].emptyDir.sizelimit"]),
        ({"containers": [{"name": "a", "workingdir": "/"}]}, ["spec.containers[0].workingdir"]),
        ({"fieldOfTomorrow": {"name": "a"}, "hostUsers": False}, ["spec.fieldOfTomorrow"]),
    ],
)  # fmt: skip
def test_what_the_client_would_drop_is_found(spec: dict[str, Any], fields: list[str]) -> None:
    assert templates.lost(template(**spec)) == fields


def test_a_template_is_refused_by_the_names_of_its_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURISE_POD_TEMPLATES", str(tmp_path))
    settings.cache_clear()
    (tmp_path / "resnet101.yaml").write_text(yaml.safe_dump(template(nodeselector={})))
    (tmp_path / "resnext101.yaml").write_text(yaml.safe_dump(template()))
    (tmp_path / "none.yaml").write_text("kind: Job")
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(template(containers=[{"name": "base", "env": [{}]}])))

    with pytest.raises(templates.TemplateBroken, match=r"would be lost.*spec\.nodeselector; look how"):
        templates.check(templates.path("resnet101"))
    with pytest.raises(templates.TemplateBroken, match="is no pod template"):
        templates.check(templates.path("none"))
    with pytest.raises(templates.TemplateBroken, match="`name`, must not be"):
        templates.check(templates.path("bare"))
    assert len(templates.mistakes(["resnet101", "resnext101", "elsewhere", "resnet101"])) == 1
    settings.cache_clear()


def test_the_command_names_lost_fields_and_rights_that_launchers_lack(tmp_path: Path) -> None:
    templates_, account = tmp_path / "pods", "night/launcher"
    templates_.mkdir()
    (templates_ / "resnet101.yaml").write_text(yaml.safe_dump(template(nodeselector={})))
    variables = {**os.environ, "FEATURISE_POD_TEMPLATES": str(templates_), "COLUMNS": "500"}

    def checked() -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).with_name("featurise"), "cluster", "--namespace", "night", "--account", account]
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)

    with stand_in.run(tmp_path / "cluster", {}, {}) as cluster:
        variables["KUBECONFIG"] = str(cluster.kubeconfig)
        refused = checked()
        (templates_ / "resnet101.yaml").write_text(yaml.safe_dump(template()))
        api = config.new_client_from_config(str(cluster.kubeconfig))
        named = client.V1ObjectMeta(name="night")
        client.CoreV1Api(api).create_namespace(client.V1Namespace(metadata=named))
        granted = [
            client.V1PolicyRule(api_groups=[""], resources=[f"{name}/{part}" if part else name], verbs=verbs.split())
            for name, part, verbs in rights.NEEDED
        ]
        client.RbacAuthorizationV1Api(api).create_namespaced_role(
            "night", client.V1Role(metadata=client.V1ObjectMeta(name="launcher"), rules=granted)
        )
        allowed = checked()
    away = checked()

    assert (refused.returncode, allowed.returncode, away.returncode) == (1, 0, 1), refused.stderr + allowed.stdout
    said = refused.stdout + refused.stderr
    assert "resnet101.yaml has fields that would be lost" in said
    assert "spec.nodeselector" in said
    assert f"the service account {account} may not: create pods, get pods, list pods" in said
    assert "list events" in said
    assert "pods can be launched" in allowed.stdout + allowed.stderr
    assert "the cluster does not say who may launch pods" in away.stdout + away.stderr
