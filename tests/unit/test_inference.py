"""One batch at a time, the older shard's first, and a failure costs its own image."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from condinst.instances import Instances, RleMasks
from condinst.masks import MaskChanges
from condinst.model import Later
from condinst.preprocess import Prepared
from condinst.transfer import Copies
from pipeline import inference as inference_module
from pipeline.care import Care, Way
from pipeline.clock import Clock
from pipeline.decode import DecodeLimits
from pipeline.inference import BATCHES, Begin, Finish, Inference, OutOfMemory


def item(value: int) -> Prepared:
    return Prepared(np.full((32, 32, 3), value, dtype=np.uint8), (32, 32))


def said(item: Prepared) -> Instances:
    """Instances that tell which image they are of, by their score."""
    score = np.array([item.pixels[0, 0, 0]], dtype=np.float32)
    return Instances(np.zeros((1, 4), np.float32), score, np.zeros(1, np.int64), RleMasks.empty(1))


def at_once(predict: Callable[[Sequence[Prepared]], list[Instances]]) -> Begin:
    """A model that leaves nothing to the thread behind."""

    def begin(batch: Sequence[Prepared], later: Later) -> Finish:
        found = predict(batch)
        return lambda: found

    return begin


def test_the_older_shard_goes_first() -> None:
    order: list[int] = []
    gate, busy = threading.Event(), threading.Event()

    def predict(batch: Sequence[Prepared]) -> list[Instances]:
        busy.set()
        gate.wait()
        order.append(int(batch[0].pixels[0, 0, 0]))
        return [said(one) for one in batch]

    inference, clock = Inference(at_once(predict), threads=1), Clock()
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
    inference = Inference(at_once(lambda batch: [said(one) for one in batch]), threads=1)
    found = inference.submit(0, [item(n) for n in range(5)], Clock()).result()
    inference.close()
    scores = [one.found.scores[0] for one in found if isinstance(one.found, Instances)]
    assert scores == [0, 1, 2, 3, 4]


def test_a_failing_image_fails_alone_and_all_time_counts_as_busy() -> None:
    sizes: list[int] = []

    def predict(batch: Sequence[Prepared]) -> list[Instances]:
        sizes.append(len(batch))
        if any(one.pixels[0, 0, 0] == 2 for one in batch):
            raise ValueError("too much")
        return [said(one) for one in batch]

    inference, clock = Inference(at_once(predict), threads=1), Clock()
    found = inference.submit(0, [item(n) for n in range(4)], clock).result()
    inference.close()
    assert [isinstance(one.found, ValueError) for one in found] == [False, False, True, False]
    assert sizes == [4, 1, 1, 1, 1]
    work = clock.work("w")
    assert (work.batches, work.splits) == (5, 0)
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
            inference = Inference(at_once(predict), threads)
            inference.submit(0, [item(0)], Clock()).result()
            inference.close()
    finally:
        torch.set_num_threads(before)
    assert counted == [1, 2, 1]


OUT_OF_MEMORY: dict[str, Callable[[], Exception]] = {
    "CUDA's allocator": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB."),
    "CUDA's driver": lambda: RuntimeError("CUDA error: out of memory"),
    "cuBLAS": lambda: RuntimeError(
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"
    ),
    "cuDNN": lambda: RuntimeError(
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED when calling cudnnExecute"
    ),
    "the CPU's allocator": lambda: too_large_for_any_machine(),
    "Python": lambda: MemoryError(),
}


def too_large_for_any_machine() -> Exception:
    try:
        torch.empty(2**60, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError("a machine with an exabyte")


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_a_batch_that_does_not_fit_is_halved_until_it_does(kind: str) -> None:
    sizes: list[int] = []

    def predict(batch: Sequence[Prepared]) -> list[Instances]:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise OUT_OF_MEMORY[kind]()
        return [said(one) for one in batch]

    inference, clock = Inference(at_once(predict), threads=1), Clock()
    found = inference.submit(0, [item(n) for n in range(7)], clock).result()
    inference.close()
    assert [one.found.scores[0] for one in found if isinstance(one.found, Instances)] == list(range(7))
    assert sizes == [7, 4, 2, 2, 3, 2, 1]
    assert clock.work("w").splits == 3


def test_an_image_that_does_not_fit_alone_fails_alone() -> None:
    def predict(batch: Sequence[Prepared]) -> list[Instances]:
        if any(one.pixels[0, 0, 0] == 2 for one in batch):
            raise OUT_OF_MEMORY["CUDA's allocator"]()
        return [said(one) for one in batch]

    inference = Inference(at_once(predict), threads=1)
    found = inference.submit(0, [item(n) for n in range(5)], Clock()).result()
    inference.close()
    assert [isinstance(one.found, OutOfMemory) for one in found] == [False, False, True, False, False]
    assert str(found[2].found) == "the model, with an input of 32x32 pixels"


def test_what_failed_is_let_go_before_its_parts_are_tried() -> None:
    """On a GPU its tensors would take the very memory that is missing."""
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def predict(batch: Sequence[Prepared]) -> list[Instances]:
        alive.append(any(tensor() is not None for tensor in held))
        tensor = torch.zeros(10)
        held.append(weakref.ref(tensor))
        if len(batch) > 1:
            raise RuntimeError("CUDA out of memory" if len(batch) > 2 else "anything else")
        return [said(one) for one in batch]

    gc.disable()
    try:
        inference = Inference(at_once(predict), threads=1)
        inference.submit(0, [item(n) for n in range(4)], Clock()).result()
        inference.close()
    finally:
        gc.enable()
    assert alive == [False] * 7


class Watched(Care):
    """Care that notes what is inside the model, and has a way of its own."""

    def __init__(self, way: Way) -> None:
        super().__init__(DecodeLimits())
        self.chosen = way
        self.seen: list[Sequence[str]] = []
        self.now: Sequence[str] | None = None

    def way(self, images: Sequence[str]) -> Way:
        return self.chosen

    @contextmanager
    def inside(self, images: Sequence[str]) -> Iterator[None]:
        self.seen.append(images)
        self.now = images
        yield
        self.now = None


@pytest.mark.parametrize(
    ("way", "entered", "splits"),
    [
        (Way.WHOLE, ["abc"], 0),
        (Way.TRIED, ["a", "b", "c", "abc"], 0),
        (Way.ALONE, ["a", "b", "c"], 1),
    ],
)
def test_a_batch_goes_the_way_that_care_says_under_its_eyes(
    way: Way, entered: list[str], splits: int
) -> None:
    care, clock = Watched(way), Clock()

    def predict(batch: Sequence[Prepared]) -> list[Instances]:
        assert care.now == [chr(one.pixels[0, 0, 0]) for one in batch]
        return [said(one) for one in batch]

    inference = Inference(at_once(predict), threads=1)
    found = inference.submit(0, [item(ord(name)) for name in "abc"], clock, care, list("abc")).result()
    inference.close()
    assert ["".join(names) for names in care.seen] == entered
    assert [one.found.scores[0] for one in found if isinstance(one.found, Instances)] == [97, 98, 99]
    assert clock.work("w").splits == splits


def changed(count: int) -> MaskChanges:
    """So many numbers of one mask of no pixels."""
    return MaskChanges(Copies(torch.zeros(2 * count, dtype=torch.int64)), range(1), (32, 32))


def test_the_next_batch_is_begun_while_one_is_encoded_and_no_more_than_that() -> None:
    begun: list[int] = []
    gate, second = threading.Event(), threading.Event()

    def begin(batch: Sequence[Prepared], later: Later) -> Finish:
        begun.append(int(batch[0].pixels[0, 0, 0]))
        if len(begun) == BATCHES:
            second.set()

        def finish() -> list[Instances]:
            gate.wait()
            return [said(one) for one in batch]

        return finish

    inference, clock = Inference(begin, threads=1), Clock()
    futures = [inference.submit(0, [item(n)], clock) for n in range(5)]
    assert second.wait(10), "the second is begun though the first is not encoded"
    assert not any(future.done() for future in futures)
    assert len(begun) == BATCHES
    gate.set()
    scores = [future.result()[0].found.scores[0] for future in futures]  # type: ignore[union-attr]
    inference.close()
    assert scores == begun == [0, 1, 2, 3, 4]
    work = clock.work("w")
    assert work.first is not None
    assert work.last is not None
    assert work.busy <= work.last - work.first


def test_what_fails_when_it_is_encoded_is_gone_through_in_parts() -> None:
    """Even if it fails after the thread was told to end."""
    sizes: list[int] = []
    gate = threading.Event()

    def begin(batch: Sequence[Prepared], later: Later) -> Finish:
        sizes.append(len(batch))

        def finish() -> list[Instances]:
            if len(batch) > 2:
                gate.wait()
                raise MemoryError
            if batch[-1].pixels[0, 0, 0] == 3:
                raise ValueError("this one")
            return [said(one) for one in batch]

        return finish

    inference = Inference(begin, threads=1)
    future = inference.submit(0, [item(n) for n in range(4)], Clock())
    closing = threading.Thread(target=inference.close)
    closing.start()
    gate.set()
    found = future.result(30)
    closing.join()
    assert [isinstance(one.found, ValueError) for one in found] == [False, False, False, True]
    assert sizes == [4, 2, 2, 1, 1]


@pytest.mark.parametrize("encoders", [1, 3])
def test_masks_are_encoded_behind_and_the_model_waits_for_room(
    encoders: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference_module, "WAITING_BYTES", 64)
    waiting = most = 0
    threads: list[str] = []
    masks, lock = MaskChanges.masks, threading.Lock()

    def counted(changes: MaskChanges) -> RleMasks:
        nonlocal waiting
        with lock:
            threads.append(threading.current_thread().name)
            waiting -= changes.numbers.nbytes
        return masks(changes)

    monkeypatch.setattr(MaskChanges, "masks", counted)

    def begin(batch: Sequence[Prepared], later: Later) -> Finish:
        nonlocal waiting, most
        pieces = []
        for _ in range(20):
            piece = changed(2)
            pieces.append(later(piece))
            with lock:
                waiting += piece.numbers.nbytes
                most = max(most, waiting)
        assert len([piece() for piece in pieces]) == 20
        return lambda: [said(one) for one in batch]

    inference = Inference(begin, threads=1, encoders=encoders)
    inference.submit(0, [item(1)], Clock()).result(30)
    inference.close()
    assert {name.partition("_")[0] for name in threads} == {"behind"}
    assert most <= 64 + 32


def test_a_careful_shard_is_encoded_before_anything_else_enters() -> None:
    """Its note in the store says what is in the model: nothing else may be at work behind it."""

    class Alone(Watched):
        @property
        def overlaps(self) -> bool:
            return False

    active: list[str] = []
    seen: list[list[str]] = []

    def begin(batch: Sequence[Prepared], later: Later) -> Finish:
        name = chr(batch[0].pixels[0, 0, 0])
        seen.append([*active])
        active.append(name)

        def finish() -> list[Instances]:
            active.remove(name)
            return [said(one) for one in batch]

        return finish

    inference, clock = Inference(begin, threads=1), Clock()
    futures = [
        inference.submit(0, [item(ord(name))], clock, Alone(Way.WHOLE) if name in "bd" else None, [name])
        for name in "abcd"
    ]
    for future in futures:
        future.result(30)
    inference.close()
    assert seen[1] == seen[3] == []


def test_something_else_is_done_in_the_models_thread_and_what_it_raises_comes_through() -> None:
    inference = Inference(at_once(lambda batch: [said(one) for one in batch]), threads=1)
    care, threads = Care(DecodeLimits()), []

    def values(batch: Sequence[Prepared]) -> list[int]:
        threads.append(threading.current_thread().name)
        return [int(one.pixels[0, 0, 0]) for one in batch]

    def fails(batch: Sequence[Prepared]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    batch, names = [item(4), item(9)], ["a", "b"]
    assert inference.ask(0, batch, values, Clock(), care, names).result() == [4, 9]
    with pytest.raises(OutOfMemory):
        inference.ask(0, batch, fails, Clock(), care, names).result()
    assert len(inference.submit(0, [item(1)], Clock()).result()) == 1
    inference.close()
    assert threads == ["model"]
