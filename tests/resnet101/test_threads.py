"""Threads that compute alone."""

import threading

import torch

from resnet101_detectron2.cpu.threads import Threads


def test_every_thread_computes_alone_and_the_others_keep_their_number():
    torch.set_num_threads(before := 2)
    threads = Threads()
    assert (
        threads.map(lambda _: (torch.randn(999, 999).sum() * 0).item() + torch.get_num_threads(), range(8)) == [1] * 8
    )
    assert torch.get_num_threads() == before
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [before]


def test_results_come_in_order_without_gradients():
    results = Threads().map(lambda n: (n, torch.is_inference_mode_enabled()), range(20))
    assert results == [(n, True) for n in range(20)]
