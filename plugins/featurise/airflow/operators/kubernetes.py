"""Launches one attempt at a shard as a pod with a GPU, and reads from the cluster how it ended.

The pod's shape (image, GPU limit, node selection, volumes, secrets, queue) is a template that the chart owns; this adds
what differs from attempt to attempt. An attempt is a row in the registry before its pod exists, and its pod's name
follows from the row: the next task or trigger, after a worker or a triggerer died, finds both again.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from airflow.providers.cncf.kubernetes.operators.pod import POD_IDENTIFIER_STATE_KEY, KubernetesPodOperator
from airflow.providers.cncf.kubernetes.pod_generator import make_safe_label_value
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.sdk.exceptions import AirflowRescheduleException
from kubernetes.client import ApiException
from kubernetes.client import models as k8s
from urllib3.exceptions import HTTPError

from extractor.core.exit_codes import Exit
from extractor.core.redact import fit
from featurise.airflow import metrics, run_context
from featurise.airflow.abandoned import ATTEMPT
from featurise.airflow.pods import ended, has_run, in_sight, keep_away, more_memory, pod_name, why
from featurise.airflow.retry_policy import OutOfSight, extract_options, first_try, outages_waited_out
from featurise.airflow.triggers.pod import QUEUE, START, PodTrigger, lease_of
from featurise.cluster import templates
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.failures.classify import DETAIL_BYTES, Evidence
from featurise.failures.log_lines import readable
from featurise.failures.pod_evidence import CONTAINER, gather
from featurise.failures.scheduling import QUEUED, Place, Quota, quota, standing
from featurise.failures.taxonomy import Failed
from featurise.registry import attempts, leases
from featurise.settings import settings
from featurise.steps.extract import AttemptFailed, Launch, begin, conclude, prepare, specification
from featurise.steps.plan import Shard

TERMINATION_MESSAGE = "/dev/termination-log"
QUEUED_SINCE = "queued"
"""The key in a task's state below which it is kept since when which attempt waits for a quota."""
POLL_SECONDS = 2
START_POLL_SECONDS = 5
PROGRESS_SECONDS = 15
API_SECONDS = 20
SLACK = timedelta(minutes=10)
"""Between the cluster's own deadline for a pod and the task's, which is for pods that nobody ends."""
LOOKS = 5
"""At a pod that changes again and again while it is to be taken back."""


