"""The waiting half of a pod's task: outlives outages of the API, sees lost nodes, and tells the shard's progress."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import tenacity
from aiohttp import ClientError
from airflow.providers.cncf.kubernetes.exceptions import KubernetesApiError
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import PodLaunchFailedException
from airflow.providers.cncf.kubernetes.triggers.pod import ContainerState, KubernetesPodTrigger
from airflow.providers.cncf.kubernetes.utils.pod_manager import AsyncPodManager, PodLaunchTimeoutException
from airflow.sdk.exceptions import AirflowException, AirflowRuntimeError
from airflow.sdk.timezone import parse as parse_time
from airflow.triggers.base import TriggerEvent
from kubernetes_asyncio.client.api_client import ApiClient
from kubernetes_asyncio.client.exceptions import ApiException
from pydantic import TypeAdapter

from extractor.core.redact import fit, fit_all
from featurise.declaration.run import Run
from featurise.failures.classify import DETAIL_BYTES, pull_is_final
from featurise.failures.log_lines import readable
from featurise.failures.pod_evidence import TAIL_LINES
from featurise.failures.scheduling import QUEUED, Place, Scaling, Standing, adding, standing
from featurise.settings import settings

OUTAGE_SECONDS = 900
"""How long an API that does not answer is waited for; the pod works on meanwhile."""
LOST_SECONDS = 30
"""Beyond its grace: a deleted pod that has not ended by then is on a node that nobody hears of any more."""
RENEW_SECONDS = 300
"""Between two renewals of the leases: often enough for a lease to live through an outage of the registry."""
FRESH_SECONDS = 1.0
"""How long an answer of the API is good for: a trigger that starts would else ask five times at once."""
SETTLE_SECONDS = 10.0
"""How long a trigger lives at least: the scheduler takes a task for dead that is resumed before it has noted the
deferral (apache/airflow#72716), and on a busy machine it takes seconds to do so."""
QUEUE, SCHEDULE, START = "queue", "schedule", "start"
"""The limits that end a wait for a start, as the trigger's event names them."""
_TRANSIENT = {409, 429, 500, 502, 503, 504}


def _passes(error: BaseException) -> bool:
    if isinstance(error, ApiException):
        return error.status in _TRANSIENT
    return isinstance(error, (ClientError, TimeoutError))


class _PatientHook(AsyncKubernetesHook):
    """One trigger's connection, which knows its pod.

    Waits an outage of the API out, asks once a second at the most, and remembers the pod as it was last seen: one that
    is deleted, evicted or on a lost node is gone before anyone reads why.
    """

    _seen: Any = None
    _seen_at = 0.0

    async def get_pod(self, name: str, namespace: str) -> Any:
        if self._seen is None or time.monotonic() - self._seen_at >= FRESH_SECONDS:
            self._seen = await self._ask(name, namespace)
            self._seen_at = time.monotonic()
        return self._seen

    @tenacity.retry(
        retry=tenacity.retry_if_exception(_passes),
        wait=tenacity.wait_exponential(min=1, max=10),
        stop=tenacity.stop_after_delay(OUTAGE_SECONDS),
        reraise=True,
    )
    async def _ask(self, name: str, namespace: str) -> Any:
        return await super().get_pod(name, namespace)

    async def watch_pod_events(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """As the parent; the manager asks without a pause once the pod has ended (provider 10.25.0), and waits here."""
        async for event in super().watch_pod_events(*args, **kwargs):
            yield event
        await asyncio.sleep(FRESH_SECONDS)

    async def last_seen(self) -> dict[str, Any] | None:
        """What a verdict needs of the pod as it was last seen; None when nobody saw it."""
        return None if self._seen is None else await _plain(self._seen)


async def _plain(pod: Any) -> dict[str, Any]:
    """The part of a pod that is judged, as the API sends it."""
    async with ApiClient() as api:
        whole = api.sanitize_for_serialization(pod)
    meta, spec = whole["metadata"], whole.get("spec") or {}
    base = [{"name": each["name"], "image": each.get("image")} for each in spec.get("containers") or ()]
    return {
        "metadata": {"name": meta["name"], "deletionTimestamp": meta.get("deletionTimestamp")},
        "spec": {"containers": base, **{name: spec[name] for name in ("nodeName", "schedulingGates") if name in spec}},
        "status": whole.get("status") or {},
    }


class _PodManager(AsyncPodManager):
    """Waits for a pull that may yet succeed, and tells the container's lines as people read them.

    A log that cannot be read now is read later. `limit` is the one that ended the wait for a start; `tail` has the last
    lines of the container's log as it wrote them.
    """

    def __init__(self, *, async_hook: AsyncKubernetesHook, tell: Callable[[Standing, str | None], None]) -> None:
        super().__init__(async_hook=async_hook)
        self.limit = ""
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._told_until = ""
        self._tell = tell

    async def await_pod_start(
        self, pod: Any, schedule_timeout: int = 120, startup_timeout: int = 120, check_interval: float = 1
    ) -> None:
        """As the parent, but a queue has its own limit, and a pull that fails for a cause that may pass is waited for.

        Raises PodLaunchFailedException, or PodLaunchTimeoutException.
        """
        await self._scheduled(pod, schedule_timeout, check_interval)
        self.limit = START
        await self._started(pod, schedule_timeout, startup_timeout, check_interval)
        self.limit = ""

    async def _scheduled(self, pod: Any, schedule_timeout: int, check_interval: float) -> None:
        """Wait until the pod has a node. The clock of `schedule_timeout` runs only while no node could take it.

        Raises PodLaunchTimeoutException.
        """
        before: Standing | None = None
        nowhere_since = time.monotonic()
        while True:
            now = await self.read_pod(pod)
            found = await self._at_place(now, schedule_timeout)
            if found != before:
                self._tell(found, now.spec.node_name)
            if found.place is Place.ASSIGNED:
                return
            if found.place is Place.QUEUED:
                nowhere_since = time.monotonic()
                self._check_queue(now.metadata.creation_timestamp, found)
            elif time.monotonic() - nowhere_since >= schedule_timeout:
                self.limit = SCHEDULE
                raise PodLaunchTimeoutException(f"no node could take the pod for {schedule_timeout} s: {found.why}")
            before = found
            await asyncio.sleep(check_interval)

    async def _at_place(self, pod: Any, schedule_timeout: int) -> Standing:
        """Where a pod stands; one for which an autoscaler adds a node is in a queue."""
        found = standing(await _plain(pod))
        if found.place is not Place.NOWHERE:
            return found
        said = [
            Scaling(event.reason or "", event.message or "", at)
            for event in await self._events(pod)
            if (at := event.last_timestamp or event.event_time or event.metadata.creation_timestamp)
        ]
        coming = adding(said, datetime.now(UTC) - timedelta(seconds=schedule_timeout))
        return Standing(Place.QUEUED, coming) if coming else found

    def _check_queue(self, since: datetime, found: Standing) -> None:
        longest = settings().pod_queue_seconds
        if datetime.now(UTC) - since > timedelta(seconds=longest):
            self.limit = QUEUE
            raise PodLaunchTimeoutException(f"the pod was queued for more than {longest} s: {found.why}")

    async def _started(self, pod: Any, schedule_timeout: int, startup_timeout: int, check_interval: float) -> None:
        end: float | None = None
        while True:
            try:
                await super().await_pod_start(pod, schedule_timeout, startup_timeout, check_interval)
                return
            except PodLaunchFailedException:
                end = end or time.monotonic() + startup_timeout
                if not await self._pulled_again(pod, end, check_interval):
                    raise

    async def _pulled_again(self, pod: Any, end: float, check_interval: float) -> bool:
        """Wait while the image is not pulled; returns whether the kubelet has come further, or False: it never will.

        Raises PodLaunchTimeoutException.
        """
        waited = False
        while (waits := _pull(await self.read_pod(pod))) is not None:
            waiting, said, image = waits
            if pull_is_final(waiting, [*await self._pulls(pod), said], image):
                return False
            if time.monotonic() >= end:
                raise PodLaunchTimeoutException(f"the image was not pulled in time: {waiting}: {said}")
            if not waited:
                self.log.warning("%s: %s; waiting, since the kubelet pulls again by itself.", waiting, fit(said))
            waited = True
            await asyncio.sleep(check_interval)
        return waited

    async def _pulls(self, pod: Any) -> list[str]:
        """What the cluster recorded about pulls of a pod's images."""
        return [event.message for event in await self._events(pod) if "pull" in (event.message or "")]

    async def _events(self, pod: Any) -> list[Any]:
        """What the cluster recorded about a pod; without leave to read it, nothing."""
        try:
            found = await self._hook.get_pod_events(pod.metadata.name, pod.metadata.namespace)
        except (ApiException, ClientError, TimeoutError, KubernetesApiError):
            return []
        return list(found.items)

    async def fetch_container_logs_before_current_sec(
        self, pod: Any, container_name: str, since_time: Any = None
    ) -> Any:
        try:
            return await super().fetch_container_logs_before_current_sec(pod, container_name, since_time)
        except (ApiException, ClientError, TimeoutError) as error:
            self.log.warning("The log of pod %s cannot be read now (%s); trying again.", pod.metadata.name, error)
            return since_time

    def _emit_container_logs(self, logs: list[str], now: Any, container_name: str) -> None:
        for line in logs:
            stamp, _, said = line.partition(" ")
            if stamp > self._told_until:  # what is read again begins with a second that was read before
                self._told_until = stamp
                self.tail.append(said)
        super()._emit_container_logs([_told(line) for line in logs], now, container_name)


def _pull(pod: Any) -> tuple[str, str, str] | None:
    """Why a container waits that may wait for its image, what Kubernetes says of it, and the image."""
    for status in pod.status.container_statuses or ():
        waiting = status.state.waiting
        if waiting is not None and waiting.reason not in {None, "ContainerCreating", "PodInitializing"}:
            return waiting.reason, waiting.message or "", status.image or ""
    return None


_RUN = TypeAdapter(Run)


def lease_of(run: Run) -> dict[str, Any]:
    """A run as a trigger keeps it, in JSON's types."""
    return dict(_RUN.dump_python(run, mode="json"))


def _told(line: str) -> str:
    stamp, _, said = line.partition(" ")
    return f"{stamp} {readable(said)}"


class PodTrigger(KubernetesPodTrigger):
    """Watches one attempt's pod.

    `lease` names the run whose leases are renewed while the pod works (see `lease_of`);
    `attempt` is the attempt's number in the registry, closed when a person ends the task.
    """

    def __init__(self, *, lease: dict[str, Any], attempt: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lease = lease
        self.attempt = attempt
        self._told = False
        self._ending: asyncio.Task[None] | None = None
        self._notes: list[asyncio.Task[None]] = []
        self._noting = asyncio.Lock()

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What the triggerer makes this trigger from."""
        _, kwargs = super().serialize()
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            **kwargs,
            "log_events_on_startup": self.log_events_on_startup,
            "lease": self.lease,
            "attempt": self.attempt,
        }

    @cached_property
    def hook(self) -> "_PatientHook":
        """The connection, patient."""
        return _PatientHook(
            conn_id=self.kubernetes_conn_id,
            in_cluster=self.in_cluster,
            config_dict=self.config_dict,
            cluster_context=self.cluster_context,
            connection_extras=self.connection_extras,
        )

    @cached_property
    def pod_manager(self) -> "_PodManager":
        """Reads pods and their logs."""
        return _PodManager(async_hook=self.hook, tell=self._standing)

    def _standing(self, found: Standing, node: str | None) -> None:
        """Tell in the task's log and in the registry what the pod waits for, or its node."""
        if found.place is Place.QUEUED:
            self.log.info("Queued: %s; the pod keeps its place.", fit(found.why))
        elif found.place is Place.NOWHERE:
            self.log.info("No node could take the pod so far: %s", fit(found.why))
        message = fit(f"{QUEUED}{found.why}", DETAIL_BYTES) if found.place is Place.QUEUED else ""
        since = parse_time(found.since) if found.since else None
        self._notes.append(asyncio.create_task(self._note(node, since, message)))

    async def _note(self, node: str | None, since: datetime | None, message: str) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        from featurise.airflow import metrics
        from featurise.errors import FeaturiseError
        from featurise.registry import attempts

        async with self._noting:  # in their order
            try:
                await asyncio.to_thread(attempts.seen, self.attempt, node=node, since=since, message=message)
                await asyncio.to_thread(metrics.queued, _RUN.validate_python(self.lease).spec)
            except (FeaturiseError, SQLAlchemyError) as error:
                self.log.warning("The registry was not told how the pod stands: %s", fit(str(error)))

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Watch the pod to its end, keeping the run's leases alive."""
        renewing = asyncio.create_task(self._renew())
        settled = asyncio.create_task(asyncio.sleep(SETTLE_SECONDS))
        try:
            async for event in super().run():
                # Airflow keeps it in its database.
                event.payload = fit_all(
                    {
                        **event.payload,
                        "last_seen": await self.hook.last_seen(),
                        "last_lines": list(self.pod_manager.tail),
                        "limit": self.pod_manager.limit if event.payload["status"] == "timeout" else "",
                    }
                )
                await asyncio.gather(*self._notes)
                await settled
                self._told = True
                yield event
        finally:
            renewing.cancel()
            settled.cancel()

    async def on_kill(self) -> None:
        """A person ended the task: delete the pod, and write down why the attempt ended.

        Airflow says the same when it moves the trigger to another triggerer, and the task waits on. It also says it
        again and again until the trigger has ended, which is not to break off what the first word began.
        """
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        if self._told or not await self._nobody_waits():
            return
        self._fired_event = False  # an end that is held back reaches nobody any more
        await super().on_kill()
        from featurise.registry import attempts

        await asyncio.to_thread(attempts.stopped, self.attempt)

    async def _nobody_waits(self) -> bool:
        try:
            return await self.safe_to_cancel()
        except (AirflowException, AirflowRuntimeError):  # the run is gone, or nobody answers
            return True

    def define_pod_container_state(self, pod: Any) -> ContainerState:
        """The container's state; failed when the pod's node is lost and will never tell."""
        state = super().define_pod_container_state(pod)
        if state in {ContainerState.RUNNING, ContainerState.WAITING, ContainerState.UNDEFINED} and is_lost(
            pod.metadata.deletion_timestamp
        ):
            return ContainerState.FAILED
        return state

    async def _renew(self) -> None:
        from featurise.registry import leases

        run = _RUN.validate_python(self.lease)
        while True:
            await asyncio.sleep(min(RENEW_SECONDS, run.spec.limits.lease_minutes * 60 / 3))
            try:
                missed = await asyncio.to_thread(leases.renew_if_possible, run)
            except leases.LeaseLost as error:
                # The pod continues; nothing of it can be registered, and the steps that follow say so.
                self.log.warning("%s", error)
                return
            if missed:
                self.log.warning("%s", missed)


def is_lost(deleted_at: datetime | str | None) -> bool:
    """Whether a pod should have been gone for so long that its node must be lost.

    `deleted_at` is its deletionTimestamp: when its grace has passed, not when somebody asked.
    """
    if deleted_at is None:
        return False
    due = parse_time(deleted_at) if isinstance(deleted_at, str) else deleted_at
    return datetime.now(UTC) > due + timedelta(seconds=LOST_SECONDS)
