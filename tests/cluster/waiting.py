"""Pods behind a scheduling gate, as Kueue holds them; and a pod that its node refuses at admission."""

from pathlib import Path
from typing import Any

import yaml
from kubernetes.client import ApiException
from sqlalchemy import create_engine, text

from namespace import Namespace
from needs import API_SECONDS, say

GATE = "featurise.test/held"
REFUSING = "featurise-test-refusing"
"""A node that is not there: nobody but this test speaks for its kubelet."""
REFUSAL = {
    "phase": "Failed",
    "reason": "UnexpectedAdmissionError",
    "message": "Allocate failed due to requested number of devices unavailable for nvidia.com/gpu. Requested: 1",
}
"""A kubelet's words whose device plugin is dead."""


class Template:
    """The pod template of the night, and what is changed in it for a while."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._pod: dict[str, Any] = yaml.safe_load(file.read_text())

    def write(self, **spec: Any) -> None:
        """As the chart made it, with these fields of its spec."""
        part = self._file.with_suffix(".part")
        part.write_text(yaml.safe_dump({**self._pod, "spec": {**self._pod["spec"], **spec}}))
        part.replace(self._file)

    def gate(self) -> None:
        """Let pods be made behind the gate."""
        self.write(schedulingGates=[{"name": GATE}])

    def refuse(self) -> None:
        """Let pods be made on the node that refuses them."""
        self.write(nodeName=REFUSING)


def queued(registry: str, shards: int) -> bool:
    """Whether this many attempts are known to wait behind the gate."""
    with create_engine(registry).connect() as rows:
        told = rows.execute(
            text("SELECT count(*) FROM gpu_attempts WHERE message LIKE :said"), {"said": f"queued: %{GATE}"}
        )
        return int(told.scalar_one()) >= shards


def release(namespace: Namespace) -> list[str]:
    """Take the gate away from the pods that it holds, and say which."""
    held = [pod.metadata.name for pod in namespace.pods() if pod.spec.scheduling_gates]
    for name in held:
        gone = [{"op": "remove", "path": "/spec/schedulingGates"}]
        namespace.core.patch_namespaced_pod(name, namespace.name, gone, _request_timeout=API_SECONDS)
    say(f"released {len(held)} pods from their gate")
    return held


def refuse(namespace: Namespace) -> str | None:
    """Refuse a pod as its node's kubelet would, and say which; None where none has come."""
    for pod in namespace.pods():
        if pod.spec.node_name == REFUSING and pod.status.phase == "Pending":
            try:
                namespace.core.patch_namespaced_pod_status(
                    pod.metadata.name, namespace.name, {"status": REFUSAL}, _request_timeout=API_SECONDS
                )
            except ApiException as error:
                if error.status != 404:  # the cluster removes pods of nodes that are not there
                    raise
            else:
                say(f"refused pod {pod.metadata.name} at admission")
                return str(pod.metadata.name)
    return None
