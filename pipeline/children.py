"""Decoding in processes of their own: what an image does there costs the image, and no more.

Raw bytes cross the pipes, and the answer is checked before it is believed: a decoder that an image has taken
over can lie about that image, and cannot run code here. It is no sandbox: the child is the same user, without
the environment's credentials.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from io import BufferedIOBase
from typing import Protocol, TypeVar

import numpy as np

from pipeline.childdecode import LEAST, MAX_REASON, PIXELS, READY, REFUSALS, REFUSED, REPLY, REQUEST
from pipeline.decode import DecodeLimits, Size
from pipeline.pixels import Rgb
from pipeline.records import InputRejected

START_SECONDS = 120.0
"""How long a child may take until it can decode; a second on an idle machine."""

_PASSED_ON = ("PATH", "PYTHON", "LANG", "LC_", "LD_", "TMPDIR", "GDAL_", "PROJ_", "OMP_")
"""Beginnings of the names of environment variables that a child gets; credentials are not among them."""

_KEPT_BACK = ("GDAL_HTTP", "GDAL_PROXY", "PROJ_NETWORK")
"""Of these, what a child has no use for, as it asks no server: passwords and tokens may be in it."""

_NAMES = {number.value: number.name for number in signal.Signals}


_BROKEN = (OSError, EOFError, ValueError)
T = TypeVar("T")


class ChildError(Exception):
    """No child could be had: that says nothing about an image, and its shard is to be tried again."""


class DeadlyImage(Exception):
    """An image that ended the process which decoded it, twice, or would not end."""


class Pipes(Protocol):
    """The two pipes of a child, while it is asked for something. What breaks them ends the child."""

    def send(self, *parts: bytes | memoryview) -> None:
        """Write, as a whole."""
        ...

    def header(self) -> tuple[int, int, int, int]:
        """Read a `REPLY`."""
        ...

    def fill(self, target: memoryview) -> None:
        """Read as many bytes as the target holds."""
        ...

    def waiting(self) -> AbstractContextManager[None]:
        """Around what the child waits for: the time it may take stands still."""
        ...


class Children:
    """As many processes as threads that decode at a time; each is kept for the next image while it lives."""

    def __init__(self, limits: DecodeLimits, program: str = "pipeline.childdecode") -> None:
        """`program` is the module that the children run; its arguments are the limits."""
        self._limits, self._program = limits, program
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()
        self._closed = False

    def decode(self, data: bytes, least: Size | None = None) -> Rgb:
        """The same as `pipeline.decode.decode`, in a child.

        Raises InputRejected as that does, DeadlyImage, and ChildError.
        """
        return self.ask(lambda pipes: _decoded(pipes, data, least or (0, 0), self._limits.pixels))

    def ask(self, talk: Callable[[Pipes], T]) -> T:
        """Have a child do something, within the time for an image: `talk` asks, and reads the answer.

        It raises what is no fault of the child, NoAnswer for what no child answers. Raises DeadlyImage, and
        ChildError.
        """
        try:
            return self._ask(talk)
        except _Overdue as death:
            raise DeadlyImage(str(death)) from None
        except NoAnswer:
            pass  # It may have been killed from outside, as when a machine is taken away: ask once more.
        try:
            return self._ask(talk)
        except NoAnswer as death:
            raise DeadlyImage(str(death)) from None

    def close(self) -> None:
        """End the children, those at work too: their images are then nobody's fault."""
        with self._lock:
            self._closed = True
            children = list(self._all)
        for child in children:
            child.end()

    def _ask(self, talk: Callable[[Pipes], T]) -> T:
        child = self._take()
        try:
            return child.ask(talk)
        except NoAnswer:
            if self._closed:
                raise ChildError("decoding was called off") from None
            raise
        finally:
            self._give(child)

    def _take(self) -> _Child:
        with self._lock:
            if self._closed:
                raise ChildError("decoding was called off")
            if self._idle:
                return self._idle.pop()
            child = _Child(self._limits, self._program)
            self._all.add(child)
        try:
            child.start()
        except ChildError:
            self._give(child)
            raise
        return child

    def _give(self, child: _Child) -> None:
        with self._lock:
            if child.alive:
                self._idle.append(child)
                return
            self._all.discard(child)
        child.end()


class NoAnswer(Exception):
    """The child ended, or answered what no decoder answers, during an image."""


class _Overdue(NoAnswer):
    """The child was ended because it did not end."""


