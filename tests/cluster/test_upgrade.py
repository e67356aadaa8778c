"""What the command does to a cluster beside the night: upgrades, pods behind a gate, pods that are refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

import stand_in
import upgrade
from namespace import Namespace, made, rendered
from needs import Needs
from waiting import GATE, REFUSING, Template, refuse, release

IMAGE = "registry.example/featurise/resnet101:1"


@pytest.fixture
def given(tmp_path: Path) -> Iterator[Needs]:
    with stand_in.run(tmp_path / "cluster", {IMAGE: ["sleep", "60"]}, {}) as stand:
        yield Needs(stand.kubeconfig, IMAGE, "http://s3.example", "http://s3.example", "", 1)


@pytest.fixture
def namespace(given: Needs, tmp_path: Path) -> Iterator[Namespace]:
    with made(given, tmp_path) as found:
        yield found


def test_the_chart_is_upgraded_after_an_installation_that_failed(namespace: Namespace, given: Needs) -> None:
    assert upgrade.upgraded(namespace, given) == []


def test_a_job_that_an_upgrade_would_change_is_told(
    namespace: Namespace, given: Needs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def same_name(*wanted: Any, **changes: Any) -> list[dict[str, Any]]:
        objects = rendered(*wanted, **changes)
        for each in objects:
            if each["kind"] == "Job":
                each["metadata"]["name"] = "prepare"
        return objects

    monkeypatch.setattr(upgrade, "rendered", same_name)

    refused = upgrade.upgraded(namespace, given)

    assert len(refused) == 2
    assert all("Job prepare was refused" in said and "field is immutable" in said for said in refused)
    assert refused[0].startswith("revision 2 of the chart")


def test_a_pod_stays_behind_its_gate_until_it_is_released_and_one_is_refused(namespace: Namespace) -> None:
    file = namespace.templates / "resnet101.yaml"
    before = yaml.safe_load(file.read_text())
    template = Template(file)

    def pod(name: str) -> client.V1Pod:
        asked = yaml.safe_load(file.read_text())
        asked["metadata"]["name"] = name
        return namespace.core.create_namespaced_pod(namespace.name, asked)

    template.gate()
    assert [gate.name for gate in pod("held").spec.scheduling_gates] == [GATE]
    assert release(namespace) == ["held"]
    assert release(namespace) == []
    assert refuse(namespace) is None
    template.refuse()
    assert pod("unwanted").spec.node_name == REFUSING
    assert refuse(namespace) == "unwanted"
    assert refuse(namespace) is None
    ended = namespace.core.read_namespaced_pod("unwanted", namespace.name).status
    assert (ended.phase, ended.reason) == ("Failed", "UnexpectedAdmissionError")
    template.write()
    assert yaml.safe_load(file.read_text()) == before
