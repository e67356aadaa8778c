"""What the GPU's driver said, and what follows for the node: NVIDIA's Xid catalogue, as far as a night can meet it.

Source: NVIDIA, GPU Deployment and Management Documentation, "Analyzing Xid Errors with the Xid Catalog", the catalogue
of release R590 for Ampere and newer, whose column "Resolution Bucket (Immediate Action)" decides: RESTART_APP is
`RESTART`, IGNORE `NONE`, RESET_GPU and the workflows for ECC and NVLink `RESET`, RESTART_BM and CHECK_MECHANICALS
`REBOOT`. Where the driver names no Xid, CUDA's own words are read, which name fewer things.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class NodeAction(StrEnum):
    """What a node needs after a fault, in the words that people read."""

    NONE = "nothing: the fault is not the node's"
    RESTART = "restart the process; the node stays in use unless it happens again"
    RESET = "drain the node and reset its GPU (nvidia-smi --gpu-reset), or reboot it"
    REBOOT = "reboot the node; when it happens again, have the GPU checked"
    LOOK = "look at the node: its driver, its device plugin, and the kernel's log (dmesg | grep -i xid)"


@dataclass(frozen=True)
class Fault:
    """What a driver said: a short name, such as `Xid 79`, what it means, and what the node needs."""

    name: str
    meaning: str
    action: NodeAction

    @property
    def counts(self) -> bool:
        """Whether it speaks against the node."""
        return self.action is not NodeAction.NONE

    @property
    def at_once(self) -> bool:
        """Whether nothing can work on that GPU before somebody has done something."""
        return self.action in (NodeAction.RESET, NodeAction.REBOOT)


_RESTART, _RESET, _REBOOT, _NONE = NodeAction.RESTART, NodeAction.RESET, NodeAction.REBOOT, NodeAction.NONE

XIDS: dict[int, tuple[str, NodeAction]] = {
    13: ("graphics engine exception, often a kernel that read out of bounds", _RESTART),
    31: ("GPU memory page fault, often a kernel that read out of bounds", _RESTART),
    43: ("a process was stopped after an error of its own", _NONE),
    45: ("a process was removed from the GPU after another error", _RESTART),
    48: ("uncorrectable ECC error", _RESET),
    54: ("auxiliary power is not connected", _REBOOT),
    62: ("the GPU's microcontroller halted", _RESET),
    63: ("a memory row was remapped", _NONE),
    64: ("remapping a memory row failed", _RESET),
    69: ("graphics engine class error", _RESTART),
    74: ("NVLink error", _RESET),
    79: ("the GPU has fallen off the bus", _REBOOT),
    92: ("a high rate of corrected ECC errors", _NONE),
    94: ("contained ECC error", _RESTART),
    95: ("uncontained ECC error", _RESET),
    109: ("switching between processes timed out", _RESET),
    110: ("security fault", _RESET),
    119: ("the GPU's system processor did not answer", _RESET),
    120: ("the GPU's system processor reported an error", _RESET),
    121: ("corrected error of the link to the CPU", _NONE),
    136: ("training a link failed", _RESET),
    140: ("unrecovered ECC error", _RESET),
    143: ("initialising the GPU failed", _RESET),
    **dict.fromkeys(range(144, 151), ("NVLink error", _RESET)),
    155: ("NVLink software defined error", _RESET),
    156: ("resource retirement event", _RESET),
    158: ("fatal timeout on the GPU", _RESET),
}
_RECOVERY = 154
"""The Xid by which drivers since R570 say in words what the GPU needs."""
_RECOVERIES = (
    ("Reboot", _REBOOT),
    ("Reset", _RESET),
    ("Drain", _RESET),
)
"""The driver's words for what the GPU needs, in Xid 154 and, as the extractor tells it, in NVML's recovery action."""
_TOLD = re.compile(r"recovery action: ([\w ]{1,40})")

_XID = re.compile(r"\bXid\b(?:\s*\([^)\n]{0,80}\))?\s*[:=]?\s*(\d{1,3})\b", re.IGNORECASE)
_WORDS: tuple[tuple[str, str, NodeAction], ...] = (
    (r"fallen off the bus|GPU is lost", "GPU lost", NodeAction.REBOOT),
    (r"uncorrectable (ECC|NVLink)", "uncorrectable error", NodeAction.RESET),
    (r"illegal memory access", "illegal memory access", NodeAction.RESTART),
    (r"illegal instruction|misaligned address|unspecified launch failure", "kernel fault", NodeAction.RESTART),
    (r"devices? unavailable|unhealthy devices|no CUDA-capable device", "no device", NodeAction.LOOK),
    (r"driver version is insufficient|nvidia-container-cli|nvml error", "driver", NodeAction.LOOK),
    (r"no kernel image is available|unsupported (toolchain|ptx)", "unsupported GPU", NodeAction.LOOK),
)
UNNAMED = Fault("GPU fault", "the GPU or its driver failed", NodeAction.LOOK)


def read(lines: Iterable[str]) -> Fault:
    """The first fault that these lines name, an Xid before CUDA's words; `UNNAMED` where they name none.

    What the driver itself asks for, where it does, is what the node needs.
    """
    kept = list(lines)
    asked = next((found[1] for line in kept if (found := _TOLD.search(line))), None)
    for line in kept:
        if found := _XID.search(line):
            number = int(found[1])
            meaning, action = XIDS.get(number, ("not in the table of this version", NodeAction.LOOK))
            if number == _RECOVERY:
                meaning, action = "the driver's recovery action", _recovery(line)
            return Fault(f"Xid {number}", meaning, _recovery(asked) if asked else action)
    if asked is not None:
        return Fault("recovery action", f"the driver asks for: {asked.strip()}", _recovery(asked))
    for pattern, name, action in _WORDS:
        for line in kept:
            if re.search(pattern, line, re.IGNORECASE):
                return Fault(name, name, action)
    return UNNAMED


def _recovery(words: str) -> NodeAction:
    return next((action for word, action in _RECOVERIES if word in words), NodeAction.LOOK)
