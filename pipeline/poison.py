"""What the store remembers of attempts that died at a shard, and of the images that they died of.

Below the output:

- `_attempts/<shard>/<attempt>/started`: an attempt has begun (`pipeline.ledger`); one that died leaves it.
- `_attempts/<shard>/<attempt>/at`: the images that a careful attempt has inside the model at the moment.
- `_poison/<shard>/<digest of its id>.json`: an image that kills its process, and how. Put once, never
  changed: every later attempt gives that image the same row without touching it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from pipeline.commit import attempt_prefix
from pipeline.ledger import LedgerError
from pipeline.progress import INTERVAL, progress_key
from pipeline.storage import NotFound, Store

ALONE = 2
"""Attempts that must have died with an image alone inside the model before it is to blame."""

STIR = 2.5 * INTERVAL
"""Seconds for which what looks dead must not stir before an image is blamed for it: others may be at work."""


def at_key(shard: str, attempt: str) -> str:
    """Key of the note that tells which images an attempt has inside the model."""
    return f"{attempt_prefix(shard, attempt)}at"


def poison_key(shard: str, image_id: str) -> str:
    """Key of the record of an image that kills its process."""
    digest = hashlib.sha256(image_id.encode(errors="surrogatepass")).hexdigest()
    return f"_poison/{shard}/{digest[:24]}.json"


@dataclass(frozen=True)
class Note:
    """Which images a careful attempt had inside the model."""

    attempt: str
    worker: str
    images: tuple[str, ...]
    """Their ids."""
    time: float

    def to_json(self) -> bytes:
        """As stored."""
        fields = {"worker": self.worker, "images": self.images, "time": self.time}
        return json.dumps(fields).encode()

    @classmethod
    def from_json(cls, attempt: str, data: bytes) -> Note | None:
        """Read a stored note; None for anything else."""
        try:
            fields = json.loads(data)
            images = tuple(str(image) for image in fields["images"])
            return cls(attempt, str(fields["worker"]), images, float(fields["time"]))
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True)
class Past:
    """What earlier attempts at a shard left behind. Some of them may be alive."""

    unfinished: int = 0
    """Attempts that began and did not end."""
    notes: tuple[Note, ...] = ()
    lately: int = 0
    """Of the unfinished, those that began since the shard was last committed."""

    def deaths(self, images: Iterable[str]) -> int:
        """Attempts that ended while one of these images was inside the model in a batch with others."""
        wanted = set(images)
        return sum(len(note.images) > 1 and not wanted.isdisjoint(note.images) for note in self.notes)

    def accused(self) -> dict[str, list[Note]]:
        """Images that were alone inside the model as enough attempts ended, and those attempts' notes."""
        alone = [note for note in self.notes if len(note.images) == 1]
        counts = Counter(note.images[0] for note in alone)
        return {
            image: [note for note in alone if note.images[0] == image]
            for image, count in counts.items()
            if count >= ALONE
        }


def look_back(store: Store, shard: str, attempt: str, since: str = "") -> Past:
    """Read what lies there of attempts at a shard other than this: one listing, and where one died more.

    `since` is the attempt that committed the shard last, if any: attempts are named after their time.
    """
    names: dict[str, set[str]] = {}
    for info in store.list(f"_attempts/{shard}/"):
        other, _, name = info.key.split("/", 2)[2].partition("/")
        names.setdefault(other, set()).add(name)
    begun = {other for other, found in names.items() if "started" in found and other != attempt}
    notes = [_read_note(store, shard, other) for other in sorted(begun) if "at" in names[other]]
    lately = sum(other > since for other in begun)
    return Past(len(begun), tuple(note for note in notes if note is not None), lately)


def read_culprits(store: Store, shard: str) -> dict[str, str]:
    """A shard's images that kill their process, by their id: what happens to it.

    Raises LedgerError for a record that nobody could have written.
    """
    records = (_read_culprit(store, info.key) for info in store.records(f"_poison/{shard}/"))
    return dict(record for record in records if record is not None)


def put_culprit(store: Store, shard: str, attempt: str, image_id: str, what: str) -> str:
    """Record that an image kills its process; returns what is recorded, this or what another put before."""
    key = poison_key(shard, image_id)
    record = {"image_id": image_id, "what": what, "attempt": attempt, "time": time.time()}
    if store.create(key, json.dumps(record).encode()):
        return what
    standing = _read_culprit(store, key)
    return what if standing is None else standing[1]


def convict(store: Store, shard: str, past: Past, known: Container[str]) -> set[str]:
    """Of the accused images, but for those known, those whose attempts are surely dead.

    A live attempt, another driver's, shows the same traces as long as an image is inside its model: so this
    waits for a while, and what is dead does not stir.
    """
    accused = {image: notes for image, notes in past.accused().items() if image not in known}
    if not accused:
        return set()
    workers = {note.worker for notes in accused.values() for note in notes}
    before = {worker: _sign(store, worker) for worker in workers}
    time.sleep(STIR)
    stirring = {worker for worker, sign in before.items() if _sign(store, worker) not in (sign, None)}
    return {image for image, notes in accused.items() if _still(store, shard, notes, stirring) >= ALONE}


def _still(store: Store, shard: str, notes: Sequence[Note], stirring: set[str]) -> int:
    """How many of the notes are as they were, and of workers that do not stir."""
    return sum(
        note.worker not in stirring and _read_note(store, shard, note.attempt) == note for note in notes
    )


def _read_culprit(store: Store, key: str) -> tuple[str, str] | None:
    try:
        fields = json.loads(store.get(key))
        return str(fields["image_id"]), str(fields["what"])
    except NotFound:
        return None
    except (ValueError, KeyError, TypeError):
        raise LedgerError(f"{store.join(key)} was not written by this program: remove it") from None


def _read_note(store: Store, shard: str, attempt: str) -> Note | None:
    try:
        return Note.from_json(attempt, store.get(at_key(shard, attempt)))
    except NotFound:
        return None


def _sign(store: Store, worker: str) -> bytes | None:
    try:
        return store.get(progress_key(worker))
    except NotFound:
        return None
