"""Pods without a task around them: what is read from one, and changed; how they are removed, or out of sight."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import yaml
from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import KubernetesApiException
from airflow.providers.cncf.kubernetes.utils.pod_manager import detect_pod_terminate_early_issues
from kubernetes.client import ApiException
from kubernetes.client import models as k8s
from kubernetes.utils.quantity import parse_quantity
from urllib3.exceptions import HTTPError

from extractor.core.redact import fit
from featurise.airflow.abandoned import ATTEMPT
from featurise.airflow.retry_policy import OutOfSight
from featurise.airflow.triggers.pod import is_lost
from featurise.cluster import rights, templates
from featurise.declaration.run import Run
from featurise.failures.classify import DETAIL_BYTES, Evidence, classify, text
from featurise.failures.pod_evidence import CONTAINER
from featurise.failures.taxonomy import Action, Step
from featurise.registry.nodes import Avoid
from featurise.registry.remains import Pod
from featurise.steps.extract import AttemptFailed

API_SECONDS = 20
HEAVIEST = 100
"""Of the weights that Kubernetes takes for a preference."""
DATASET_LETTERS = 20
"""Of a dataset's name in its pods' names, which have 63 at the most."""


def ended(pod: k8s.V1Pod) -> bool:
    """Whether a pod has come to its end, or to a start that it will not get beyond."""
    return (
        pod.status.phase in {"Succeeded", "Failed"}
        or is_lost(pod.metadata.deletion_timestamp)
        or any(each.name == CONTAINER and each.state.terminated for each in pod.status.container_statuses or ())
        or detect_pod_terminate_early_issues(pod) is not None
    )


def has_run(pod: k8s.V1Pod | None) -> bool:
    """Whether the extractor's container runs or has run."""
    statuses = (pod.status.container_statuses if pod is not None else None) or []
    return any(each.name == CONTAINER and (each.state.running or each.state.terminated) for each in statuses)


def why(error: ApiException) -> str:
    """The API's own words."""
    return fit(f"{error.status} {error.reason}: {error.body or ''}".strip(), DETAIL_BYTES)


def pod_name(run: Run, shard: str, number: int) -> str:
    """A name that only this attempt can have: a pod that exists is found again, and is never made twice."""
    identity = f"{run.spec.feature_set} {run.batch} {run.run_id} {shard}"
    readable_part = f"{run.spec.dataset[:DATASET_LETTERS]}-{run.spec.backbone}-{shard}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
    return f"{re.sub('[^a-z0-9]+', '-', readable_part.lower())}-{digest}-{number}"


def more_memory(spec: k8s.V1PodSpec, factor: float) -> None:
    """Multiply the extractor's memory; where the pod as a whole has an amount, it gets as much more."""
    if factor == 1:
        return
    base = next(each for each in spec.containers if each.name == CONTAINER)
    more = {"limits": 0, "requests": 0}
    for kind in more:
        amounts = getattr(base.resources, kind, None)
        if amounts and "memory" in amounts:
            before = float(parse_quantity(amounts["memory"]))
            more[kind] = int(before * factor) - int(before)
            amounts["memory"] = str(int(before * factor))
    for kind, added in more.items():
        whole = getattr(spec.resources, kind, None)
        if whole and "memory" in whole:
            before = float(parse_quantity(whole["memory"]))
            # A container without an amount of its own uses what the pod has.
            whole["memory"] = str(int(before) + added if added else int(before * factor))


def keep_away(spec: k8s.V1PodSpec, avoid: Avoid) -> None:
    """Exclude nodes, and let the scheduler prefer others to some."""
    if not (avoid.required or avoid.preferred):
        return
    affinity = spec.affinity = spec.affinity or k8s.V1Affinity()
    of_nodes = affinity.node_affinity = affinity.node_affinity or k8s.V1NodeAffinity()
    if avoid.required:
        required = of_nodes.required_during_scheduling_ignored_during_execution
        terms = required.node_selector_terms if required else [k8s.V1NodeSelectorTerm()]
        for term in terms:  # terms are alternatives, so each must exclude the nodes
            term.match_fields = [*(term.match_fields or []), *_none_of(avoid.required)]
        of_nodes.required_during_scheduling_ignored_during_execution = k8s.V1NodeSelector(node_selector_terms=terms)
    if avoid.preferred:
        others = k8s.V1NodeSelectorTerm(match_fields=_none_of(avoid.preferred))
        of_nodes.preferred_during_scheduling_ignored_during_execution = [
            *(of_nodes.preferred_during_scheduling_ignored_during_execution or []),
            k8s.V1PreferredSchedulingTerm(weight=HEAVIEST, preference=others),
        ]


