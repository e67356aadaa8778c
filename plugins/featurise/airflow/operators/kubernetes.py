"""Launches one attempt at a shard as a pod with a GPU, and reads from the cluster how it ended.

The pod's shape (image, GPU limit, node selection, volumes, secrets, queue) is a template that the chart owns; this adds
what differs from attempt to attempt. An attempt is a row in the registry before its pod exists, and its pod's name
follows from the row: the next task or trigger, after a worker or a triggerer died, finds both again.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import yaml
from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import KubernetesApiException
from airflow.providers.cncf.kubernetes.operators.pod import POD_IDENTIFIER_STATE_KEY, KubernetesPodOperator
from airflow.providers.cncf.kubernetes.pod_generator import make_safe_label_value
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.providers.cncf.kubernetes.utils.pod_manager import detect_pod_terminate_early_issues
from kubernetes.client import ApiException
from kubernetes.client import models as k8s
from kubernetes.utils.quantity import parse_quantity
from urllib3.exceptions import HTTPError

from extractor.core.exit_codes import Exit
from extractor.core.redact import fit
from featurise.airflow import run_context
from featurise.airflow.abandoned import ATTEMPT
from featurise.airflow.retry_policy import OutOfSight, extract_options, first_try, outages_waited_out
from featurise.airflow.triggers.pod import PodTrigger, is_lost, lease_of
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.failures.classify import DETAIL_BYTES, Evidence
from featurise.failures.log_lines import readable
from featurise.failures.pod_evidence import CONTAINER, gather
from featurise.failures.taxonomy import Failed
from featurise.registry import attempts
from featurise.registry.nodes import Avoid
from featurise.registry.remains import Pod
from featurise.settings import settings
from featurise.steps.extract import AttemptFailed, Launch, begin, conclude, prepare, specification
from featurise.steps.plan import Shard

TERMINATION_MESSAGE = "/dev/termination-log"
POLL_SECONDS = 2
START_POLL_SECONDS = 5
PROGRESS_SECONDS = 15
API_SECONDS = 20
SLACK = timedelta(minutes=10)
"""Between the cluster's own deadline for a pod and the task's, which is for pods that nobody ends."""
HEAVIEST = 100
"""Of the weights that Kubernetes takes for a preference."""
DATASET_LETTERS = 20
"""Of a dataset's name in its pods' names, which have 63 at the most."""


class PodOperator(KubernetesPodOperator):
    """One shard, in a pod. `shard` is (templated)."""

    template_fields: Sequence[str] = (*KubernetesPodOperator.template_fields, "shard")

    def __init__(self, *, spec: FeatureSetSpec, shard: Any, **kwargs: Any) -> None:
        ours = settings()
        waiting = timedelta(seconds=ours.pod_schedule_seconds + ours.pod_start_seconds)
        running = timedelta(minutes=spec.limits.extract_timeout_minutes)
        super().__init__(
            deferrable=True,
            durable=True,
            do_xcom_push=False,
            random_name_suffix=False,
            pod_template_file=str(ours.pod_templates / f"{spec.backbone}.yaml"),
            base_container_name=CONTAINER,
            schedule_timeout_seconds=ours.pod_schedule_seconds,
            startup_timeout_seconds=ours.pod_start_seconds,
            startup_check_interval_seconds=START_POLL_SECONDS,
            poll_interval=POLL_SECONDS,
            logging_interval=PROGRESS_SECONDS,
            active_deadline_seconds=int(running.total_seconds()),
            log_events_on_startup=True,
            log_pod_spec_on_failure=False,
            termination_message_policy="FallbackToLogsOnError",
            # Pods are deleted once their end is written down, and not before.
            on_finish_action="keep_pod",
            **{
                **kwargs,
                **extract_options(spec.limits.retries),
                "execution_timeout": waiting + running + SLACK,
            },
        )
        self.spec = spec
        self.shard = shard
        self._known: Launch | None = None

    @property
    def verdicts(self) -> Sequence[Failed] | None:
        """How the round's earlier attempts failed; None before the registry said so."""
        return None if self._known is None else self._known.earlier

    @property
    def _launch(self) -> Launch:
        if self._known is None:
            raise RuntimeError(f"{self.task_id}: nothing is known of the shard yet")
        return self._known

    def execute(self, context: Any) -> None:
        """Start the next attempt, or take up the one that is under way, and wait for it without a worker."""
        with outages_waited_out(context), _in_sight():
            self._prepare(context)
            launch = self._launch
            if launch.registered is not None:
                self.log.info("Shard already registered; skipping.")
                return
            if launch.done or launch.final:
                self._remove_strays(self.build_pod_request_obj(context).metadata.namespace, context)
            if launch.final is not None:
                raise launch.final
            if launch.done:
                self.log.info("Pod %s completed the shard; skipping.", launch.done.place)
                return
            super().execute(context)

    def trigger_reentry(self, context: Any, event: dict[str, Any]) -> None:
        """The pod has ended, has passed a limit, is gone, or the trigger met something that it does not know."""
        with outages_waited_out(context), _in_sight():
            self._prepare(context)
            self.pod = self._read(event["name"], event["namespace"])
            if event["status"] == "error" and self.pod is not None and not _ended(self.pod):
                raise OutOfSight(f"pod {event['name']} is running, but cannot be watched: {event['message']}")
            self._conclude(event)

    def get_or_create_pod(self, pod_request_obj: k8s.V1Pod, context: Any) -> k8s.V1Pod:
        """The attempt's pod: the one that is there already, else a new one.

        Raises AttemptFailed when the pod was there and is gone, or when the cluster does not accept it; and
        leases.LeaseLost when another run has taken the batch: no GPU is asked for in vain.
        """
        name, namespace = pod_request_obj.metadata.name, pod_request_obj.metadata.namespace
        self._remove_strays(namespace, context, keep=name)
        if self._launch.row is None:
            ti = context["ti"]
            told = {"try_number": ti.try_number, "map_index": ti.map_index}
            self._known = begin(self._launch, launcher="kubernetes", place=name, **told)
        elif (found := self._read(name, namespace)) is not None:
            return found
        elif (context["task_state_store"].get(POD_IDENTIFIER_STATE_KEY) or {}).get("name") == name:
            conclude(self._launch, gather(None, self._events(name, namespace), name=name))
        _keep_away(pod_request_obj.spec, self._launch.avoid)
        found_by = self._annotations(context["ti"])
        pod_request_obj.metadata.annotations = {**(pod_request_obj.metadata.annotations or {}), **found_by}
        try:
            return super().get_or_create_pod(pod_request_obj, context)
        except ApiException as error:
            if error.status == 409:  # an earlier answer of the API was lost; the pod is ours, its name says so
                return self.hook.get_pod(name, namespace)
            if error.status in {400, 403, 422}:
                conclude(self._launch, Evidence(pod=name, refused=_why(error)))
            raise

    def build_pod_request_obj(self, context: Any = None, *, dry_run: bool = False) -> k8s.V1Pod:
        """The template with this attempt's job and memory."""
        pod = super().build_pod_request_obj(context, dry_run=dry_run)
        pod.metadata.labels["attempt"] = str(self._launch.attempt.number)
        base = next(each for each in pod.spec.containers if each.name == CONTAINER)
        base.termination_message_path = TERMINATION_MESSAGE
        _more_memory(base, self._launch.attempt.memory_factor)
        return pod

    def _annotations(self, ti: Any) -> dict[str, str]:
        """What leads from a pod to its task, run and attempt: labels bear no long or odd text."""
        run = self._launch.run
        return {
            "featurise-feature-set": run.spec.feature_set,
            "featurise-batch": run.batch,
            "featurise-run": run.run_id,
            "featurise-shard": self._launch.shard.name,
            "featurise-task": f"{ti.dag_id}/{ti.task_id}/{ti.map_index}",
            ATTEMPT: str(self._launch.row),
        }

    def defer(self, *, trigger: Any, **kwargs: Any) -> NoReturn:
        """Wait with the trigger of this operator instead of the plain one."""
        if isinstance(trigger, KubernetesPodTrigger) and self._launch.row is not None:
            trigger = PodTrigger(lease=lease_of(self._launch.run), attempt=self._launch.row, **trigger.serialize()[1])
        super().defer(trigger=trigger, **kwargs)

    def on_kill(self) -> None:
        """The worker was told to stop while it held the task: the pod ends with it, and the attempt is written off."""
        super().on_kill()
        if self.pod is not None and self._known is not None and self._known.row is not None:
            attempts.stopped(self._known.row)

    def _prepare(self, context: Any) -> None:
        """Read from the registry how far the shard is; what the parent class needs for the pod follows from it."""
        run = run_context.current_run(self.spec, context)
        shard = Shard.model_validate(self.shard)
        launch = self._known = prepare(run, shard, first_try(context["ti"].max_tries, self.retries or 0))
        job = specification(run, shard, launch.attempt, summary_path=TERMINATION_MESSAGE)
        self.arguments = job.argv
        self.labels = {name: make_safe_label_value(value) for name, value in job.labels.items()}
        self.name = pod_name(run, shard.name, launch.attempt.number)

    def _conclude(self, event: dict[str, Any]) -> None:
        """Write down how the attempt ended, remove its pod, and fail the task if it failed."""
        name, namespace = event["name"], event["namespace"]
        if self.pod is None and event["status"] == "success":
            # Seen to succeed, then collected by the cluster before it could be read.
            conclude(self._launch, Evidence(exit_code=Exit.OK))
            return
        log = self._log(name, namespace, event.get("last_log_time")) if _has_run(self.pod) else []
        payload = self.client.api_client.sanitize_for_serialization(self.pod) or event.get("last_seen")
        evidence = gather(
            payload,
            self._events(name, namespace),
            name=name,
            log=log,
            deadline=event["message"] if event["status"] == "timeout" else "",
            gone=self.pod is None,
        )
        try:
            conclude(self._launch, evidence)
        except AttemptFailed:
            self._dispose()
            raise
        self._dispose()

    def _dispose(self) -> None:
        """Delete the pod; one on a lost node stays for a while, so it is marked as read, too."""
        if self.pod is not None:
            self.patch_already_checked(self.pod, reraise=False)
            self.pod_manager.delete_pod(self.pod)

    def _read(self, name: str, namespace: str) -> k8s.V1Pod | None:
        try:
            return self.hook.get_pod(name, namespace)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def _events(self, name: str, namespace: str) -> list[dict[str, Any]]:
        """What the cluster recorded about a pod, oldest first; without leave to read it, nothing."""
        try:
            found = self.client.list_namespaced_event(
                namespace, field_selector=f"involvedObject.name={name}", _request_timeout=API_SECONDS
            )
        except ApiException as error:
            self.log.warning("The events of pod %s cannot be read: %s", name, _why(error))
            return []
        items = self.client.api_client.sanitize_for_serialization(found.items)
        return sorted(items, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")

    def _log(self, name: str, namespace: str, since: datetime | None) -> list[str]:
        """The container's lines; those that the trigger has not logged are logged."""
        try:
            answer = self.client.read_namespaced_pod_log(
                name,
                namespace,
                container=CONTAINER,
                timestamps=True,
                _preload_content=False,
                _request_timeout=API_SECONDS,
            )
            text = answer.data.decode(errors="replace")
        except (ApiException, HTTPError) as error:
            self.log.warning("The log of pod %s cannot be read: %s", name, fit(str(error), DETAIL_BYTES))
            return []
        lines = [line.partition(" ") for line in text.removesuffix("\n").split("\n")]
        told = f"{since.astimezone(UTC):%Y-%m-%dT%H:%M:%S}" if since else ""
        for stamp, _, said in lines:
            if stamp[:19] >= told:
                self.log.info("[%s] %s", CONTAINER, readable(said))
        return [said for _, _, said in lines]

    def _remove_strays(self, namespace: str, context: Any, *, keep: str = "") -> None:
        """Delete this task's pods of other attempts: whatever left them, two must not work on one shard."""
        selector = self._build_find_pod_label_selector(context, exclude_checked=False)
        for pod in self.client.list_namespaced_pod(namespace, label_selector=selector).items:
            if pod.metadata.name != keep and pod.metadata.deletion_timestamp is None:
                self.log.warning("Deleting pod %s, a leftover of this task.", pod.metadata.name)
                self.patch_already_checked(pod, reraise=False)
                self.pod_manager.delete_pod(pod)


def remove_pod(name: str, backbone: str, attempt: int) -> None:
    """Delete the pod of an attempt that nobody waits for any more; none, or one of another attempt, is left alone.

    Raises retry_policy.OutOfSight.
    """
    hook, namespace = _cluster(backbone)
    with _in_sight():
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
        with _in_sight():
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
    template = yaml.safe_load((settings().pod_templates / f"{backbone}.yaml").read_text())
    return hook, template.get("metadata", {}).get("namespace") or hook.get_namespace() or "default"


@contextmanager
def _in_sight() -> Iterator[None]:
    """Turn trouble on the way to the cluster into an outage, after which the pod is found again."""
    try:
        yield
    except (HTTPError, ApiException, KubernetesApiException) as error:
        why = _why(error) if isinstance(error, ApiException) else fit(str(error), DETAIL_BYTES)
        raise OutOfSight(f"the Kubernetes API does not answer as expected: {why}; a running pod continues") from error


def _ended(pod: k8s.V1Pod) -> bool:
    """Whether a pod has come to its end, or to a start that it will not get beyond."""
    return (
        pod.status.phase in {"Succeeded", "Failed"}
        or is_lost(pod.metadata.deletion_timestamp, pod.metadata.deletion_grace_period_seconds)
        or detect_pod_terminate_early_issues(pod) is not None
    )


def _has_run(pod: k8s.V1Pod | None) -> bool:
    statuses = (pod.status.container_statuses if pod is not None else None) or []
    return any(each.name == CONTAINER and (each.state.running or each.state.terminated) for each in statuses)


def _why(error: ApiException) -> str:
    return fit(f"{error.status} {error.reason}: {error.body or ''}".strip(), DETAIL_BYTES)


def pod_name(run: Run, shard: str, number: int) -> str:
    """A name that only this attempt can have: a pod that exists is found again, and is never made twice."""
    identity = f"{run.spec.feature_set} {run.batch} {run.run_id} {shard}"
    readable_part = f"{run.spec.dataset[:DATASET_LETTERS]}-{run.spec.backbone}-{shard}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
    return f"{re.sub('[^a-z0-9]+', '-', readable_part.lower())}-{digest}-{number}"


def _more_memory(container: k8s.V1Container, factor: float) -> None:
    if factor == 1 or container.resources is None:
        return
    for amounts in (container.resources.limits, container.resources.requests):
        if amounts and "memory" in amounts:
            amounts["memory"] = str(int(float(parse_quantity(amounts["memory"])) * factor))


def _keep_away(spec: k8s.V1PodSpec, avoid: Avoid) -> None:
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
