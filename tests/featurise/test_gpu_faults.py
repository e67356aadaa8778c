"""What a driver says is read as NVIDIA's catalogue has it: which GPUs are to be left alone, and which are well."""

import pytest

from featurise.failures.gpu_faults import UNNAMED, NodeAction, read

XID = "[ 511.3] NVRM: Xid (PCI:0000:3b:00): {}, pid=4021, name=extractor, something"


@pytest.mark.parametrize(
    ("numbers", "action"),
    [
        ((13, 31, 94), NodeAction.RESTART),
        ((43, 63, 92), NodeAction.NONE),
        ((48, 74, 95, 119, 120), NodeAction.RESET),
        ((79,), NodeAction.REBOOT),
        ((999,), NodeAction.LOOK),
    ],
)
def test_an_xid_leads_to_its_action(numbers, action):
    for number in numbers:
        found = read([XID.format(number)])
        assert (found.name, found.action) == (f"Xid {number}", action)
        assert found.counts == (action is not NodeAction.NONE)
        assert found.at_once == (action in (NodeAction.RESET, NodeAction.REBOOT))


@pytest.mark.parametrize("line", ["Xid 79", "Xid: 79", "xid=79", "NVRM: Xid (0000:03:00): 79, Channel 00000001"])
def test_an_xid_is_found_however_it_is_written(line):
    assert read(["all is well", line]).name == "Xid 79"


@pytest.mark.parametrize(
    ("line", "action"),
    [
        ("RuntimeError: CUDA error: an illegal memory access was encountered", NodeAction.RESTART),
        ("CUDA error: uncorrectable ECC error encountered", NodeAction.RESET),
        ("Unable to determine the device handle for GPU 0000:3B:00.0: GPU is lost.", NodeAction.REBOOT),
        ("Allocate failed due to requested number of devices unavailable for nvidia.com/gpu", NodeAction.LOOK),
    ],
)
def test_without_an_xid_the_words_of_cuda_tell(line, action):
    assert read(["", line]).action is action


def test_the_recovery_action_that_a_driver_tells_is_taken():
    told = "Xid (PCI:0000:3b:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)"
    assert read([told]).action is NodeAction.REBOOT


def test_a_fault_without_a_name_is_one_all_the_same():
    assert read(["the GPU failed while detecting"]) == UNNAMED
    assert UNNAMED.counts
    assert read([]) == UNNAMED


@pytest.mark.parametrize(
    ("lines", "name", "action"),
    [
        (["CUDA error: x; try another node; recovery action: GPU Reset Required"], "recovery action", NodeAction.RESET),
        (["CUDA error: x; recovery action: Node Reboot Required"], "recovery action", NodeAction.REBOOT),
        (["CUDA error: x; recovery action: Drain P2P"], "recovery action", NodeAction.RESET),
        (["CUDA error: x; recovery action: Recover the IMEX domain"], "recovery action", NodeAction.LOOK),
        (["Xid (PCI:0000:3b:00): 13", "recovery action: GPU Reset Required"], "Xid 13", NodeAction.RESET),
    ],
)
def test_what_the_driver_asks_for_is_what_the_node_needs(lines, name, action):
    fault = read(lines)
    assert (fault.name, fault.action) == (name, action)
