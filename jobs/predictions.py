"""What a model says of the images of a COCO truth, as COCO results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, TypeVar

from numpy.typing import NDArray
from rich.console import Console

from condinst import CondInst, DetectConfig
from condinst.evaluate import to_results
from jobs.counting import counted
from jobs.errors import JobError
from pipeline.decode import DecodeLimits, decode
from pipeline.records import InputRejected
from pipeline.rows import visible
from pipeline.storage import NotFound, Store

DECODERS = 2
AHEAD = 8
"""Images decoded before the model asks for them."""

T = TypeVar("T")
R = TypeVar("R")


def predictions(
    model: CondInst,
    detect: DetectConfig,
    images: Sequence[Mapping[str, Any]],
    store: Store,
    category_ids: Sequence[int],
    console: Console,
) -> Iterator[dict[str, Any]]:
    """COCO results of each of the truth's `images`, which lie in `store` under their `file_name`s.

    Images are decoded ahead in threads. Raises JobError for one that is not there, does not decode, or has
    another size than the truth says.
    """
    batch = 1 if model.device.type == "cpu" else AHEAD

    def read(image: Mapping[str, Any]) -> tuple[Mapping[str, Any], NDArray[Any]]:
        return image, read_image(store, image)

    with ThreadPoolExecutor(DECODERS, thread_name_prefix="decode") as pool:
        stream = counted(ahead(pool, read, images, AHEAD), len(images), "measuring", console)
        while chunk := list(islice(stream, batch)):
            found = model.predict([pixels for _, pixels in chunk], detect)
            for (image, pixels), instances in zip(chunk, found, strict=True):
                size = (pixels.shape[0], pixels.shape[1])
                yield from to_results(image["id"], visible(instances), size, category_ids)


def read_image(store: Store, image: Mapping[str, Any]) -> NDArray[Any]:
    """Pixels of one of the truth's images, uint8 (height, width, 3). Raises JobError."""
    name = str(image["file_name"])
    try:
        pixels = decode(_fetch(store, name), DecodeLimits())
    except InputRejected as rejected:
        raise JobError(f"{store.join(name)}: {rejected.status}: {rejected.reason}") from None
    if pixels.shape[:2] != (image["height"], image["width"]):
        raise JobError(
            f"{store.join(name)} is {pixels.shape[1]}x{pixels.shape[0]} once upright, but the truth says "
            f"{image['width']}x{image['height']}: its annotations are of another image"
        )
    return pixels


def _fetch(store: Store, name: str) -> bytes:
    """An image by its name in the truth, or by its base name right in the folder."""
    for key in dict.fromkeys((name, PurePosixPath(name).name)):
        try:
            return store.get(key)
        except NotFound:
            continue
    raise JobError(
        f"{store.join(name)}: there is no such image, but the truth names it; --images is the folder or URI "
        "in which the truth's `file_name`s start"
    )


def ahead(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Sequence[T], depth: int
) -> Iterator[R]:
    """`function` of each item, in order, at most `depth` of them computed before they are asked for."""
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