class PodOperator(KubernetesPodOperator):
    """One shard, in a pod. `shard` is (templated)."""

    template_fields: Sequence[str] = (*KubernetesPodOperator.template_fields, "shard")

    def __init__(self, *, spec: FeatureSetSpec, shard: Any, **kwargs: Any) -> None:
        ours = settings()
        waiting = timedelta(seconds=ours.pod_queue_seconds + ours.pod_schedule_seconds + ours.pod_start_seconds)
        running = timedelta(minutes=spec.limits.extract_timeout_minutes)
        super().__init__(
            deferrable=True,
            durable=True,
            do_xcom_push=False,
            random_name_suffix=False,
            pod_template_file=str(templates.path(spec.backbone)),
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
        self._taken_back = False

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
        with outages_waited_out(context), in_sight(self.spec.backbone, self.hook):
            self._prepare(context)
            launch = self._launch
            self.log.info(launch.told)
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
        with outages_waited_out(context), in_sight(self.spec.backbone, self.hook):
            self._prepare(context)
            self.pod = self._read(event["name"], event["namespace"])
            if event["status"] == "error" and self.pod is not None and not ended(self.pod):
                raise OutOfSight(f"pod {event['name']} is running, but cannot be watched: {event['message']}")
            if not self._still_as(event):
                self.log.info("Pod %s has come further than when it was given up; waiting on.", event["name"])
                self.invoke_defer_method(last_log_time=event.get("last_log_time"), context=context)
            self._conclude(event)

    def _still_as(self, event: dict[str, Any]) -> bool:
        """Whether the pod, as it was just read, still is as it was when it was given up; then it is taken back.

        A pod that starts at that moment changes, and the API refuses to delete what is not as it was read.
        Raises OutOfSight.
        """
        for _ in range(LOOKS):
            if self.pod is None or ended(self.pod) or not (limit := event.get("limit")):
                return self.pod is None or ended(self.pod) or event["status"] != "failed"
            payload = self.client.api_client.sanitize_for_serialization(self.pod)
            if has_run(self.pod) or (limit != START and standing(payload).place is Place.ASSIGNED):
                return False
            meta = self.pod.metadata
            only = k8s.V1Preconditions(uid=meta.uid, resource_version=meta.resource_version)
            try:
                self.client.delete_namespaced_pod(
                    meta.name,
                    meta.namespace,
                    body=k8s.V1DeleteOptions(preconditions=only),
                    _request_timeout=API_SECONDS,
                )
            except ApiException as error:
                if error.status == 409:
                    self.pod = self._read(meta.name, meta.namespace)
                    continue
                if error.status != 404:
                    raise
            self._taken_back = True
            return True
        raise OutOfSight(f"pod {event['name']} changes again and again; it is looked at later")

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
        try:
            templates.check(templates.path(self.spec.backbone))
        except templates.TemplateBroken as error:
            conclude(self._launch, Evidence(pod=name, refused=str(error)))
        keep_away(pod_request_obj.spec, self._launch.avoid)
        found_by = self._annotations(context["ti"])
        pod_request_obj.metadata.annotations = {**(pod_request_obj.metadata.annotations or {}), **found_by}
        try:
            return super().get_or_create_pod(pod_request_obj, context)
        except ApiException as error:
            if error.status == 409:  # an earlier answer of the API was lost; the pod is ours, its name says so
                return self.hook.get_pod(name, namespace)
            if error.status in {400, 403, 422}:
                conclude(self._launch, Evidence(pod=name, refused=why(error), queued=self._queue(why(error), context)))
            raise

    def _queue(self, refused: str, context: Any) -> bool:
        """Wait for a quota that others use up; returns False when it is no such, True when it was for too long.

        Raises AirflowRescheduleException, or leases.LeaseLost.
        """
        if quota(refused) is not Quota.FULL:
            return False
        now, state = datetime.now(UTC), context["task_state_store"]
        row, since = state.get(QUEUED_SINCE) or [self._launch.row, now.isoformat()]
        if row != self._launch.row:
            since = now.isoformat()
        state.set(QUEUED_SINCE, [self._launch.row, since])
        if now - datetime.fromisoformat(since) > timedelta(seconds=settings().pod_queue_seconds):
            return True
        leases.renew_if_possible(self._launch.run)
        if self._launch.row is not None:
            attempts.seen(self._launch.row, message=QUEUED + refused)
            metrics.queued(self.spec)
        self.log.info("Queued: %s", refused)
        later = now + timedelta(seconds=settings().outage_poll_seconds)
        raise AirflowRescheduleException(later)  # type: ignore[no-untyped-call]

    def build_pod_request_obj(self, context: Any = None, *, dry_run: bool = False) -> k8s.V1Pod:
        """The template with this attempt's job and memory."""
        pod = super().build_pod_request_obj(context, dry_run=dry_run)
        pod.metadata.labels["attempt"] = str(self._launch.attempt.number)
        base = next(each for each in pod.spec.containers if each.name == CONTAINER)
        base.termination_message_path = TERMINATION_MESSAGE
        more_memory(pod.spec, self._launch.attempt.memory_factor)
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
        log = self._log(name, namespace, event.get("last_log_time")) if has_run(self.pod) else event.get("last_lines")
        payload = self.client.api_client.sanitize_for_serialization(self.pod) or event.get("last_seen")
        evidence = gather(
            payload,
            self._events(name, namespace),
            name=name,
            log=log or (),
            deadline=event["message"] if event["status"] == "timeout" else "",
            queued=event.get("limit") == QUEUE,
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
        if self.pod is not None and not self._taken_back:
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
            self.log.warning("The events of pod %s cannot be read: %s", name, why(error))
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
