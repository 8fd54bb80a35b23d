"""Training input: labelled images of several sources, fetched and decoded when they are asked for."""

from __future__ import annotations

import hashlib
import posixpath
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import PurePosixPath

from condinst.augment import Labelled
from condinst.coco_truth import ImageTruth
from pipeline.decode import DecodeLimits, decode
from pipeline.keys import printable
from pipeline.labels import Labels, SampleError, read_coco, read_run
from pipeline.pixels import Rgb
from pipeline.records import InputRejected
from pipeline.storage import NotFound, Store, StoreOptions

__all__ = ["SampleError", "SampleSource", "Samples", "held_out", "place_of", "read_labelled"]


@dataclass(frozen=True)
class SampleSource:
    """Labels, and where their images lie."""

    labels: str
    """Path or URI of a COCO json, or the output of a segment job."""
    images: str
    """Folder or URI in which `file_name`s start, or below which a job's images lie: see `read_run`."""
    boxes_only: bool = False
    """Use of each label its box alone, though it may have a mask."""
    options: StoreOptions = field(default_factory=StoreOptions)
    run: bool = False
    """Whether `labels` is a segment job's output."""
    min_score: float = 0.0
    """Of a job's instances, those of lower score are left out."""
    replaces: bool = False
    """Whether its images take the place of the same images of earlier sources."""


@dataclass(frozen=True)
class _Row:
    """An image as one source has it."""

    owner: int
    """Number of the source."""
    store: Store
    truth: ImageTruth
    place: str
    """Full URI: images are the same where it is."""


class Samples:
    """The images of some sources as one list; safe to read from threads.

    A share `hold` of the images, chosen by the hash of their names, is left out and listed in `held`: where
    one source holds an image out, all do. Images are the same where their full URIs are. Decoded images are
    kept, the last used ones up to `cache_bytes`. Raises SampleError or StoreError when the labels
    cannot be read, SampleError when they have none of `classes`.
    """

    def __init__(
        self,
        sources: Sequence[SampleSource],
        classes: Sequence[str] | None = None,
        cache_bytes: int = 2**31,
        hold: float = 0.0,
    ) -> None:
        read = [_read(source) for source in sources]
        self.digests = {
            f"{n}:{s.labels}": own.digest for n, (s, own) in enumerate(zip(sources, read, strict=True))
        }
        """sha256 of each source's labels, by the source's number and name; where there are such, of images
        held out for another source's name of them, and of those that `leave_out` took."""
        self.unlisted = {s.labels: own.unlisted for s, own in zip(sources, read, strict=True) if own.unlisted}
        """Annotations of images that their json does not list, by its name; they are left out."""
        self.classes = tuple(classes or dict.fromkeys(name for own in read for name in own.names))
        """Class names: as given, or those of all sources in their order."""
        rows, gone = _replaced(
            [
                row
                for number, (source, own) in enumerate(zip(sources, read, strict=True))
                for row in _rows(number, source, own, self.classes)
            ],
            sources,
        )
        self.replaced = Counter((sources[owner].labels, sources[by].labels) for owner, by in gone)
        """Images whose labels others take the place of, by the names of both."""
        self.shared = _shared(rows, sources)
        """Places of images that two sources have, by the names of both: their labels all count."""
        apart = {row.place for row in rows if held_out(row.truth.file_name, hold)}
        if others := sorted(
            row.place for row in rows if row.place in apart and not held_out(row.truth.file_name, hold)
        ):
            self.digests["held out"] = _digest(others)
        self.held = [(row.store, row.truth) for row in rows if row.place in apart]
        """The images left out, with their instances and where they lie."""
        kept = [row for row in rows if row.place not in apart]
        self._items = [(row.store, row.truth) for row in kept]
        self._owners = [row.owner for row in kept]
        """Number of each item's source."""
        self._sources = len(sources)
        if not self.instances:
            raise SampleError(
                f"{sources[0].labels}: has no instance of {', '.join(self.classes) or 'any class'}"
            )
        self._cache: OrderedDict[int, Rgb] = OrderedDict()
        self._room = cache_bytes
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def counts(self) -> tuple[int, ...]:
        """Images of each source, without those left out."""
        return tuple(self._owners.count(number) for number in range(self._sources))

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each image."""
        return [(truth.height, truth.width) for _, truth in self._items]

    def leave_out(self, images: Iterable[tuple[Store, str]]) -> int:
        """Take away the images that lie where these do; returns how many. Call it before reading any.

        Raises SampleError when no instance would be left.
        """
        apart = {place_of(store, name) for store, name in images}
        places = [place_of(store, image.file_name) for store, image in self._items]
        gone = sorted(place for place in places if place in apart)
        if not gone:
            return 0
        kept = [number for number, place in enumerate(places) if place not in apart]
        self._items = [self._items[n] for n in kept]
        self._owners = [self._owners[n] for n in kept]
        if not self.instances:
            raise SampleError("no image with an instance is left to learn from: all of them are measured on")
        # Another training than one that learns from them.
        self.digests = {**self.digests, "left out": _digest(gone)}
        return len(gone)

    @property
    def instances(self) -> int:
        """Instances of all images."""
        return sum(len(truth.instances) for _, truth in self._items)

    @property
    def by_class(self) -> dict[str, int]:
        """Instances of each class, in the classes' order."""
        counts = Counter(instance.category for _, truth in self._items for instance in truth.instances)
        return {name: counts[number] for number, name in enumerate(self.classes)}

    @property
    def has_masks(self) -> bool:
        """Whether every image's instances have masks that may be used."""
        return not any(truth.boxes_only for _, truth in self._items)

    def __getitem__(self, number: int) -> Labelled:
        """An image with its instances. Raises SampleError when it is not there or does not decode."""
        store, truth = self._items[number]
        return Labelled(self._image(number, store, truth), truth.instances)

    def _image(self, number: int, store: Store, truth: ImageTruth) -> Rgb:
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
        image = read_labelled(store, truth.file_name, (truth.height, truth.width), truth.version)
        with self._lock:
            if number not in self._cache:
                self._room -= image.nbytes
            self._cache[number] = image
            while self._room < 0:
                self._room += self._cache.popitem(last=False)[1].nbytes
        return image


