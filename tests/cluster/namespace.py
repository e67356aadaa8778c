"""A namespace of the run's own, with what the chart puts into it; a kubeconfig that may do what the launcher may."""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tenacity
import yaml
from helm_python.chart import Chart
from kubernetes import client, config, utils
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from needs import Needs, credentials, in_short, say

CHART = Path(__file__).parents[2] / "helm" / "featurise"
LAUNCHER = "launcher"
STORAGE_SECRET = "featurise-s3"
TOKEN_SECONDS = 4 * 3600
DELETED_SECONDS = 300
OUTAGE_SECONDS = 60


@dataclass(frozen=True)
class Namespace:
    """Where the night runs. `templates` is the folder of pod templates."""

    name: str
    core: client.CoreV1Api
    templates: Path
    kubeconfig: Path

    def pods(self) -> list[client.V1Pod]:
        """The pods in it now."""
        return list(self.core.list_namespaced_pod(self.name).items)


@contextmanager
def made(needs: Needs, folder: Path) -> Iterator[Namespace]:
    """Make a namespace under the strictest pod security, and what belongs in it; remove all of it afterwards."""
    api = config.new_client_from_config(str(needs.kubeconfig))
    core = client.CoreV1Api(api)
    name = f"featurise-test-{secrets.token_hex(3)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "app.kubernetes.io/name": "featurise-test"}
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name, labels=labels)))
    with removed(lambda: remove(core, name), f"namespace {name}"):
        templates = _furnish(api, core, name, needs, folder)
        yield Namespace(name, core, templates, _limited_kubeconfig(core, name, needs, folder))


@contextmanager
def removed(removal: Callable[[], None], what: str) -> Iterator[None]:
    """Call `removal` at the end, however it comes. An error before it is not hidden by one of its own."""
    try:
        yield
    except BaseException:
        try:
            removal()
        except Exception as error:  # noqa: BLE001 - reported, since the error before it is raised
            say(f"{what} could not be removed, remove it by hand: {in_short(error)}")
        raise
    removal()


def _passes(error: BaseException) -> bool:
    """Whether the API may answer if it is asked again."""
    return isinstance(error, HTTPError) or (isinstance(error, ApiException) and (error.status or 500) >= 500)


_patiently = tenacity.retry(
    retry=tenacity.retry_if_exception(_passes),
    wait=tenacity.wait_fixed(2),
    stop=tenacity.stop_after_delay(OUTAGE_SECONDS),
    reraise=True,
)


def remove(core: client.CoreV1Api, name: str) -> None:
    """Delete a namespace, and wait until nothing of it is left."""
    deadline = time.monotonic() + DELETED_SECONDS
    there = _patiently(_delete)(core, name)
    while there and time.monotonic() < deadline:
        time.sleep(2)
        there = _patiently(_is_there)(core, name)
    if there:
        raise TimeoutError(
            f"namespace {name} is still there {DELETED_SECONDS} s after its deletion: kubectl get all -n {name}"
        )


def _delete(core: client.CoreV1Api, name: str) -> bool:
    """Ask for the deletion; False when it is gone. 409 says that it is going: an attempt before this one was heard."""
    try:
        core.delete_namespace(name)
    except ApiException as error:
        if error.status not in {404, 409}:
            raise
        return bool(error.status == 409)
    return True


def _is_there(core: client.CoreV1Api, name: str) -> bool:
    try:
        core.read_namespace(name)
    except ApiException as error:
        if error.status != 404:
            raise
        return False
    return True


def _furnish(api: client.ApiClient, core: client.CoreV1Api, name: str, needs: Needs, folder: Path) -> Path:
    core.create_namespaced_service_account(name, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name=LAUNCHER)))
    core.create_namespaced_secret(
        name,
        client.V1Secret(
            metadata=client.V1ObjectMeta(name=STORAGE_SECRET),
            string_data=credentials(os.environ),
        ),
    )
    core.create_namespaced_resource_quota(
        name,
        client.V1ResourceQuota(
            metadata=client.V1ObjectMeta(name="pods"), spec=client.V1ResourceQuotaSpec(hard={"pods": "8"})
        ),
    )
    objects = rendered(name, needs)
    for each in objects:
        utils.create_from_dict(api, each, namespace=name)
    templates = folder / "pods"
    templates.mkdir()
    pods = next(each for each in objects if each["metadata"]["name"] == "night-pods")
    for file, text in pods["data"].items():
        (templates / file).write_text(text)
    return templates


def rendered(
    name: str, needs: Needs, release: str = "night", revision: int = 1, **changes: Any
) -> list[dict[str, Any]]:
    """The chart's objects, as the run wants them."""
    values = {
        "backbones": {
            "resnet101": {"enabled": True, "image": needs.image},
            "resnext101": {"enabled": False, "image": ""},
        },
        "storage": {"endpoint": needs.endpoint, "secret": STORAGE_SECRET},
        "pod": {
            "gpu": {"resource": needs.gpu, "count": 1},
            "resources": {"cpu": "1", "memory": "4Gi"},
            "scratch": {"sizeLimit": "2Gi"},
            "terminationGracePeriodSeconds": 30,
        },
        "launchers": [{"name": LAUNCHER}],
        "prepare": {"enabled": False},
        "airflow": {"enabled": False},
        **changes,
    }
    given = {"revision": revision, "is_install": revision == 1, "is_upgrade": revision > 1}
    with Chart.load(CHART) as chart:
        files = chart.render(values=values, name=release, namespace=name, **given)
    made = [each for name, text in files.items() if name.endswith(".yaml") for each in yaml.safe_load_all(text) if each]
    # What `helm test` makes is not installed.
    return [each for each in made if "helm.sh/hook" not in (each["metadata"].get("annotations") or {})]


def _limited_kubeconfig(core: client.CoreV1Api, name: str, needs: Needs, folder: Path) -> Path:
    """The cluster as the launcher's service account sees it: what its role does not grant, Airflow cannot do."""
    request = client.AuthenticationV1TokenRequest(
        spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=TOKEN_SECONDS)
    )
    token = core.create_namespaced_service_account_token(LAUNCHER, name, request).status.token
    own = yaml.safe_load(needs.kubeconfig.read_text())
    context = next(each for each in own["contexts"] if each["name"] == own["current-context"])["context"]
    cluster = next(each for each in own["clusters"] if each["name"] == context["cluster"])
    if authority := cluster["cluster"].get("certificate-authority"):  # relative to the file that names it
        cluster["cluster"]["certificate-authority"] = str(needs.kubeconfig.parent / authority)
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [cluster],
        "users": [{"name": LAUNCHER, "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": cluster["name"], "user": LAUNCHER, "namespace": name}}],
        "current-context": "test",
    }
    file = folder / "kubeconfig"
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
        yaml.safe_dump(content, handle)
    return file
