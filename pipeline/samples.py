"""Training input: labelled images of COCO sources, fetched and decoded when they are asked for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from condinst.augment import Example, boxes_only
from condinst.coco_truth import ImageTruth, TruthError, read_truth
from pipeline.decode import DecodeLimits, decode
from pipeline.pixels import Rgb
from pipeline.records import InputRejected
from pipeline.storage import NotFound, Store, StoreOptions


class SampleError(ValueError):
    """A source or an image of it that cannot be trained on; the message names it and what is wrong."""


@dataclass(frozen=True)
class SampleSource:
    """A COCO json, and where its images lie."""

    annotations: str
    """Path or URI of the json."""
    images: str
    """Folder or URI in which its `file_name`s start."""
    boxes_only: bool = False
    """Use of each annotation its box alone, though it may have a mask."""
    options: StoreOptions = field(default_factory=StoreOptions)


class Samples:
    """The images of some sources as one list; safe to read from threads.

    Decoded images are kept, the last used ones up to `cache_bytes`. Raises SampleError or StoreError when
    the annotations cannot be read, SampleError when they have none of `classes`.
    """

    def __init__(
        self,
        sources: Sequence[SampleSource],
        classes: Sequence[str] | None = None,
        cache_bytes: int = 2**31,
    ) -> None:
        read = []
        self.digests: dict[str, str] = {}
        """sha256 of each source's annotations, by the source's number and name."""
        for number, source in enumerate(sources):
            data = _fetch_json(source)
            self.digests[f"{number}:{source.annotations}"] = hashlib.sha256(data).hexdigest()
            read.append(_truth(source.annotations, _json(source, data)))
        self.counts = tuple(len(images) for _, images in read)
        """Images of each source."""
        self.classes = tuple(classes or dict.fromkeys(name for names, _ in read for name in names))
        """Class names: as given, or those of all sources in their order."""
        self._items: list[tuple[Store, ImageTruth, bool]] = []
        for source, (names, images) in zip(sources, read, strict=True):
            store = Store.open(source.images, source.options)
            self._items += [(store, _renamed(i, names, self.classes), source.boxes_only) for i in images]
        if not self.instances:
            raise SampleError(
                f"{sources[0].annotations}: has no instance of {', '.join(self.classes) or 'any class'}"
            )
        self._cache: OrderedDict[int, Rgb] = OrderedDict()
        self._room = cache_bytes
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def instances(self) -> int:
        """Instances of all images."""
        return sum(len(truth.instances) for _, truth, _ in self._items)

    @property
    def has_masks(self) -> bool:
        """Whether every image's instances have masks that may be used."""
        return not any(alone or truth.boxes_only for _, truth, alone in self._items)

    def __getitem__(self, number: int) -> Example:
        """An image with its instances. Raises SampleError when it is not there or does not decode."""
        store, truth, alone = self._items[number]
        example = Example(self._image(number, store, truth), truth.instances)
        return boxes_only(example) if alone else example

    def _image(self, number: int, store: Store, truth: ImageTruth) -> Rgb:
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
        image = read_labelled(store, truth.file_name, (truth.height, truth.width))
        with self._lock:
            if number not in self._cache:
                self._room -= image.nbytes
            self._cache[number] = image
            while self._room < 0:
                self._room += self._cache.popitem(last=False)[1].nbytes
        return image


def read_labelled(store: Store, name: str, size: tuple[int, int]) -> Rgb:
    """An image of annotations that give its name and (height, width). Raises SampleError.

    It lies below the store's root under that name, or right in it under its base name.
    """
    data, place = _fetch(store, name)
    try:
        image = decode(data, DecodeLimits())
    except InputRejected as rejected:
        raise SampleError(f"{place}: {rejected.status}: {rejected.reason}") from None
    if image.shape[:2] != size:
        raise SampleError(
            f"{place} is {image.shape[1]}x{image.shape[0]} once upright, but its annotations say "
            f"{size[1]}x{size[0]}: they are of another image"
        )
    return image


def _fetch(store: Store, name: str) -> tuple[bytes, str]:
    for key in dict.fromkeys((name, PurePosixPath(name).name)):
        try:
            return store.get(key), store.join(key)
        except NotFound:
            continue
    raise SampleError(
        f"{store.join(name)}: there is no such image, but the annotations name it; give the folder or URI "
        "in which their `file_name`s start"
    )


def _fetch_json(source: SampleSource) -> bytes:
    parent, _, name = source.annotations.rpartition("/")
    store = Store.open(parent or ("/" if source.annotations.startswith("/") else "."), source.options)
    try:
        return store.get(name)
    except NotFound:
        raise SampleError(f"{source.annotations}: there is no such file") from None


def _json(source: SampleSource, text: bytes) -> Mapping[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SampleError(f"{source.annotations}: not JSON ({error})") from None
    if not isinstance(data, dict):
        raise SampleError(f"{source.annotations}: not COCO annotations: it is no mapping")
    return data


def _truth(uri: str, data: Mapping[str, Any]) -> tuple[tuple[str, ...], list[ImageTruth]]:
    try:
        return read_truth(data)
    except TruthError as error:
        raise SampleError(f"{uri}: {error}") from None


def _renamed(image: ImageTruth, names: Sequence[str], classes: Sequence[str]) -> ImageTruth:
    """The image with classes counted as in `classes`; instances of others are left out."""
    index = {n: classes.index(name) for n, name in enumerate(names) if name in classes}
    kept = (m for m in image.instances if m.category in index)
    return replace(image, instances=tuple(replace(m, category=index[m.category]) for m in kept))
