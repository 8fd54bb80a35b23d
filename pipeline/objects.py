"""What storage speaks of: an object, how its store is reached, and the ways a request can end badly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap

Data = bytes | mmap
"""What an object is written from: a large one lies in a file of its writer's."""


@dataclass(frozen=True)
class StoreOptions:
    """How a store is reached, where the environment does not say so. Holds no secret; travels to workers."""

    endpoint: str | None = None
    """URL of an S3-compatible service (or of a GCS or Azure emulator); plain http is allowed."""
    region: str | None = None
    profile: str | None = None
    """Profile of `~/.aws/config` whose credentials are used instead of the environment's."""
    anonymous: bool = False
    """Requests are not signed: public buckets."""
    requester_pays: bool = False
    requests_per_second: float | None = None
    """Most requests a second that one process makes to the bucket, retries too; None: no cap."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a store."""

    key: str
    """Its name below the store's root: raw, '/' between folders."""
    size: int
    """Bytes."""
    etag: str | None
    """What changes when the object's bytes do, without quotes. On disk: time of change and size."""


Check = Callable[[ObjectInfo], None]
"""Looks at an object when its bytes are read, and raises to have none of them."""


class StoreError(Exception):
    """A request that failed. The message names the place, the cause and a remedy, and holds no credential."""


class NotFound(StoreError):
    """No such object, or no such bucket."""


class Changed(StoreError):
    """The object is not the one any more that was meant: others put another in its place."""


class Denied(StoreError):
    """The object exists or may exist; these credentials may not have it."""


class BadPath(Denied):
    """A path on this machine that cannot be a folder: a file is in its place, or it cannot be made."""


class Unavailable(StoreError):
    """The store as a whole does not serve us now: unreachable, failing, or it refuses our credentials.

    Says nothing about the one object that was asked for, so no input is ever written off because of it.
    """
