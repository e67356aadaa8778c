"""One pod is taken away in the midst of its work."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from kubernetes import client
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from namespace import Namespace
from needs import API_SECONDS, in_short, say

SILENT = timedelta(seconds=30)
"""Where no node tells what a pod says, it is taken to be at work after so long."""
TAKEN_AWAY = {"evicted", "node_lost"}
"""What a deletion from outside is known as: the second where the cluster removes a pod before anyone sees it go."""


def break_one(namespace: Namespace) -> str | None:
    """Delete a pod that is at work, and say which; None where there is none, or it ended first."""
    for pod in at_work(namespace):
        try:
            namespace.core.delete_namespaced_pod(pod, namespace.name)
        except ApiException as error:
            if error.status != 404:
                raise
        else:
            say(f"deleted pod {pod} in the midst of its work")
            return pod
    return None


def at_work(namespace: Namespace) -> list[str]:
    """Names of pods whose log says that images are done."""
    return [pod.metadata.name for pod in namespace.pods() if pod.status.phase == "Running" and _at_work(pod, namespace)]


def taken_away(broken: str, attempts: Iterable[Any]) -> bool:
    """Whether an attempt at `broken` is known to have been taken away from outside. Attempts: place, reason, code."""
    return any(place == broken and reason in TAKEN_AWAY for place, reason, _ in attempts)


def _at_work(pod: client.V1Pod, namespace: Namespace) -> bool:
    name = pod.metadata.name
    try:
        log = namespace.core.read_namespaced_pod_log(name, namespace.name, _request_timeout=API_SECONDS)
    except (ApiException, HTTPError) as error:  # as between its start and its first line
        say(f"no log of {name}: {in_short(error)}")
        return bool(datetime.now(UTC) - (pod.status.start_time or pod.metadata.creation_timestamp) > SILENT)
    return '"progress"' in log
