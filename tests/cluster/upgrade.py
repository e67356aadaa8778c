"""The chart, installed and upgraded: the API takes every object, also where the first installation failed."""

from typing import Any

from kubernetes import client
from kubernetes.client import ApiException

from namespace import Namespace, rendered
from needs import API_SECONDS, Needs, say

RELEASE = "upgraded"
NOWHERE = "registry.invalid/featurise/airflow@sha256:"
"""No node can pull it: the job that prepares the databases fails, and with it the installation."""


def upgraded(namespace: Namespace, needs: Needs) -> list[str]:
    """Install with a job that cannot succeed, upgrade it, and upgrade that; returns what the API refused."""
    refused = []
    for revision, image in ((1, NOWHERE + "0" * 64), (2, NOWHERE + "1" * 64), (3, NOWHERE + "1" * 64)):
        prepared = {"prepare": {"enabled": True}, "controlPlane": {"image": image}}
        for each in rendered(namespace.name, needs, RELEASE, revision, **prepared):
            try:
                put(namespace.core.api_client, namespace.name, each)
            except ApiException as error:
                what = f"{each['kind']} {each['metadata']['name']}"
                refused.append(f"revision {revision} of the chart: {what} was refused: {error.body or error.reason}")
    say("the chart was installed, and upgraded after a job that failed")
    return refused


def put(api: client.ApiClient, namespace: str, each: dict[str, Any]) -> None:
    """Make an object, or change the one that is there, as `helm upgrade` does.

    Raises ApiException.
    """
    version, kind = each["apiVersion"], each["kind"].lower() + "s"
    place = f"/{'apis' if '/' in version else 'api'}/{version}/namespaces/{namespace}/{kind}"
    try:
        _call(api, "POST", place, each, "application/json")
    except ApiException as error:
        if error.status != 409:
            raise
        _call(api, "PATCH", f"{place}/{each['metadata']['name']}", each, "application/merge-patch+json")


def _call(api: client.ApiClient, method: str, path: str, body: dict[str, Any], content: str) -> None:
    api.call_api(
        path,
        method,
        header_params={"Accept": "application/json", "Content-Type": content},
        body=body,
        auth_settings=["BearerToken"],
        _preload_content=False,
        _request_timeout=API_SECONDS,
    )