def held_out(name: str, share: float) -> bool:
    """Whether an image is among the share that is not learned from: by its name, whatever else there is."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) < share * 2**64


def read_labelled(store: Store, name: str, size: tuple[int, int], version: str | None = None) -> Rgb:
    """An image of labels that give its name and (height, width). Raises SampleError.

    It lies below the store's root under that name, or right in it under its base name. `version` is the etag
    of the file that the labels are of: another one's pixels are not taken.
    """
    data, place, etag = _fetch(store, name)
    if None not in (version, etag) and version != etag:
        raise SampleError(
            f"{place}: has changed since the job read it (etag {version} -> {etag}), so its masks are of "
            "another image; segment it anew (`input.mode: new`)"
        )
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


def _rows(number: int, source: SampleSource, own: Labels, classes: Sequence[str]) -> Iterator[_Row]:
    store = Store.open(source.images, source.options)
    for image in own.images:
        adapted = _adapted(image, own.names, classes, source.boxes_only)
        yield _Row(number, store, adapted, place_of(store, image.file_name))


def _replaced(
    rows: Sequence[_Row], sources: Sequence[SampleSource]
) -> tuple[list[_Row], list[tuple[int, int]]]:
    """Rows without those that a later source replaces; and of each of these, its source and that one."""
    by = {row.place: row.owner for row in rows if sources[row.owner].replaces}
    kept = [row for row in rows if row.owner >= by.get(row.place, 0)]
    return kept, [(row.owner, by[row.place]) for row in rows if row.owner < by.get(row.place, 0)]


def _shared(rows: Iterable[_Row], sources: Sequence[SampleSource]) -> dict[tuple[str, str], list[str]]:
    owners: dict[str, set[int]] = {}
    for row in rows:
        owners.setdefault(row.place, set()).add(row.owner)
    found: dict[tuple[str, str], list[str]] = {}
    for place, numbers in owners.items():
        for pair in pairwise(sorted(numbers)):
            earlier, later = (sources[number].labels for number in pair)
            found.setdefault((earlier, later), []).append(place)
    return found


def _digest(places: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(places).encode()).hexdigest()


def place_of(store: Store, name: str) -> str:
    """Full URI of an image; a plain path on disk."""
    return store.join(posixpath.normpath(name))


def _fetch(store: Store, name: str) -> tuple[bytes, str, str | None]:
    """An image's bytes, where they were, and their etag."""
    keys = list(dict.fromkeys((name, PurePosixPath(name).name)))
    problems = [store.problem(key) for key in keys]
    for key, problem in zip(keys, problems, strict=True):
        try:
            if problem is None:
                data, info = store.get_with_info(key)
                return data, store.join(key), info.etag
        except NotFound:
            continue
    if all(problems):
        raise SampleError(f"{printable(store.join(name))}: {problems[0]}, so there can be no such image")
    raise SampleError(
        f"{store.join(name)}: there is no such image, but the annotations name it; give the folder or URI "
        "in which their `file_name`s start"
    )


def _read(source: SampleSource) -> Labels:
    if source.run:
        return read_run(source.labels, source.options, source.images, source.min_score)
    return read_coco(source.labels, source.options)


def _adapted(image: ImageTruth, names: Sequence[str], classes: Sequence[str], alone: bool) -> ImageTruth:
    """The image with classes counted as in `classes`, others left out; `alone`: with boxes for masks."""
    index = {n: classes.index(name) for n, name in enumerate(names) if name in classes}
    kept = (replace(m, category=index[m.category]) for m in image.instances if m.category in index)
    instances = tuple(m.filled() if alone else m for m in kept)
    return replace(image, instances=instances, boxes_only=image.boxes_only or alone)
