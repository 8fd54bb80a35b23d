"""The process that a report looks at broken images in: `pipeline.childdecode`, but what is left counts.

`jobs.run_report.salvage` is the other end. What a report shows of a damaged file is no result: no row comes
of it.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFile

from pipeline import tifftags
from pipeline.childdecode import LEAST, PIXELS, Answer, Pipes, serve
from pipeline.decode import DecodeLimits, decode, probe
from pipeline.pixels import Rgb, from_pillow, upright
from pipeline.records import InputRejected, Status

FORMATS = ("JPEG", "PNG")
"""Those that Pillow reads as far as they go."""


def main() -> None:
    """Salvage until stdin ends."""
    serve(_answer)


def _answer(data: bytes, limits: DecodeLimits, pipes: Pipes) -> Answer:
    image = salvage(data[LEAST.size :], limits)
    return PIXELS, image.shape[0], image.shape[1], image.data.cast("B")


def salvage(data: bytes, limits: DecodeLimits) -> Rgb:
    """The image, or of one that is damaged what can be read of it. Raises InputRejected as `decode`."""
    try:
        return decode(data, limits)
    except InputRejected as refusal:
        rest = _rest(data) if refusal.status is Status.CORRUPT else None
        if rest is None:
            raise
        return rest


def _rest(data: bytes) -> Rgb | None:
    """What is left of a file that `decode` calls corrupt, whose size is within the limits; or None."""
    try:
        kind = probe(data).format
        rest = _as_far_as_it_goes(data, kind) if kind in FORMATS else None
    except Exception:  # whatever the decoder says of it: why it is corrupt is known already
        return None
    # A decoder fills in what is missing: of one colour throughout, nothing else came of it.
    return None if rest is None or np.all(rest == rest[0, 0]) else rest


def _as_far_as_it_goes(data: bytes, kind: str) -> Rgb:
    with Image.open(io.BytesIO(data), formats=(kind,)) as image:
        _load(image)
        exif = image.info.get("exif")
        rgb = from_pillow(image)
    return upright(rgb, tifftags.orientation(exif)) if exif else rgb


def _load(image: Image.Image) -> None:
    # The process's own switch; nothing else is decoded here meanwhile.
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        image.load()
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


if __name__ == "__main__":
    main()
