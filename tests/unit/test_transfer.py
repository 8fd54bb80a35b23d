"""What goes between host and device waits for nothing; on a GPU that is pretended here."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from condinst import transfer
from condinst.transfer import Copies, Upload, constant, onto, rest, table
from condinst.upsample import resize_axis

CPU = torch.device("cpu")


def test_what_is_already_there_is_not_copied() -> None:
    values = torch.arange(6)
    assert onto(values, CPU) is values
    copies = Copies(values, values + 1)
    assert copies.tensors()[0] is values
    assert copies.nbytes == 2 * 6 * 8
    assert table([[1, 2], [3, 4]], CPU).tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_constants_are_kept_and_may_be_learned_with() -> None:
    """The first who asks is often in inference mode, whose tensors no gradient may pass by."""
    with torch.inference_mode():
        kept = constant((1.0, 2.0), CPU)
        axis = resize_axis(7, 11, CPU)
    assert constant((1.0, 2.0), CPU) is kept
    assert resize_axis(7, 11, CPU) is axis
    weights = torch.ones(2, requires_grad=True)
    (weights * kept).sum().backward()
    assert weights.grad is not None
    assert weights.grad.tolist() == [1.0, 2.0]
    assert not axis.near.is_inference()


class Event:
    """Of CUDA: what was recorded is there once it was waited for."""

    def __init__(self, blocking: bool) -> None:
        assert blocking, "the thread that waits leaves its core to others"
        self.recorded: list[object] = []
        self.waits = 0

    def record(self, stream: object) -> None:
        self.recorded.append(stream)

    def synchronize(self) -> None:
        assert self.recorded == ["the stream"]
        self.waits += 1


def test_copies_are_pinned_recorded_and_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    pinned: list[bool] = []
    empty = torch.empty

    def noted(shape: torch.Size, dtype: torch.dtype, pin_memory: bool) -> torch.Tensor:
        pinned.append(pin_memory)
        return empty(shape, dtype=dtype)

    def event(blocking: bool) -> Event:
        events.append(Event(blocking))
        return events[-1]

    class Far(torch.Tensor):
        is_cuda = True

    values = torch.arange(6).as_subclass(Far)
    monkeypatch.setattr(torch, "empty", noted)
    monkeypatch.setattr(torch.cuda, "Event", event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the stream")
    copies = Copies(values)
    assert (pinned, [one.waits for one in events]) == ([True], [0])
    assert [copies.tensors()[0].tolist() for _ in range(2)] == [[0, 1, 2, 3, 4, 5]] * 2
    assert [one.waits for one in events] == [1]


class Stream:
    """Of CUDA: notes what is asked of it."""

    def __init__(self, name: str, said: list[str]) -> None:
        self._name, self._said = name, said

    def __enter__(self) -> None:
        self._said.append(f"{self._name} begins")

    def __exit__(self, *_: object) -> None:
        self._said.append(f"{self._name} ends")

    def record_event(self) -> str:
        return f"event of {self._name}"

    def wait_event(self, event: str) -> None:
        self._said.append(f"{self._name} waits for {event}")


def test_a_batch_is_copied_beside_the_one_before_and_kept_while_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    own, models = Stream("own", said), Stream("the model's", said)

    class There:
        def record_stream(self, stream: Stream) -> None:
            assert stream is models
            said.append("kept for the model's")

    class Host:
        def to(self, device: torch.device, non_blocking: bool) -> There:
            assert non_blocking
            said.append("copied")
            return There()

    monkeypatch.setattr(transfer, "_copying", lambda device: own)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: models)
    upload = Upload(cast(torch.Tensor, Host()), torch.device("cuda"))
    assert said == ["own begins", "copied", "own ends"]
    said.clear()
    upload.take()
    assert said == ["the model's waits for event of own", "kept for the model's"]
    said.clear()
    upload.take()
    assert said == ["copied"], "a batch that is tried again is in the host's memory still"


def test_a_gpu_is_waited_for_by_an_event_that_leaves_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []

    def event(blocking: bool) -> Event:
        events.append(Event(blocking))
        return events[-1]

    monkeypatch.setattr(torch.cuda, "Event", event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the stream")
    rest(CPU)
    assert not events
    rest(torch.device("cuda"))
    assert [one.waits for one in events] == [1]


def test_what_a_processor_is_given_is_there() -> None:
    values = torch.arange(3)
    assert Upload(values, CPU).take() is values
