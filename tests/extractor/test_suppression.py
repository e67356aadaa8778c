"""Greedy suppression as operations on whole tensors, against the loop that it stands for."""

import numpy as np
import pytest
import torch
from fake_gpu import CUDA, fake_gpu
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from extractor.gpu.suppression import at_most, greedy, ranked


def one_by_one(suppresses: torch.Tensor) -> list[int]:
    kept: list[int] = []
    for box in range(len(suppresses)):
        if not any(suppresses[other, box] for other in kept):
            kept.append(box)
    return kept


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 30), st.floats(0, 1), st.integers(0, 2**32 - 1), st.one_of(st.none(), st.integers(1, 40)))
def test_what_is_settled_is_what_the_loop_keeps(size: int, share: float, seed: int, rounds: int | None):
    random = torch.rand(2, size, size, generator=torch.Generator().manual_seed(seed))
    suppresses = (random < share).triu(diagonal=1)
    kept, settled = greedy(suppresses, rounds)
    for own, own_kept, own_settled in zip(suppresses, kept, settled, strict=True):
        assert own_settled or rounds is not None
        if own_settled:
            assert own_kept.nonzero().flatten().tolist() == one_by_one(own)


def test_a_chain_longer_than_the_rounds_is_told():
    """Each box suppresses the next, as along a blank page: every second one is kept, which takes a round each."""
    chain = torch.ones(1, 40, 40, dtype=torch.bool).triu(1).tril(1)
    assert not greedy(chain, 16)[1].any()
    kept, settled = greedy(chain, 41)
    assert settled.all()
    assert kept[0].nonzero().flatten().tolist() == list(range(0, 40, 2))


@given(st.floats(0.01, 0.99), st.integers(-2, 2))
def test_a_float32_exceeds_a_threshold_exactly_if_it_exceeds_its_float32(threshold: float, steps: int):
    value = np.float32(threshold)
    for _ in range(abs(steps)):
        value = np.nextafter(value, np.float32(np.sign(steps)))
    assert bool(torch.tensor(value) > at_most(threshold)) == (float(value) > threshold)


def test_the_first_chosen_come_in_their_order():
    values = torch.arange(10, 20).expand(2, -1)
    chosen = torch.zeros(2, 10, dtype=torch.bool)
    chosen[0, [1, 4, 5, 9]] = chosen[1, 3] = True
    found, count = ranked(values, chosen, 3)
    assert found.tolist() == [[11, 14, 15], [13, 0, 0]]
    assert count.tolist() == [3, 1]


@pytest.mark.parametrize(
    "asks", [lambda x: x.nonzero(), lambda x: x.sum().item(), lambda x: x.unique(), lambda x: x[x > 0], torch.equal]
)
def test_a_fake_gpu_raises_where_a_gpu_would_be_waited_for(monkeypatch, asks):
    """What the tests of the networks rest on."""
    with fake_gpu(monkeypatch):
        x = torch.zeros(3, device=CUDA)
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            asks(x, x) if asks is torch.equal else asks(x)


def test_without_rounds_a_gpu_is_waited_for(monkeypatch):
    with fake_gpu(monkeypatch):
        suppresses = torch.zeros(1, 4, 4, dtype=torch.bool, device=CUDA)
        greedy(suppresses, 4)
        with pytest.raises(DataDependentOutputException):
            greedy(suppresses)
