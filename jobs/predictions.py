"""What a model says of the images of a COCO truth, as COCO results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from numpy.typing import NDArray
from rich.console import Console

from condinst import CondInst, DetectConfig
from condinst.evaluate import to_results
from jobs.counting import counted
from pipeline.ahead import ahead
from pipeline.rows import visible
from pipeline.samples import read_labelled
from pipeline.storage import Store

DECODERS = 2
AHEAD = 8
"""Images decoded before the model asks for them."""


def predictions(
    model: CondInst,
    detect: DetectConfig,
    images: Sequence[Mapping[str, Any]],
    store: Store,
    category_ids: Sequence[int],
    console: Console,
) -> Iterator[dict[str, Any]]:
    """COCO results of each of the truth's `images`, which lie in `store` under their `file_name`s.

    Images are decoded ahead in threads. Raises SampleError for one that is not there, does not decode, or has
    another size than the truth says.
    """
    batch = 1 if model.device.type == "cpu" else AHEAD

    def read(image: Mapping[str, Any]) -> tuple[Mapping[str, Any], NDArray[Any]]:
        size = (image["height"], image["width"])
        return image, read_labelled(store, str(image["file_name"]), size)

    with ThreadPoolExecutor(DECODERS, thread_name_prefix="decode") as pool:
        stream = counted(ahead(pool, read, images, AHEAD), len(images), "measuring", console)
        while chunk := list(islice(stream, batch)):
            found = model.predict([pixels for _, pixels in chunk], detect)
            for (image, pixels), instances in zip(chunk, found, strict=True):
                size = (pixels.shape[0], pixels.shape[1])
                yield from to_results(image["id"], visible(instances), size, category_ids)
