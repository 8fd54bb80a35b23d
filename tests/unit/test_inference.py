"""One batch at a time, the older shard's first, and a failure costs its own image."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import torch

from condinst.masks import RleMasks
from condinst.model import Instances
from condinst.preprocess import Prepared
from pipeline.clock import Clock
from pipeline.inference import Inference


def item(value: int) -> Prepared:
    return Prepared(np.full((32, 32, 3), value, dtype=np.uint8), (32, 32))


def said(item: Prepared) -> Instances:
    """Instances that tell which image they are of, by their score."""
    score = np.array([item.pixels[0, 0, 0]], dtype=np.float32)
    return Instances(np.zeros((1, 4), np.float32), score, np.zeros(1, np.int64), RleMasks.empty(1))


def test_the_older_shard_goes_first() -> None:
    order: list[int] = []
    gate, busy = threading.Event(), threading.Event()

    def predict(batch: Sequence[Prepared]) -> list[Instances]:
        busy.set()
        gate.wait()
        order.append(int(batch[0].pixels[0, 0, 0]))
        return [said(one) for one in batch]

    inference, clock = Inference(predict, threads=1), Clock()
    futures = [inference.submit(7, [item(70)], clock)]
    busy.wait()
    futures += [
        inference.submit(ticket, [item(n)], clock) for ticket, n in ((7, 71), (3, 30), (7, 72), (3, 31))
    ]
    gate.set()
    for future in futures:
        future.result()
    inference.close()
    assert order == [70, 30, 31, 71, 72]


def test_results_are_the_images_own_in_order() -> None:
    inference = Inference(lambda batch: [said(one) for one in batch], threads=1)
    found = inference.submit(0, [item(n) for n in range(5)], Clock()).result()
    inference.close()
    scores = [one.found.scores[0] for one in found if isinstance(one.found, Instances)]
    assert scores == [0, 1, 2, 3, 4]


def test_a_failing_image_fails_alone_and_all_time_counts_as_busy() -> None:
    sizes: list[int] = []

    def predict(batch: Sequence[Prepared]) -> list[Instances]:
        sizes.append(len(batch))
        if any(one.pixels[0, 0, 0] == 2 for one in batch):
            raise MemoryError("too much")
        return [said(one) for one in batch]

    inference, clock = Inference(predict, threads=1), Clock()
    found = inference.submit(0, [item(n) for n in range(4)], clock).result()
    inference.close()
    assert [isinstance(one.found, MemoryError) for one in found] == [False, False, True, False]
    assert sizes == [4, 1, 1, 1, 1]
    work = clock.work("w")
    assert work.batches == 5
    assert work.first is not None
    assert work.last is not None
    assert 0 < work.busy <= work.last - work.first


def test_torch_has_the_threads_that_were_asked_for_where_it_computes() -> None:
    counted: list[int] = []

    def predict(batch: Sequence[Prepared]) -> list[Instances]:
        counted.append(torch.get_num_threads())
        return [said(one) for one in batch]

    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 1):
            inference = Inference(predict, threads)
            inference.submit(0, [item(0)], Clock()).result()
            inference.close()
    finally:
        torch.set_num_threads(before)
    assert counted == [1, 2, 1]
