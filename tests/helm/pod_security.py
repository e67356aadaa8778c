"""The Pod Security standard `restricted` of Kubernetes 1.36, as its admission plug-in judges a pod."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]
VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image"),
    *("persistentVolumeClaim", "projected", "secret"),
}
SECCOMP = {"RuntimeDefault", "Localhost"}


def violations(spec: Json) -> list[str]:
    """What of a pod's spec the standard forbids; nothing when it is admitted."""
    own: Json = spec.get("securityContext") or {}
    found = [f"{name} is shared with the node" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    for volume in spec.get("volumes") or ():
        found += [f"volume {volume['name']} is a {kind}" for kind in volume if kind not in {"name", *VOLUMES}]
    if own.get("runAsUser") == 0:
        found.append("runAsUser is 0")
    if own.get("sysctls"):
        found.append("sysctls are set")
    every = [*(spec.get("initContainers") or ()), *spec["containers"], *(spec.get("ephemeralContainers") or ())]
    return found + [f"container {each['name']}: {what}" for each in every for what in _of_container(each, own)]


def _of_container(container: Json, pod: Json) -> Iterator[str]:
    own: Json = container.get("securityContext") or {}
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if own.get("privileged"):
        yield "privileged"
    capabilities: Json = own.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or ()):
        yield "capabilities are not all dropped"
    if _others(capabilities.get("add") or (), {"NET_BIND_SERVICE"}):
        yield "capabilities are added"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot is not true"
    if own.get("runAsUser") == 0:
        yield "runAsUser is 0"
    if (own.get("seccompProfile") or pod.get("seccompProfile") or {}).get("type") not in SECCOMP:
        yield "seccompProfile is neither RuntimeDefault nor Localhost"
    if any(port.get("hostPort") for port in container.get("ports") or ()):
        yield "a port of the node"


def _others(found: Sequence[str], allowed: set[str]) -> set[str]:
    return set(found) - allowed
