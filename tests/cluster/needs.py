"""What a run on a real cluster needs, and in which words it says what is missing."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from kubernetes import client, config
from kubernetes.client import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

API_SECONDS = 10
# Verbs, API group, resource. Nobody may give to a role what they may not do themselves, hence those of the launcher.
RIGHTS = (
    ("create get delete", "", "namespaces"),
    ("create patch", "", "configmaps"),
    ("create", "", "secrets"),
    ("create patch", "", "serviceaccounts"),
    ("create", "", "serviceaccounts/token"),
    ("create", "", "resourcequotas"),
    ("create patch", "rbac.authorization.k8s.io", "roles"),
    ("create patch", "rbac.authorization.k8s.io", "rolebindings"),
    ("create patch", "batch", "jobs"),
    ("create get list watch patch delete", "", "pods"),
    ("patch", "", "pods/status"),
    ("get list", "", "pods/log"),
    ("get list watch", "", "events"),
)
VARIABLES = {
    "KUBECONFIG": "path of the kubeconfig of a cluster on which namespaces may be made",
    "IMAGE": "reference of the resnet101 image as nodes pull it; `images/build resnet101` makes it, then push it to a "
    "registry of yours, or load it: `kind load image-archive`, `k3d image import`",
    "S3_ENDPOINT": "URL of an S3 endpoint that pods reach, such as http://10.0.0.5:8333",
    "AWS_ACCESS_KEY_ID": "key of that endpoint",
    "AWS_SECRET_ACCESS_KEY": "secret of that endpoint",
}


@dataclass(frozen=True)
class Needs:
    """Everything that a run was given. `here` is the object store's address from this machine."""

    kubeconfig: Path
    image: str
    endpoint: str
    here: str
    gpu: str
    timeout_minutes: int


def missing(environment: Mapping[str, str]) -> list[str]:
    """A sentence for each thing that is missing or does not work; nothing when all is there."""
    found = [f"{name} is not set: {what}" for name, what in VARIABLES.items() if not environment.get(name)]
    minutes = environment.get("TIMEOUT_MINUTES") or "30"
    if not (minutes.isdecimal() and int(minutes)):
        found.append(f"TIMEOUT_MINUTES={minutes}: expected a whole number of minutes from 1, such as 30")
    addresses = {name: environment[name] for name in ("S3_ENDPOINT", "S3_ENDPOINT_HERE") if environment.get(name)}
    malformed = [
        f"{name}={address} is not the URL of an S3 endpoint: expected http://HOST:PORT or https://HOST"
        for name, address in addresses.items()
        if not re.fullmatch(r"https?://\S+", address)
    ]
    found += malformed
    kubeconfig = environment.get("KUBECONFIG")
    if kubeconfig:
        found += _cluster(Path(kubeconfig))
    if not malformed and all(environment.get(n) for n in ("S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")):
        found += _store(environment.get("S3_ENDPOINT_HERE") or environment["S3_ENDPOINT"])
    return found


def read(environment: Mapping[str, str]) -> Needs:
    """The needs, when nothing is missing. GPU names the resource to ask for; without it pods run on CPUs."""
    endpoint = environment["S3_ENDPOINT"]
    return Needs(
        kubeconfig=Path(environment["KUBECONFIG"]).resolve(),
        image=environment["IMAGE"],
        endpoint=endpoint,
        here=environment.get("S3_ENDPOINT_HERE") or endpoint,
        gpu=environment.get("GPU", ""),
        timeout_minutes=int(environment.get("TIMEOUT_MINUTES") or 30),
    )


def credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """What pods need to be known to the object store; temporary keys come with a token."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    return {name: environment[name] for name in names if environment.get(name)}


def in_short(error: Exception) -> str:
    """An error of the API in one line; its own text has the headers of the answer too."""
    return f"{error.status} {error.reason}" if isinstance(error, ApiException) else str(error)


def say(what: str) -> None:
    """Print it."""
    print(f"test-cluster: {what}", flush=True)


def _cluster(kubeconfig: Path) -> list[str]:
    if not kubeconfig.is_file():
        return [f"KUBECONFIG={kubeconfig}: there is no such file"]
    try:
        api = config.new_client_from_config(str(kubeconfig))
        client.VersionApi(api).get_code(_request_timeout=API_SECONDS)
    except ConfigException as error:
        return [f"KUBECONFIG={kubeconfig}: {error}"]
    except (ApiException, HTTPError, OSError) as error:
        return [f"the cluster of {kubeconfig} does not answer: {in_short(error)}"]
    try:
        refused = [
            f"{verb} {resource}"
            for verbs, group, resource in RIGHTS
            for verb in verbs.split()
            if not _may(api, verb, group, resource)
        ]
    except (ApiException, HTTPError, OSError) as error:
        return [f"the cluster of {kubeconfig} does not say what its user may do: {in_short(error)}; expected are "
                "credentials that it knows: try `kubectl auth whoami`, and see that a plug-in which the kubeconfig "
                "names is installed"]  # fmt: skip
    return [f"the user of {kubeconfig} may not: {', '.join(refused)}"] if refused else []


def _may(api: client.ApiClient, verb: str, group: str, resource: str) -> bool:
    kind, _, part = resource.partition("/")
    asked = client.V1ResourceAttributes(verb=verb, group=group, resource=kind, subresource=part, namespace="")
    review = client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=asked))
    answer = client.AuthorizationV1Api(api).create_self_subject_access_review(review, _request_timeout=API_SECONDS)
    return bool(answer.status.allowed)


def _store(endpoint: str) -> list[str]:
    region = os.environ.get("AWS_DEFAULT_REGION", "us-east-1")
    try:
        boto3.client("s3", endpoint_url=endpoint, region_name=region).list_buckets()
    except (BotoCoreError, ClientError, ValueError) as error:
        return [f"the object store does not answer at {endpoint}: {error}; where this machine reaches it by another "
                "address than pods do, set S3_ENDPOINT_HERE"]  # fmt: skip
    return []
