"""What a run on a real cluster needs, and in which words it says what is missing."""

import os
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
RIGHTS = (
    ("create", "", "namespaces"),
    ("delete", "", "namespaces"),
    ("create", "rbac.authorization.k8s.io", "roles"),
    ("create", "rbac.authorization.k8s.io", "rolebindings"),
    ("create", "", "resourcequotas"),
    ("create", "", "secrets"),
    ("create", "", "serviceaccounts"),
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
    kubeconfig = environment.get("KUBECONFIG")
    if kubeconfig:
        found += _cluster(Path(kubeconfig))
    if all(environment.get(name) for name in ("S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")):
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
        timeout_minutes=int(environment.get("TIMEOUT_MINUTES", "30")),
    )


def _cluster(kubeconfig: Path) -> list[str]:
    if not kubeconfig.is_file():
        return [f"KUBECONFIG={kubeconfig}: there is no such file"]
    try:
        api = config.new_client_from_config(str(kubeconfig))
        client.VersionApi(api).get_code(_request_timeout=API_SECONDS)
    except ConfigException as error:
        return [f"KUBECONFIG={kubeconfig}: {error}"]
    except (ApiException, HTTPError, OSError) as error:
        return [f"the cluster of {kubeconfig} does not answer: {error}"]
    refused = [f"{verb} {kind}" for verb, group, kind in RIGHTS if not _may(api, verb, group, kind)]
    return [f"the user of {kubeconfig} may not: {', '.join(refused)}"] if refused else []


def _may(api: client.ApiClient, verb: str, group: str, kind: str) -> bool:
    asked = client.V1ResourceAttributes(verb=verb, group=group, resource=kind, namespace="")
    review = client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=asked))
    answer = client.AuthorizationV1Api(api).create_self_subject_access_review(review, _request_timeout=API_SECONDS)
    return bool(answer.status.allowed)


def _store(endpoint: str) -> list[str]:
    store = boto3.client("s3", endpoint_url=endpoint, region_name=os.environ.get("AWS_DEFAULT_REGION", "us-east-1"))
    try:
        store.list_buckets()
    except (BotoCoreError, ClientError) as error:
        return [f"the object store does not answer at {endpoint}: {error}; where this machine reaches it by another "
                "address than pods do, set S3_ENDPOINT_HERE"]  # fmt: skip
    return []
