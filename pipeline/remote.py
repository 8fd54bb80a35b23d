"""Objects of S3, Google and Azure, mostly through obstore. Every request goes through `_call`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore.store import AzureStore, GCSStore, S3Store

from pipeline.credentials import S3Access
from pipeline.faults import ERRORS, PASSING, AlreadyThere, Conflict, Refused, Unreachable, explain
from pipeline.keys import checked_endpoint
from pipeline.objects import Check, Data, NotFound, ObjectInfo, StoreError, StoreOptions, Unavailable
from pipeline.pace import pace_of
from pipeline.patience import PATIENT, QUICK

if TYPE_CHECKING:
    from obstore import GetResult, ObjectMeta
    from obstore.store import AzureConfig, ClientConfig, GCSConfig, ObjectStore, RetryConfig

T = TypeVar("T")

CLIENT: ClientConfig = {
    "connect_timeout": timedelta(seconds=3),
    "read_timeout": timedelta(seconds=60),
    "timeout": timedelta(minutes=10),
}
_PART = 16 << 20
"""Bytes of an upload's part; what is no larger goes up in one request."""
_DELETE_BATCH = 1000
_RENEWALS = 4
"""How often in a row a request's credentials may be refused while there are others to try."""


class RemoteBackend:
    """Objects of one bucket; keys are full names in it."""

    def __init__(
        self, root: str, endpoint: str, options: StoreOptions, make: Callable[[RetryConfig], ObjectStore]
    ) -> None:
        self.root = root
        self.endpoint = endpoint
        self._make = make
        self._remake()
        self._pace = pace_of(endpoint, root, options.requests_per_second)
        self._answered = False

    def _remake(self) -> None:
        self._once = self._make({"max_retries": 0})
        self._again = self._make(PATIENT.of_obstore())  # for what obstore makes of many requests

    def get(self, key: str, check: Check | None) -> tuple[bytes, ObjectInfo]:
        """Read an object in one request; `check` sees the head of the answer before its body is read."""

        def read() -> tuple[bytes, ObjectInfo]:
            result: GetResult = obstore.get(self._once, key)
            info = _info(result.meta, key)
            if check is not None:
                check(info)
            return result.bytes().to_bytes(), info

        return self._call(key, read)

    def get_range(self, key: str, start: int, length: int, check: Check | None) -> bytes:
        """Read at most `length` bytes from `start` on; `check` sees the head of the answer that has them."""

        def read() -> bytes:
            result = obstore.get(self._once, key, options={"range": (start, start + length)})
            if check is not None:
                check(_info(result.meta, key))
            return result.bytes().to_bytes()

        return self._call(key, read)

    def head(self, key: str) -> ObjectInfo:
        """Describe an object without reading it."""
        return self._call(key, lambda: _info(obstore.head(self._once, key), key))

    def put(self, key: str, data: Data) -> None:
        """Write an object, replacing what is there in one step."""
        if len(data) <= _PART:
            self._call(key, lambda: obstore.put(self._once, key, data, use_multipart=False))
        else:
            parts = -(-len(data) // _PART) + 2
            self._call(key, lambda: obstore.put(self._again, key, data, chunk_size=_PART), parts)

    def put_chunks(self, key: str, chunks: Iterator[bytes]) -> None:
        """Write an object as its bytes come, in parts, replacing what is there in one step."""
        begun = False

        def send() -> None:
            nonlocal begun
            if begun:  # what came is gone: the rest alone would be another object
                raise StoreError(f"{self.root}/{key}: refused while it was written; run the command again")
            begun = True
            obstore.put(self._again, key, chunks, use_multipart=True, chunk_size=_PART, max_concurrency=4)

        self._explained(key, send)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one.

        A lost answer is asked for again, so False may mean that the object is our own of a moment ago.
        """
        try:
            self._call(key, lambda: obstore.put(self._once, key, data, mode="create"))
        except AlreadyThere:
            return False
        return True

    def copy(self, source: str, target: str) -> None:
        """Copy an object within the service, replacing what is there in one step."""
        self._call(source, lambda: obstore.copy(self._once, source, target))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects. Absent ones are no error."""
        for key in keys:
            try:
                self._call(key, partial(self._delete, key))
            except NotFound:
                continue

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose name begins with `prefix`, in the service's order of names."""
        folder = prefix.rpartition("/")[0] or None
        stream = iter(obstore.list(self._again, folder, chunk_size=1000))
        # A stream that failed is at its end, so a page is asked for once, and obstore insists.
        while chunk := self._explained(prefix, lambda: next(stream, None)):
            yield from (_info(meta, meta["path"]) for meta in chunk if meta["path"].startswith(prefix))

    def _delete(self, keys: str | Sequence[str]) -> None:
        obstore.delete(self._once, keys)

    def _call(self, key: str, request: Callable[[], T], requests: int = 1) -> T:
        """Make a request, again while its trouble may pass; raises StoreError."""

        def once() -> T:
            return self._explained(key, request, requests)

        if not self._answered:
            try:
                return QUICK.insist(once, (Unreachable,))
            except PASSING:
                if not self._answered:
                    raise
        return PATIENT.insist(once, PASSING)

    def _explained(self, key: str, request: Callable[[], T], requests: int = 1) -> T:
        if self._pace is not None:
            self._pace.wait(requests)
        try:
            result = request()
        except ERRORS as error:
            fault = explain(error, f"{self.root}/{key}", self.endpoint)
            self._answered = self._answered or not isinstance(fault, Unreachable)
            raise fault from None
        self._answered = True
        return result


class S3Backend(RemoteBackend):
    """A bucket of S3 or of a service that speaks its language."""

    def __init__(self, bucket: str, options: StoreOptions) -> None:
        self.access = S3Access(bucket, options)
        self.bucket = bucket
        self._payer = {"RequestPayer": "requester"} if options.requester_pays else {}
        super().__init__(f"s3://{bucket}", self.access.endpoint, options, _s3(bucket, options, self.access))

    def _remake(self) -> None:
        found = self.access.found
        super()._remake()
        self._held = found  # last: who reads it then uses clients that have it

    def head(self, key: str) -> ObjectInfo:
        """Describe an object without reading it."""
        try:
            return super().head(key)
        except (NotFound, Unavailable, Conflict):
            raise
        except StoreError:  # S3 says why in the answer's body, and the answer to HEAD has none
            return self._call(key, lambda: _info(obstore.get(self._once, key).meta, key))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, a thousand a request. Absent ones are no error."""
        rest = iter(keys)
        while some := list(islice(rest, _DELETE_BATCH)):
            self._call(some[0], partial(self._delete, some))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose name begins with `prefix`, in byte order, whatever their names hold."""
        page: dict[str, Any] = {}
        while True:
            page = self._call(prefix, partial(self._page, prefix, page.get("NextContinuationToken")))
            for found in page.get("Contents", ()):
                yield ObjectInfo(found["Key"], found["Size"], _etag(found.get("ETag")))
            if not page.get("IsTruncated"):
                return
            if not page.get("NextContinuationToken"):
                raise StoreError(f"{self.root}/{prefix}: {self.endpoint} lists a part and not how to go on")

    def _page(self, prefix: str, token: str | None) -> dict[str, Any]:
        following = {"ContinuationToken": token} if token else {}
        answer: dict[str, Any] = self.access.client.list_objects_v2(
            Bucket=self.bucket, Prefix=prefix, **following, **self._payer
        )
        return answer

    def _explained(self, key: str, request: Callable[[], T], requests: int = 1) -> T:
        """As every request; one whose credentials are refused is made again with others, if there are any."""
        for _ in range(_RENEWALS):
            used = self._held
            try:
                return super()._explained(key, request, requests)
            except Refused:
                if not self.access.renew(used, self._remake):
                    raise
        return super()._explained(key, request, requests)


def remote_backend(scheme: str, bucket: str, options: StoreOptions) -> RemoteBackend:
    """Make the backend of one bucket of `s3`, `gs` or `az` (there, `bucket` is a container)."""
    if scheme == "s3":
        return S3Backend(bucket, options)
    place = f"{scheme}://{bucket}"
    known = {"gs": "https://storage.googleapis.com", "az": "the storage account"}[scheme]
    endpoint = checked_endpoint(options.endpoint, place) if options.endpoint else known
    make = _gs(bucket, options) if scheme == "gs" else _az(bucket, options)
    try:
        return RemoteBackend(place, endpoint, options, make)
    except ERRORS as error:
        fault = explain(error, place, endpoint)
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
                "skip_signature": access.anonymous,
                "conditional_put": "etag",
            },
            client_options={**CLIENT, "allow_http": scheme == "http"},
            retry_config=retry,
            credential_provider=None if access.anonymous else access.credentials,
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
