"""Objects of S3, Google and Azure through obstore. Every request but S3's listing goes through `_call`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from pipeline.credentials import S3Access, s3_access
from pipeline.faults import BOTO_ERRORS, AlreadyThere, Conflict, explain, explain_boto, unreachable
from pipeline.objects import Check, NotFound, ObjectInfo, StoreError, StoreOptions, Unavailable

if TYPE_CHECKING:
    from obstore import GetResult, ObjectMeta
    from obstore.store import AzureConfig, ClientConfig, GCSConfig, ObjectStore, RetryConfig

T = TypeVar("T")

PATIENT: RetryConfig = {
    "max_retries": 10,
    "retry_timeout": timedelta(minutes=2),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=15), "base": 2},
}
"""For a service that has answered before: full jitter, and two minutes to come back."""
QUICK: RetryConfig = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=5),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1), "base": 2},
}
"""For the first request to a service: a wrong endpoint is to be told in seconds."""
CREATE_TRIES = 5
CLIENT: ClientConfig = {
    "connect_timeout": timedelta(seconds=3),
    "read_timeout": timedelta(seconds=60),
    "timeout": timedelta(minutes=10),
}
_ERRORS = (BaseError, OSError, ValueError)
_DELETE_BATCH = 1000


class RemoteBackend:
    """Objects of one bucket; keys are full names in it."""

    def __init__(self, root: str, endpoint: str, make: Callable[[RetryConfig], ObjectStore]) -> None:
        self.root = root
        self.endpoint = endpoint
        self._patient = make(PATIENT)
        self._quick = make(QUICK)
        self._answered = False

    def get(self, key: str, check: Check | None) -> tuple[bytes, ObjectInfo]:
        """Read an object in one request; `check` sees the head of the answer before its body is read."""

        def read(store: ObjectStore) -> tuple[bytes, ObjectInfo]:
            result: GetResult = obstore.get(store, key)
            info = _info(result.meta, key)
            if check is not None:
                check(info)
            return result.bytes().to_bytes(), info

        return self._call(key, read)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read at most `length` bytes from `start` on."""
        return self._call(key, lambda s: obstore.get_range(s, key, start=start, length=length).to_bytes())

    def head(self, key: str) -> ObjectInfo:
        """Describe an object without reading it."""
        return self._call(key, lambda store: _info(obstore.head(store, key), key))

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing what is there in one step."""
        self._call(key, lambda store: obstore.put(store, key, data, chunk_size=16 << 20))

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one.

        A lost answer is asked for again, so False may mean that the object is our own of a moment ago.
        """
        for trial in range(CREATE_TRIES):
            try:
                self._call(key, lambda store: obstore.put(store, key, data, mode="create"))
            except AlreadyThere:
                return False
            except (Conflict, Unavailable):
                if trial == CREATE_TRIES - 1 or not self._answered:
                    raise
                time.sleep(random.uniform(0, 0.1 * 2**trial))
            else:
                return True
        raise AssertionError("unreachable")

    def copy(self, source: str, target: str) -> None:
        """Copy an object within the service, replacing what is there in one step."""
        self._call(source, lambda store: obstore.copy(store, source, target))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects. Absent ones are no error."""
        for key in keys:
            try:
                self._call(key, partial(obstore.delete, paths=key))
            except NotFound:
                continue

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose name begins with `prefix`, in the service's order of names."""
        folder = prefix.rpartition("/")[0]
        stream = self._call(prefix, lambda store: iter(obstore.list(store, folder or None, chunk_size=1000)))
        while chunk := self._call(prefix, lambda _: next(stream, None)):
            yield from (_info(meta, meta["path"]) for meta in chunk if meta["path"].startswith(prefix))

    def _call(self, key: str, request: Callable[[ObjectStore], T]) -> T:
        try:
            if self._answered:
                return request(self._patient)
            return self._first(request)
        except _ERRORS as error:
            raise explain(error, f"{self.root}/{key}", self.endpoint) from None

    def _first(self, request: Callable[[ObjectStore], T]) -> T:
        """Make the first request in a hurry, and go on patiently once the service is known to be there."""
        try:
            result = request(self._quick)
        except _ERRORS as error:
            if unreachable(error):
                raise
            self._answered = True
            return request(self._patient)
        self._answered = True
        return result


