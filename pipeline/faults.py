"""Turns what obstore and boto3 raise into errors that say what happened and what to do, without any secret.

Their own texts hold request URLs (with signatures, on some stores), headers and whole answers, so nothing of
them is passed on but what is picked out here: the status, the service's error code and its one-line message.
"""

from __future__ import annotations

import re

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    SSOError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from obstore.exceptions import BaseError

from pipeline.credentials import NOT_RENEWED
from pipeline.keys import printable
from pipeline.objects import Changed, Denied, NotFound, StoreError, Unavailable

# obstore's text ends with a dump of the error over many lines. Names of objects stand in it quoted on one
# line, so that none can pass for a line of its own; the sentence before the dump could be forged.
_DUMP = "Debug source:"
_NAMES = re.compile(r"^\s*(path: |https?://).*$", re.MULTILINE)
_STATUS = re.compile(r"^\s*status: (\d{3}),$", re.MULTILINE)
_BODY = re.compile(r"^\s*body: (?:Some\(\n\s*)?(.*)$", re.MULTILINE)
_CODE = re.compile(r"<Code>(\w[\w.]{0,80})</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,300})")
_SECRETS = re.compile(
    r"\?\S+|\b(AKIA|ASIA)\w+|(?i:signature|credential|token|secret|bearer|sig)\s*[=:]\s*\S+"
)
_REFUSED = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "AuthenticationFailed",
}
_FINAL = {501, 505}
"""Of the 5xx, those that say what the service cannot do at all."""
_LATER = {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown"}
"""Errors that mean the same as one of 5xx under any status: a copy's may be 200, sent before it failed."""
_UNREACHABLE = {
    "ConnectionRefused": "connection refused",
    "dns error": "its name does not resolve",
    "certificate": "its certificate is not trusted",
    "BadScheme": "its URL begins with neither http:// nor https://",
    "TimedOut": "it does not answer in time",
    "ConnectionReset": "it closes the connection",
    "IncompleteMessage": "it closes the connection",
    "IncompleteBody": "its answer ends early",
    "error decoding response body": "its answer ends early",
    "Content-Range header not present": "its answer ends early",
    "kind: Connect": "no connection",
    "kind: Timeout": "it does not answer in time",
    "HttpError {": "the connection fails",
}
"""What obstore's text holds when no answer came, most telling first."""
_ENDPOINT_REMEDY = (
    "check AWS_ENDPOINT_URL (or the input's or output's `endpoint`), the network, and that it runs"
)


class AlreadyThere(StoreError):
    """A create-only put found an object."""


class Conflict(StoreError):
    """The service is in the middle of another writer's put of the same name; the outcome is open."""


class Busy(Unavailable):
    """The service answered that it is in trouble or is asked too much: it may be over in seconds."""


class Unreachable(Unavailable):
    """No answer came, or not the whole of it: it may be over in seconds."""


class Refused(Unavailable):
    """The service does not take the credentials; others may be at hand by now."""


PASSING = (Busy, Unreachable, Conflict)
"""What a request is made again after."""


def explain(error: Exception, uri: str, endpoint: str) -> StoreError:
    """Say what a request for `uri` ended with, of obstore or of boto3."""
    if isinstance(error, _BOTO_ERRORS):
        return _explain_boto(error, printable(uri), endpoint)
    dump, uri = _dump(error), printable(uri)
    found = _STATUS.search(dump)
    if found is None:
        return _unanswered(error, dump, uri, endpoint)
    body = _BODY.search(dump)
    code, message = (pattern.search(body[1]) if body else None for pattern in (_CODE, _MESSAGE))
    return answered(int(found[1]), code[1] if code else "", message[1] if message else "", uri, endpoint)


def _explain_boto(error: Exception, uri: str, endpoint: str) -> StoreError:
    if isinstance(error, ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        fault = error.response.get("Error", {})
        return answered(status, fault.get("Code", ""), fault.get("Message", ""), uri, endpoint)
    if isinstance(error, NoCredentialsError | CredentialRetrievalError | SSOError):
        return Unavailable(
            f"{uri}: {NOT_RENEWED} ({type(error).__name__}); sign in again or check the profile"
        )
    if isinstance(error, HTTPClientError | BotoConnectionError):
        return Unreachable(f"{uri}: cannot reach {endpoint} ({type(error).__name__}); {_ENDPOINT_REMEDY}")
    return StoreError(f"{uri}: {_clean(str(error))}")


def answered(status: int, code: str, message: str, uri: str, endpoint: str) -> StoreError:
    """Say what an answer of a service means: its HTTP status, error code and message."""
    said = f"{status} {code}".strip() + (f", {_clean(message)}" if message else "")
    if (status >= 500 and status not in _FINAL) or status == 429 or code in _LATER:
        return Busy(f"{uri}: {endpoint} keeps answering {said}; try again when the service has recovered")
    if code in _REFUSED:
        return Refused(
            f"{uri}: the credentials are refused ({said}); renew them, or check key, clock and endpoint"
        )
    if code == "NoSuchBucket":
        return NotFound(f"{uri}: there is no such bucket at {endpoint}; check its name, and AWS_ENDPOINT_URL")
    if status in (401, 403):
        return Denied(f"{uri}: access denied ({said}); these credentials lack the permission for it")
    if status == 404:
        return NotFound(f"{uri} does not exist")
    if status in (301, 307, 308):
        return StoreError(
            f"{uri}: the bucket lies in another region ({said}); set AWS_REGION to the bucket's"
        )
    if status == 409:
        return Conflict(f"{uri}: another writer is at it ({said})")
    if status == 416:
        return Changed(f"{uri} ends before the bytes that were asked for: it was changed meanwhile")
    if status == 412:
        return AlreadyThere(f"{uri} exists already")
    return StoreError(f"{uri}: {endpoint} answers {said}")


def _unanswered(error: Exception, dump: str, uri: str, endpoint: str) -> StoreError:
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{uri} does not exist")
    if NOT_RENEWED in dump:
        return Unavailable(f"{uri}: {NOT_RENEWED}; sign in again or check the profile")
    if "BareRedirect" in dump:
        return StoreError(f"{uri}: the bucket lies in another region; set AWS_REGION to the bucket's")
    if cause := _cause(dump):
        return Unreachable(f"{uri}: cannot reach {endpoint}: {cause}; {_ENDPOINT_REMEDY}")
    return StoreError(f"{uri}: {_clean(str(error))}")


def _dump(error: Exception) -> str:
    return _NAMES.sub("", str(error).partition(_DUMP)[2])


def _cause(dump: str) -> str | None:
    return next((cause for sign, cause in _UNREACHABLE.items() if sign in dump), None)


def _clean(text: str) -> str:
    """One line without anything that looks like a credential."""
    line = text.strip().partition("\n")[0]
    return _SECRETS.sub("[hidden]", line)[:300]


_BOTO_ERRORS = (BotoCoreError, ClientError)
ERRORS = (BaseError, OSError, ValueError, *_BOTO_ERRORS)
"""Everything that a request through obstore or boto3 raises."""
