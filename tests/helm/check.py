"""All that can be said of the umbrella chart without a cluster: this chart with one of Airflow's in it."""

import difflib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from helm_python.chart import Chart
from helm_python.errors import HelmError

from charts import CHART, Json, merged, pods, rendered, umbrella
from pod_security import violations

KUBERNETES = "1.36"
PINNED = "featurise/airflow-chart-sha256"
TO_FILL = {
    "backbones": {
        name: {"image": f"registry.example/{name}@sha256:{'0' * 64}"} for name in ("resnet101", "resnext101")
    },
    "controlPlane": {"image": "registry.example/airflow@sha256:" + "1" * 64},
}
"""What no value can be given for beforehand."""


def wrong_archive(archive: Path) -> str | None:
    """Why this is not the archive of Airflow's chart that Chart.yaml pins; None: it is."""
    expected = yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"][PINNED]
    found = sha256(archive.read_bytes()).hexdigest()
    return None if found == expected else f"{archive}: SHA-256 is {found}, Chart.yaml pins {expected}"


def problems(airflow: Path, values: Json) -> list[str]:
    """What is wrong with an installation by these values, and with an upgrade of it; nothing when all is well."""
    with umbrella(airflow) as chart:
        filled = _filled(values, TO_FILL)
        found = [*_unknown(filled.get("airflow") or {}, chart)]
        try:
            first, second = (rendered(filled, chart=chart, revision=number) for number in (1, 2))
        except HelmError as error:
            return [*found, f"not rendered: {error}"]
    return [*found, *_invalid(first), *_refused(first), *_dangling(first), *_immutable(first, second)]


def _filled(values: Json, empty: Json) -> Json:
    """The values, with those of `empty` where they have none."""
    below = {
        name: _filled(values.get(name) or {}, each) if isinstance(each, dict) else values.get(name) or each
        for name, each in empty.items()
    }
    return {**values, **below}


def _unknown(given: Json, chart: Path) -> Iterator[str]:
    """Names below `airflow:` that Airflow's chart has no value for."""
    airflow = next((chart / "charts").iterdir())
    with Chart.load(airflow) as loaded:
        known, schema = loaded.values, loaded.schema or {}
    yield from _unknown_names(given, known, schema, "airflow")


def _unknown_names(given: Json, known: Json, schema: Json, path: str) -> Iterator[str]:
    properties = schema.get("properties") or {}
    for name, value in given.items():
        if path == "airflow" and name in {"enabled", "global"}:
            continue
        if name not in known and name not in properties:
            close = difflib.get_close_matches(name, [*known, *properties], n=1)
            yield f"{path}.{name}: Airflow's chart knows no such value" + (f"; is {close[0]} meant?" if close else "")
            continue
        below, free = known.get(name), properties.get(name) or {}
        # An empty map takes any name, and so does one whose schema says so.
        if isinstance(value, dict) and isinstance(below, dict) and below and path + name not in _FREE:
            yield from _unknown_names(value, below, free, f"{path}.{name}")


_FREE = {"airflowconfig", "airflow.configlogging", "airflow.configcore"}
"""Airflow's own configuration has sections and options that no chart lists."""


def _invalid(objects: list[Json]) -> Iterator[str]:
    for each in objects:
        named: Json = merged(each, {"metadata": {"name": each["metadata"].get("name", "x")}})
        if "." in each["apiVersion"].partition("/")[0] and not each["apiVersion"].split("/")[0].endswith("k8s.io"):
            continue  # a kind that the cluster is taught, such as a ServiceMonitor
        try:
            kubernetes_validate.validate(named, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{each['kind']} {each['metadata'].get('name')}: {error.message} at {list(error.path)}"


def _refused(objects: list[Json]) -> Iterator[str]:
    for name, spec in pods(objects):
        yield from (f"{name}: Pod Security `restricted` refuses it: {what}" for what in violations(spec))


def _dangling(objects: list[Json]) -> Iterator[str]:
    """Names of ConfigMaps and service accounts that nothing has."""
    made = {(each["kind"], each["metadata"].get("name")) for each in objects}
    for name, spec in pods(objects):
        account = spec.get("serviceAccountName") or "default"
        if account != "default" and ("ServiceAccount", account) not in made:
            yield f"{name}: there is no service account {account}"
        for config in _config_maps(spec):
            if ("ConfigMap", config) not in made:
                yield f"{name}: there is no ConfigMap {config}"
    for each in objects:
        for subject in each.get("subjects") or () if each["kind"] == "RoleBinding" else ():
            here = subject.get("namespace") in {None, "featurise"} and subject["kind"] == "ServiceAccount"
            if here and subject["name"] != "default" and ("ServiceAccount", subject["name"]) not in made:
                yield f"RoleBinding {each['metadata']['name']}: there is no service account {subject['name']}"


def _config_maps(spec: Json) -> Iterator[str]:
    for volume in spec.get("volumes") or ():
        if (config := volume.get("configMap")) and not config.get("optional"):
            yield config["name"]
    for container in spec["containers"]:
        for source in container.get("envFrom") or ():
            if (config := source.get("configMapRef")) and not config.get("optional"):
                yield config["name"]


def _immutable(first: list[Json], second: list[Json]) -> Iterator[str]:
    """Jobs that an upgrade would have to change, which no API takes, be they done or failed."""
    jobs = {each["metadata"]["name"] for each in first if each["kind"] == "Job" and not _hook(each)}
    for each in second:
        if each["kind"] == "Job" and not _hook(each) and each["metadata"]["name"] in jobs:
            yield f"Job {each['metadata']['name']}: an upgrade would change it, or not run it again"


def _hook(each: Json) -> bool:
    """Whether Helm deletes it before it makes it again."""
    notes: dict[str, Any] = each["metadata"].get("annotations") or {}
    before = "before-hook-creation"
    return "helm.sh/hook" in notes and before in notes.get("helm.sh/hook-delete-policy", before)
