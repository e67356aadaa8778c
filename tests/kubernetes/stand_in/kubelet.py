"""Scheduler and kubelet in one: each pod's base container becomes a process, and its end becomes the pod's status."""

import asyncio
import os
import signal
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from stand_in.faults import Fault, Faults
from stand_in.store import Json, Store, now

MESSAGE_BYTES = 4096
TAIL_BYTES = 2048
NO_NODE = (
    "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector. preemption: 0/3 nodes are "
    "available: 3 Preemption is not helpful for scheduling."
)
FULL = (
    "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 3 No preemption "
    "victims found for incoming pod."
)
NOT_SCALED = "pod didn't trigger scale-up: 1 node(s) didn't match Pod's node affinity/selector"
SCALED = "pod triggered scale-up: [{gpu-pool 0->1 (max: 8)}]"
GATED = "Scheduling is blocked due to non-empty scheduling gates"
GATE = {"name": "kueue.x-k8s.io/admission"}


class Kubelet:
    """Runs the pods of a store. Images are names of local commands."""

    def __init__(
        self,
        store: Store,
        faults: Faults,
        images: Mapping[str, Sequence[str]],
        secrets: Mapping[str, str],
        folder: Path,
    ) -> None:
        self.store = store
        self.faults = faults
        self.images = images
        self.secrets = secrets
        self.folder = folder
        self.started = 0
        """Containers started so far."""
        self.nodes: Sequence[str] = ()
        """The cluster's nodes, each free at any time, the scheduler's first choice first; else one for each pod."""
        self.refusing: frozenset[str] = frozenset()
        """Nodes whose device plugin is dead: they refuse what the scheduler gives them, at once."""
        self.instead: Mapping[str, Sequence[str]] = {}
        """By node, what containers run there instead of their image."""
        self.room = False
        """Whether what waits in a queue waits no more."""
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._nodes = 0

    def admit(self, pod: Json) -> None:
        """Take over a pod that was just created."""
        self._spawn(self._live(pod))

    def delete(self, pod: Json, grace: float | None) -> None:
        """Delete a pod as the API does: politely at first, for good when its container has ended."""
        if pod["metadata"].get("deletionTimestamp") is None:
            self._spawn(self._delete(pod, grace))

    def log_file(self, pod: Json) -> Path:
        """Where a pod's output goes, each line after its time."""
        return self.folder / str(pod["metadata"]["uid"]) / "log"

    def running(self, pod: Json) -> bool:
        """Whether the pod's process is alive."""
        process = self._processes.get(pod["metadata"]["uid"])
        return process is not None and process.returncode is None

    async def close(self) -> None:
        """End every process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for process in self._processes.values():
            _signal(process, signal.SIGKILL)
            await process.wait()

    def event(self, pod: Json, reason: str, message: str, kind: str = "Warning") -> None:
        """Record an event about a pod."""
        meta = pod["metadata"]
        about = {"kind": "Pod", "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]}
        self.store.put(
            "events",
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": f"{meta['name']}.{uuid.uuid4().hex[:12]}", "namespace": meta["namespace"]}
                | {"uid": str(uuid.uuid4()), "creationTimestamp": now()},
                "involvedObject": about,
                "reason": reason,
                "message": message,
                "type": kind,
                "count": 1,
                "firstTimestamp": now(),
                "lastTimestamp": now(),
                "source": {"component": "stand-in"},
            },
        )

    def _spawn(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _live(self, pod: Json) -> None:
        if pod["spec"].get("nodeName"):  # it was given a node by its maker, and is that kubelet's
            return
        await self._gates(pod)
        fault, after = self.faults.take(pod["metadata"].get("labels") or {}) or (None, 0.0)
        if not await self._placed(pod, fault, after):
            return
        node = pod["spec"]["nodeName"] = self._schedule(pod["spec"])
        self._condition(pod, "PodScheduled", "True")
        base = pod["spec"]["containers"][0]
        if fault is Fault.DEVICE_LOST or node in self.refusing:
            why = "Allocate failed due to requested number of devices unavailable for nvidia.com/gpu. Requested: 1"
            self._status(pod, phase="Failed", reason="UnexpectedAdmissionError", message=why)
            return
        if fault is Fault.TOPOLOGY:
            why = "Pod Resources cannot be allocated with Topology locality"
            self._status(pod, phase="Failed", reason="TopologyAffinityError", message=why)
            return
        if fault is Fault.IMAGE_PULL or base["image"] not in self.images:
            await self._no_image(pod, base["image"])
            return
        if fault is Fault.REGISTRY_AWAY:
            await self._no_registry(pod, base["image"], after)
        if fault is Fault.NO_CDI:
            why = "failed to inject devices: CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=0"
            self._waits(pod, "CreateContainerError", why)
            return
        missing = [name for name in _secret_names(base) if name not in self.secrets]
        if fault is Fault.CONFIG_ERROR or missing:
            self._waits(pod, "CreateContainerConfigError", f'secret "{", ".join(missing) or "featurise"}" not found')
            return
        if pod["metadata"].get("deletionTimestamp") is None:
            await self._run(pod, base, fault, after)

    async def _gates(self, pod: Json) -> None:
        """Wait until the pod's scheduling gates are removed."""
        if pod["spec"].get("schedulingGates"):
            self._condition(pod, "PodScheduled", "False", "SchedulingGated", GATED)
        while pod["spec"].get("schedulingGates"):
            await asyncio.sleep(0.1)

    async def _placed(self, pod: Json, fault: Fault | None, after: float) -> bool:
        """Wait as the pod has to; whether a node is to be found for it then."""
        if fault is Fault.GATED:
            pod["spec"]["schedulingGates"] = [GATE]
            self._condition(pod, "PodScheduled", "False", "SchedulingGated", GATED)
            await self._held(after)
            del pod["spec"]["schedulingGates"]
        if fault in {Fault.UNSCHEDULABLE, Fault.SLOW_START, Fault.SCALED_UP}:
            why = FULL if fault is Fault.SLOW_START else NO_NODE
            self._condition(pod, "PodScheduled", "False", "Unschedulable", why)
            self.event(pod, "FailedScheduling", why)
            if fault is Fault.UNSCHEDULABLE:
                self.event(pod, "NotTriggerScaleUp", NOT_SCALED, "Normal")
            if fault is Fault.SCALED_UP:
                self.event(pod, "TriggeredScaleUp", SCALED, "Normal")
            if fault is not Fault.UNSCHEDULABLE:
                await self._held(after)
        gone = self.store.get("pods", pod["metadata"]["namespace"], pod["metadata"]["name"]) is not pod
        return fault is not Fault.UNSCHEDULABLE and not gone

    async def _held(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.room:
            await asyncio.sleep(0.1)

    async def _no_registry(self, pod: Json, image: str, seconds: float) -> None:
        why = f'failed to pull image "{image}": dial tcp: lookup registry.example on 10.0.0.1:53: no such host'
        self._waits(pod, "ErrImagePull", why)
        self.event(pod, "Failed", f'Failed to pull image "{image}": {why}')
        await asyncio.sleep(1)
        self._waits(pod, "ImagePullBackOff", f'Back-off pulling image "{image}"')
        await asyncio.sleep(seconds)

    def _schedule(self, spec: Json) -> str:
        """The node for a pod: one that its affinity allows, rather one that it does not want to avoid."""
        if not self.nodes:
            self._nodes += 1
            return f"gpu-node-{self._nodes}"
        affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
        required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
        preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or []
        excluded = _named(required.get("nodeSelectorTerms") or [])
        unwanted = _named([each["preference"] for each in preferred])
        allowed = [node for node in self.nodes if node not in excluded]
        return next((node for node in allowed if node not in unwanted), allowed[0])

    async def _no_image(self, pod: Json, image: str) -> None:
        why = f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": {image}: not found'
        self._waits(pod, "ErrImagePull", why)
        self.event(pod, "Failed", f'Failed to pull image "{image}": {why}')
        await asyncio.sleep(1)
        self._waits(pod, "ImagePullBackOff", f'Back-off pulling image "{image}"')

    async def _run(self, pod: Json, base: Json, fault: Fault | None, after: float) -> None:
        uid = pod["metadata"]["uid"]
        folder = self.folder / uid
        folder.mkdir(parents=True)
        last_word = folder / "termination-log"
        last_word.touch()
        inside = base.get("terminationMessagePath") or "/dev/termination-log"
        command = self.instead.get(pod["spec"]["nodeName"]) or base.get("command") or self.images[base["image"]]
        argv = [*command, *(base.get("args") or [])]
        process = await asyncio.create_subprocess_exec(
            *(part.replace(inside, str(last_word)) for part in argv),
            env=self._environment(base, folder)
            | {"TERMINATION_LOG": str(last_word), "HOSTNAME": pod["metadata"]["name"]},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        self._processes[uid] = process
        self.started += 1
        started = now()
        self._status(pod, phase="Running", startTime=started)
        self._container(pod, {"running": {"startedAt": started}})
        copier = asyncio.get_running_loop().create_task(self._copy_log(process, self.log_file(pod)))
        if deadline := pod["spec"].get("activeDeadlineSeconds"):
            self._spawn(self._enforce(pod, process, deadline))
        if fault is not None:
            self._spawn(self._strike(pod, process, fault, after))
        code = await process.wait()
        await copier
        if fault is Fault.COLLECTED:
            self.store.remove("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
        elif not (fault is Fault.NODE_LOST and pod["metadata"].get("deletionTimestamp")):
            self._ended(pod, base, code, started, last_word, oom=pod["metadata"].pop("_oom", False))

    def _ended(self, pod: Json, base: Json, code: int, started: str, last_word: Path, *, oom: bool) -> None:
        exit_code = code if code >= 0 else 128 - code
        message = last_word.read_bytes()[:MESSAGE_BYTES].decode(errors="replace")
        if not message and exit_code and base.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            lines = [line.partition(b" ")[2] for line in self.log_file(pod).read_bytes().splitlines()]
            message = b"\n".join(lines)[-TAIL_BYTES:].decode(errors="replace")
        ended = {
            "exitCode": exit_code,
            "reason": "OOMKilled" if oom else "Completed" if exit_code == 0 else "Error",
            "message": message or None,
            "startedAt": started,
            "finishedAt": now(),
            "containerID": f"containerd://{pod['metadata']['uid']}",
        }
        self._container(pod, {"terminated": ended})
        self._status(pod, phase="Succeeded" if exit_code == 0 else "Failed")

    async def _strike(self, pod: Json, process: asyncio.subprocess.Process, fault: Fault, after: float) -> None:
        await asyncio.sleep(after)
        if process.returncode is not None:
            return
        meta = pod["metadata"]
        match fault:
            case Fault.OOM_KILLED:
                meta["_oom"] = True
                _signal(process, signal.SIGKILL)
            case Fault.KILLED:
                _signal(process, signal.SIGKILL)
            case Fault.PREEMPTED:
                self._disrupt(pod, "PreemptionByScheduler", "preempting to accommodate a higher priority pod")
                self.event(pod, "Preempted", "Preempted by pod 77 on node gpu-node-1", "Normal")
                await self._delete(pod, None)
            case Fault.DRAINED:
                self._disrupt(pod, "EvictionByEvictionAPI", "Eviction API: evicting")
                await self._delete(pod, None)
            case Fault.EVICTED:
                why = "The node was low on resource: ephemeral-storage."
                self._disrupt(pod, "TerminationByKubelet", why)
                self._status(pod, reason="Evicted", message=why)
                self.event(pod, "Evicted", why)
                _signal(process, signal.SIGKILL)
            case Fault.NODE_LOST:
                self._disrupt(pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
                meta |= {"deletionTimestamp": now(1), "deletionGracePeriodSeconds": 1}
                self.store.put("pods", pod)
                _signal(process, signal.SIGKILL)
            case Fault.DEADLINE:
                await self._overdue(pod, process)
            case Fault.VANISHED:
                self.store.remove("pods", meta["namespace"], meta["name"])
                _signal(process, signal.SIGKILL)

    async def _enforce(self, pod: Json, process: asyncio.subprocess.Process, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if process.returncode is None:
            await self._overdue(pod, process)

    async def _overdue(self, pod: Json, process: asyncio.subprocess.Process) -> None:
        why = "Pod was active on the node longer than the specified deadline"
        self._status(pod, reason="DeadlineExceeded", message=why)
        await self._terminate(pod, process, None)

    async def _delete(self, pod: Json, grace: float | None) -> None:
        meta = pod["metadata"]
        process = self._processes.get(meta["uid"])
        if process is not None and process.returncode is None:
            left = int(grace if grace is not None else pod["spec"].get("terminationGracePeriodSeconds") or 30)
            meta |= {"deletionTimestamp": now(left), "deletionGracePeriodSeconds": left}
            self.store.put("pods", pod)
            self.event(pod, "Killing", "Stopping container base", "Normal")
            await self._terminate(pod, process, grace)
            await asyncio.sleep(1.0)
        self.store.remove("pods", meta["namespace"], meta["name"])

    async def _terminate(self, pod: Json, process: asyncio.subprocess.Process, grace: float | None) -> None:
        polite = grace if grace is not None else pod["spec"].get("terminationGracePeriodSeconds") or 30
        _signal(process, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), polite)
        except TimeoutError:
            _signal(process, signal.SIGKILL)
            await process.wait()

    async def _copy_log(self, process: asyncio.subprocess.Process, file: Path) -> None:
        assert process.stdout is not None
        with file.open("ab", buffering=0) as log:
            async for line in process.stdout:
                log.write(
                    f"{datetime.now(UTC).isoformat().replace('+00:00', 'Z')} ".encode() + line.rstrip(b"\n") + b"\n"
                )

    def _environment(self, base: Json, folder: Path) -> dict[str, str]:
        """What the container sees; a variable that names a mounted volume names a folder of this machine here."""
        mounts = {each["mountPath"]: folder / each["name"] for each in base.get("volumeMounts") or ()}
        for mount in mounts.values():
            mount.mkdir()
        found = {"PATH": os.environ["PATH"]}
        for each in base.get("env") or ():
            reference = (each.get("valueFrom") or {}).get("secretKeyRef")
            found[each["name"]] = self.secrets[reference["name"]] if reference else each.get("value") or ""
            if (mount := mounts.get(found[each["name"]])) is not None:
                found[each["name"]] = str(mount)
        for each in base.get("envFrom") or ():
            reference = each.get("secretRef")
            if reference:
                found |= dict(spec.split("=", 1) for spec in self.secrets[reference["name"]].splitlines())
        return found

    def _disrupt(self, pod: Json, reason: str, message: str) -> None:
        self._condition(pod, "DisruptionTarget", "True", reason, message)

    def _condition(self, pod: Json, kind: str, status: str, reason: str = "", message: str = "") -> None:
        others = [each for each in pod["status"].get("conditions", []) if each["type"] != kind]
        made = {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now()}
        self._status(pod, conditions=[*others, made])

    def _waits(self, pod: Json, reason: str, message: str) -> None:
        self._container(pod, {"waiting": {"reason": reason, "message": message}})

    def _container(self, pod: Json, state: Json) -> None:
        base = pod["spec"]["containers"][0]
        running = "running" in state
        made = {"name": base["name"], "image": base["image"], "imageID": base["image"], "restartCount": 0}
        self._status(pod, containerStatuses=[made | {"ready": running, "started": running, "state": state}])

    def _status(self, pod: Json, **changes: object) -> None:
        pod["status"] |= changes
        meta = pod["metadata"]
        if self.store.get("pods", meta["namespace"], meta["name"]) is pod:
            self.store.put("pods", pod)


def _named(terms: Sequence[Json]) -> set[str]:
    return {name for term in terms for field in term.get("matchFields") or () for name in field["values"]}


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _secret_names(base: Json) -> list[str]:
    named = [(each.get("valueFrom") or {}).get("secretKeyRef") for each in base.get("env") or ()]
    sources = [each.get("secretRef") for each in base.get("envFrom") or ()]
    return [each["name"] for each in (*named, *sources) if each]
