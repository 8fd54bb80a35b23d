"""A large JPEG from its bytes to the model's input: Pillow's full decode and resize against ours.

`make bench BENCH=decode`. The file is 4000 x 3000 pixels of a generated field, of about 3.5 MB; the input's
shortest edge is 800 pixels. `scaled` is `decode: scaled`, `full` is the default.
"""

from __future__ import annotations

import io
import sys
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from condinst.config import InputConfig, ShortestEdge
from condinst.preprocess import prepare, resized_size
from jobs.scenes import render
from pipeline.decode import DecodeLimits, decode, jpeg_size
from tests.bench import harness

SIZE, BYTES, REPEATS = (3000, 4000), 3_500_000, 7
CONFIG = InputConfig(resize=ShortestEdge(size=800, longest=1333))
LIMITS = DecodeLimits()


def photograph() -> bytes:
    """A generated field, compressed until it is as small as asked."""
    image = Image.fromarray(render(3, SIZE[1], SIZE[0]).image)
    for quality in range(95, 40, -3):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= BYTES:
            break
    return buffer.getvalue()


def pillow(data: bytes) -> NDArray[np.uint8]:
    """What is usual: everything decoded, then made smaller."""
    height, width = resized_size(SIZE, CONFIG)
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))


def ours(data: bytes, scaled: bool) -> NDArray[np.uint8]:
    size = jpeg_size(data)
    assert size is not None
    least = resized_size(size, CONFIG) if scaled else None
    return prepare(decode(data, LIMITS, least), CONFIG, size).pixels


def main() -> None:
    data = photograph()
    reference = pillow(data).astype(int)
    figures: dict[str, object] = {"bytes": len(data)}
    cases = {"full": partial(ours, data, scaled=False), "scaled": partial(ours, data, scaled=True)}
    base, *mine = harness.measure_in_turn([partial(pillow, data), *cases.values()], REPEATS)
    figures["pillow"] = base.figures()
    for (name, run), timing in zip(cases.items(), mine, strict=True):
        off = np.abs(run().astype(int) - reference)
        figures[name] = timing.figures() | {
            "ratio": round(base.median / timing.median, 2),
            "mean_difference": round(float(off.mean()), 3),
        }
        print(name, figures[name], file=sys.stderr)
    harness.report("decode", base.median / mine[-1].median, figures)


if __name__ == "__main__":
    main()