def _none_of(nodes: Sequence[str]) -> list[k8s.V1NodeSelectorRequirement]:
    """By the nodes' names: their hostname labels may differ. Kubernetes takes one name for each requirement."""
    return [k8s.V1NodeSelectorRequirement(key="metadata.name", operator="NotIn", values=[node]) for node in nodes]


def remove_pod(name: str, backbone: str, attempt: int) -> None:
    """Delete the pod of an attempt that nobody waits for any more; none, or one of another attempt, is left alone.

    Raises retry_policy.OutOfSight.
    """
    hook, namespace = _cluster(backbone)
    with in_sight(backbone, hook):
        try:
            pod = hook.get_pod(name, namespace)
            if (pod.metadata.annotations or {}).get(ATTEMPT, str(attempt)) == str(attempt):
                hook.core_v1_client.delete_namespaced_pod(name, namespace, _request_timeout=API_SECONDS)
        except ApiException as error:
            if error.status != 404:
                raise


def pods_there(backbones: Iterable[str]) -> list[Pod]:
    """The pods of attempts, other than those that are being deleted, in the namespaces of these backbones' pods.

    Raises retry_policy.OutOfSight.
    """
    found: dict[str, Pod] = {}
    for backbone in backbones:
        hook, namespace = _cluster(backbone)
        with in_sight(backbone, hook):
            listed = hook.core_v1_client.list_namespaced_pod(
                namespace, label_selector=f"attempt,backbone={backbone}", _request_timeout=API_SECONDS
            )
        for pod in listed.items:
            number = (pod.metadata.annotations or {}).get(ATTEMPT, "")
            if number.isdecimal() and pod.metadata.deletion_timestamp is None:
                found[pod.metadata.name] = Pod(pod.metadata.name, backbone, int(number))
    return list(found.values())


def _cluster(backbone: str) -> tuple[KubernetesHook, str]:
    """The cluster, and the namespace of a backbone's pods."""
    hook = KubernetesHook(conn_id=KubernetesHook.default_conn_name)
    return hook, _namespace(backbone, hook)


def _namespace(backbone: str, hook: Any) -> str:
    template = yaml.safe_load(templates.path(backbone).read_text())
    return str(template.get("metadata", {}).get("namespace") or hook.get_namespace() or "default")


@contextmanager
def in_sight(backbone: str, hook: Any) -> Iterator[None]:
    """Turn trouble on the way to the cluster into an outage, after which the pod is found again.

    Raises OutOfSight, or AttemptFailed when it is a lack of rights.
    """
    try:
        yield
    except (HTTPError, ApiException, KubernetesApiException) as error:
        said = why(error) if isinstance(error, ApiException) else fit(str(error), DETAIL_BYTES)
        if isinstance(error, ApiException) and error.status == 403:
            _name_lacking_rights(hook, _namespace(backbone, hook), said)
        raise OutOfSight(f"the Kubernetes API does not answer as expected: {said}; a running pod continues") from error


def _name_lacking_rights(hook: Any, namespace: str, said: str) -> None:
    """Raises AttemptFailed when the launcher lacks rights; an API that starts may refuse what is granted."""
    try:
        lacking = rights.lacking(hook.api_client, namespace)
    except (ApiException, HTTPError):
        return
    if lacking:
        what = f"this account may not {', '.join(lacking)} in namespace {namespace}"
        told = f"{what}; bind it to the launcher role: {said}"
        failure = classify(Evidence(refused=told))
        step = Step(False, timedelta(0), str(Action.FAIL))
        raise AttemptFailed(text(failure, step), failure.reason, step)