class _Child:
    def __init__(self, limits: DecodeLimits, program: str) -> None:
        self._limits = limits
        self._late = False
        self._left = self._since = 0.0
        numbers = (limits.pixels, limits.bytes, limits.seconds, limits.memory)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", program, *map(str, numbers)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise ChildError(f"no process to decode in could be started: {error}") from None
        assert isinstance(self._process.stdin, BufferedIOBase)
        assert isinstance(self._process.stdout, BufferedIOBase)
        self._to: BufferedIOBase = self._process.stdin
        self._from: BufferedIOBase = self._process.stdout

    @property
    def alive(self) -> bool:
        """Whether it can be asked for another image."""
        return not self._late and self._process.poll() is None

    def start(self) -> None:
        """Wait until it can decode. Raises ChildError when it cannot."""
        try:
            with self._within(START_SECONDS):
                if self.header() != (READY, 0, 0, 0):
                    raise NoAnswer("it began with something else")
        except NoAnswer as death:
            self.end()
            raise ChildError(f"the process that decodes did not start: {death}") from None

    def ask(self, talk: Callable[[Pipes], T]) -> T:
        """Ask for one image. After NoAnswer, and whatever else cuts `talk` short, the child is gone."""
        try:
            with self._within(self._limits.seconds):
                return talk(self)
        except InputRejected:
            raise
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Kill it, if it lives."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._to, self._from):
            with suppress(OSError, ValueError):
                pipe.close()

    def send(self, *parts: bytes | memoryview) -> None:
        """Write to its stdin."""
        for part in parts:
            self._to.write(part)
        self._to.flush()

    def header(self) -> tuple[int, int, int, int]:
        """Read what comes before an answer's bytes."""
        header = bytearray(REPLY.size)
        self.fill(memoryview(header))
        kind, height, width, size = REPLY.unpack(header)
        return kind, height, width, size

    def fill(self, target: memoryview) -> None:
        """Read from its stdout."""
        if self._from.readinto(target) != len(target):
            raise EOFError

    @contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """Kill it when the block lasts longer, but for what it waits for.

        Pipes that break become the end that broke them.
        """
        self._left = seconds
        self._run()
        try:
            yield
        except _BROKEN:
            raise self._death(seconds) from None
        finally:
            self._stop()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what it waits for: the time it may take stands still."""
        self._stop()
        try:
            yield
        finally:
            self._run()

    def _run(self) -> None:
        self._since = time.monotonic()
        self._timer = threading.Timer(self._left, self._kill_late)
        self._timer.start()

    def _stop(self) -> None:
        self._timer.cancel()
        self._timer.join()
        self._left = max(0.0, self._left - (time.monotonic() - self._since))

    def _kill_late(self) -> None:
        self._late = True
        self._process.kill()

    def _death(self, seconds: float) -> NoAnswer:
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return NoAnswer("decoding closed its process's pipes")
        if self._late:
            return _Overdue(f"decoding did not end within {seconds:g} s")
        if code < 0:
            return NoAnswer(f"decoding killed its process ({_NAMES.get(-code, f'signal {-code}')})")
        return NoAnswer(f"decoding ended its process (exit code {code})")


def _decoded(pipes: Pipes, data: bytes, least: Size, limit: int) -> Rgb:
    pipes.send(REQUEST.pack(LEAST.size + len(data)), LEAST.pack(*least), data)
    kind, height, width, size = pipes.header()
    if kind == PIXELS and 0 < height * width <= limit and size == 3 * height * width:
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        pipes.fill(pixels.data.cast("B"))
        return pixels
    raise refusal(pipes, kind, size)


def refusal(pipes: Pipes, kind: int, size: int) -> Exception:
    """An answer that is no image: the InputRejected that it tells, else NoAnswer."""
    if 0 <= kind - REFUSED < len(REFUSALS) and size <= MAX_REASON:
        reason = bytearray(size)
        pipes.fill(memoryview(reason))
        return InputRejected(REFUSALS[kind - REFUSED], reason.decode(errors="replace"))
    return NoAnswer("decoding gave something that is no image")


def _environment() -> dict[str, str]:
    passed = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_PASSED_ON) and not name.startswith(_KEPT_BACK)
    }
    # What can be imported here can be there; without its own folder, as -P says, it could not be found.
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return {"OMP_NUM_THREADS": "1", **passed, "PYTHONPATH": path}
