"""A process that does nothing but decode, for images that may end it: `python -P -m pipeline.childdecode`.

On stdin comes one image file after another, each after its length; on stdout goes a fixed header for each,
and its pixels as they lie in memory, or a reason in UTF-8. `pipeline.children` is the other end, and believes
none of it. The arguments are the limits: pixels, bytes, seconds of an image, and bytes of memory.
"""

from __future__ import annotations

import os
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.decode import DecodeLimits, Size, decode
from pipeline.pixels import Rgb
from pipeline.records import InputRejected, Status, describe

REQUEST = struct.Struct("<Q")
"""Bytes of the file that follows."""
LEAST = struct.Struct("<II")
"""Before an image: the height and width to decode to at least; zeros for all there is."""
REPLY = struct.Struct("<BIIQ")
"""Kind, height, width, bytes that follow."""
READY, PIXELS, REFUSED = 0, 1, 2
"""Kinds: able to decode; pixels; from here on, the place in `REFUSALS` of the status that is explained."""
REFUSALS = (Status.CORRUPT, Status.UNSUPPORTED, Status.TOO_LARGE, Status.NODATA, Status.FAILED)
MAX_REASON = 4096
"""Most bytes of a reason."""

_GRACE = 30
"""Seconds after which this process ends by itself when nobody ended it in time: its parent is gone."""


def main() -> None:
    """Decode until stdin ends."""
    serve(lambda data, limits, pipes: _image(decode(data[LEAST.size :], limits, _least(data))))


def _least(data: bytes) -> Size | None:
    height, width = LEAST.unpack_from(data)
    return (height, width) if height and width else None


@dataclass(frozen=True)
class Pipes:
    """This process's end of its pipes."""

    source: BinaryIO
    sink: BinaryIO

    def send(self, kind: int, height: int = 0, width: int = 0, body: memoryview | bytes = b"") -> None:
        """Write an answer, or a question."""
        self.sink.write(REPLY.pack(kind, height, width, len(body)))
        self.sink.write(body)
        self.sink.flush()

    def receive(self) -> bytes | None:
        """The next bytes after their length; None at the end."""
        length = self.source.read(REQUEST.size)
        return self.source.read(REQUEST.unpack(length)[0]) if len(length) == REQUEST.size else None


Answer = tuple[int, int, int, memoryview | bytes]
"""Kind, height, width, body."""


def serve(answer: Callable[[bytes, DecodeLimits, Pipes], Answer]) -> None:
    """Answer request after request until stdin ends, within the limits of the arguments."""
    pixels, size, memory = (int(argument) for argument in (*sys.argv[1:3], sys.argv[4]))
    limits = DecodeLimits(pixels, size, float(sys.argv[3]))
    pipes = _pipes()
    _confine(memory)
    pipes.send(READY)
    while (data := pipes.receive()) is not None:
        # A signal that kills whatever the process is doing, the GIL held or not.
        signal.setitimer(signal.ITIMER_REAL, limits.seconds + _GRACE)
        said = _answered(lambda data=data: answer(data, limits, pipes), memory)  # type: ignore[misc]
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipes.send(*said)


@contextmanager
def unalarmed() -> Iterator[None]:
    """Around waiting for the parent, which is no part of what an answer takes; its end is noticed there."""
    left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)


def _image(image: Rgb) -> Answer:
    return PIXELS, image.shape[0], image.shape[1], image.data.cast("B")


def _answered(answer: Callable[[], Answer], memory: int) -> Answer:
    try:
        return answer()
    except InputRejected as error:
        status, reason = error.status, error.reason
        if isinstance(error.__context__, MemoryError):
            status, reason = Status.TOO_LARGE, f"decoding took more than {memory / 1e9:.1f} GB"
    except Exception as error:
        status, reason = Status.FAILED, describe(error)
    return REFUSED + REFUSALS.index(status), 0, 0, reason.encode(errors="replace")[:MAX_REASON]


def _pipes() -> Pipes:
    """Stdin and stdout for this program alone: what a decoder prints must not end up among the pixels."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    return Pipes(source, sink)


def _confine(memory: int) -> None:
    """Bound this process's memory, let it die rather than others, and only by what it does itself."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The parent decides when to stop; a signal to the whole group must not look like an image's doing.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # the kernel's first choice when memory runs out


if __name__ == "__main__":
    main()