class S3Backend(RemoteBackend):
    """A bucket of S3 or of a service that speaks its language."""

    def __init__(self, bucket: str, options: StoreOptions) -> None:
        self.access = s3_access(bucket, options)
        self.bucket = bucket
        self._payer = {"RequestPayer": "requester"} if options.requester_pays else {}
        super().__init__(f"s3://{bucket}", self.access.endpoint, _s3(bucket, options, self.access))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, a thousand a request. Absent ones are no error."""
        rest = iter(keys)
        while some := list(islice(rest, _DELETE_BATCH)):
            self._call(some[0], partial(obstore.delete, paths=some))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose name begins with `prefix`, in byte order, whatever their names hold."""
        self._reach()
        pages = self.access.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix, **self._payer
        )
        try:
            for page in pages:
                for found in page.get("Contents", ()):
                    yield ObjectInfo(found["Key"], found["Size"], _etag(found.get("ETag")))
        except BOTO_ERRORS as error:
            raise explain_boto(error, f"{self.root}/{prefix}", self.endpoint) from None

    def _reach(self) -> None:
        """Learn in seconds whether the service is there: boto3 would try for a minute."""
        try:
            if not self._answered:
                self._call("", lambda store: obstore.head(store, "reach"))
        except Unavailable:
            raise
        except StoreError:
            return


def remote_backend(scheme: str, bucket: str, options: StoreOptions) -> RemoteBackend:
    """Make the backend of one bucket of `s3`, `gs` or `az` (there, `bucket` is a container)."""
    if scheme == "s3":
        return S3Backend(bucket, options)
    endpoint = (
        options.endpoint or {"gs": "https://storage.googleapis.com", "az": "the storage account"}[scheme]
    )
    try:
        return RemoteBackend(
            f"{scheme}://{bucket}", endpoint, _gs(bucket, options) if scheme == "gs" else _az(bucket, options)
        )
    except _ERRORS as error:
        fault = explain(error, f"{scheme}://{bucket}", endpoint)
        raise StoreError(
            f"{fault}; check {'GOOGLE_' if scheme == 'gs' else 'AZURE_STORAGE_'}* in the environment"
        ) from None


def _s3(bucket: str, options: StoreOptions, access: S3Access) -> Callable[[RetryConfig], ObjectStore]:
    scheme, _, host = access.endpoint.partition("://")
    endpoint = access.endpoint if access.path_style else f"{scheme}://{bucket}.{host}"

    # Each is named so that none is taken from the environment of another store of the same job.
    def make(retry: RetryConfig) -> ObjectStore:
        return S3Store(
            bucket,
            config={
                "endpoint": endpoint,
                "aws_endpoint_url_s3": endpoint,
                "region": access.region,
                "virtual_hosted_style_request": not access.path_style,
                "request_payer": options.requester_pays,
                "skip_signature": access.credentials is None,
                "conditional_put": "etag",
            },
            client_options={**CLIENT, "allow_http": scheme == "http"},
            retry_config=retry,
            credential_provider=access.credentials,
        )

    return make


def _gs(bucket: str, options: StoreOptions) -> Callable[[RetryConfig], ObjectStore]:
    config: GCSConfig = {"skip_signature": options.anonymous}
    if options.endpoint:
        config["base_url"] = options.endpoint
    client: ClientConfig = {**CLIENT, "allow_http": (options.endpoint or "").startswith("http://")}
    return lambda retry: GCSStore(bucket, config=config, client_options=client, retry_config=retry)


def _az(container: str, options: StoreOptions) -> Callable[[RetryConfig], ObjectStore]:
    config: AzureConfig = {"skip_signature": options.anonymous}
    if options.endpoint:
        config["endpoint"] = options.endpoint
    client: ClientConfig = {**CLIENT, "allow_http": (options.endpoint or "").startswith("http://")}
    return lambda retry: AzureStore(container, config=config, client_options=client, retry_config=retry)


def _info(meta: ObjectMeta, key: str) -> ObjectInfo:
    return ObjectInfo(key, meta["size"], _etag(meta["e_tag"]))


def _etag(quoted: str | None) -> str | None:
    return quoted.strip('"') if quoted else None
