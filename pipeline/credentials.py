"""How an S3 bucket is reached: endpoint, region and credentials, found the way boto3 finds them."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import botocore
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, CredentialRetrievalError, ProfileNotFound
from botocore.loaders import create_loader
from botocore.utils import parse_timestamp

from pipeline.keys import checked_endpoint
from pipeline.objects import StoreError, StoreOptions, Unavailable

if TYPE_CHECKING:
    from obstore.store import S3Credential

_DESCRIPTIONS = create_loader()
"""Of AWS's services, as read by any session: each on its own would parse them anew."""
NOT_RENEWED = "credentials could not be renewed"
_PLAIN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", re.ASCII)
_LIFE = timedelta(minutes=1)
"""How long obstore may keep what botocore gave it. botocore knows when to renew; asking it is cheap."""
_REMEDY = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile, or say `anonymous` for a public bucket"
)


class S3Access:
    """How one bucket is asked. Making it makes no request to the bucket. Safe in threads.

    Raises StoreError for a profile or an endpoint that cannot be, Unavailable when no credentials are found.
    """

    client: Any
    """boto3's S3 client: lists, because it reads names that obstore's listing stumbles over."""
    endpoint: str
    """URL of the service."""
    region: str
    path_style: bool
    found: Any
    """botocore's credentials, renewed by botocore before they expire; None: requests are not signed."""

    def __init__(self, bucket: str, options: StoreOptions) -> None:
        self._bucket, self._options = bucket, options
        self._lock = threading.Lock()
        self._look()

    @property
    def anonymous(self) -> bool:
        """Whether requests are not signed."""
        return self._options.anonymous

    def credentials(self) -> S3Credential:
        """Credentials of this minute, as obstore asks for them.

        Raises RuntimeError, without a secret, if there are none.
        """
        try:
            frozen = self.found.get_frozen_credentials()
        except Exception as error:  # a credential process may fail in any way, and its text may hold anything
            raise RuntimeError(f"{NOT_RENEWED} ({type(error).__name__})") from None
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _LIFE,
        }

    def renew(self, refused: Any, changed: Callable[[], None]) -> bool:
        """Look once more where credentials come from: the service refuses `refused`, which was `found`.

        Keys end before their time when they are revoked, or when another program writes new ones into the
        profile's file. Returns whether there are others now. `changed` is called before anybody is told
        so: to let go of what still has the old ones (obstore keeps a key for a tenth of a second unasked).
        """
        with self._lock:
            if self.anonymous or self.found is not refused:
                return not self.anonymous
            try:
                session = self._session()
                found = session.get_credentials()
                if found is None or found.get_frozen_credentials() == refused.get_frozen_credentials():
                    return False
                self._use(session, found)
                changed()
            except Exception:  # as above; what the service said is the better error
                return False
            return True

    def _look(self) -> None:
        place = f"s3://{self._bucket}"
        try:
            session = self._session()
            found = None if self.anonymous else session.get_credentials()
            if found is None and not self.anonymous:
                raise Unavailable(f"no credentials found for {place}: {_REMEDY}")
            self._use(session, found)
        except ProfileNotFound:
            raise StoreError(
                f"{place}: profile {self._options.profile!r} is not in ~/.aws/config or ~/.aws/credentials"
            ) from None
        except CredentialRetrievalError:  # its text holds what a credential process printed
            raise Unavailable(f"{place}: {NOT_RENEWED}; sign in again or check the profile") from None
        except (BotoCoreError, ValueError) as error:
            told = re.sub(r"//[^/@]*@", "//[hidden]@", str(error))
            raise StoreError(
                f"{place}: the AWS settings cannot be used: {told}; check endpoint, region, profile"
            ) from None
        checked_endpoint(self.endpoint, place)

    def _session(self) -> Any:
        own = botocore.session.Session()
        session = boto3.Session(profile_name=self._options.profile, botocore_session=own)
        own.register_component("data_loader", _DESCRIPTIONS)
        own.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=moment)
        return session

    def _use(self, session: Any, found: Any) -> None:
        named = self._options.region or session.region_name or os.environ.get("AWS_REGION")
        self.region = named or "us-east-1"
        self.client, self.path_style = _client(session, self._bucket, self.region, self._options)
        self.endpoint = self.client.meta.endpoint_url
        self.found = found


def _client(session: Any, bucket: str, region: str, options: StoreOptions) -> tuple[Any, bool]:
    """Make boto3's client. Others than AWS get the bucket in the path, unless `~/.aws/config` says how."""

    def make(style: str) -> Any:
        config = Config(
            signature_version=botocore.UNSIGNED if options.anonymous else None,
            s3={"addressing_style": style} if style else None,
            retries={"mode": "standard", "total_max_attempts": 1},  # pipeline.patience retries
            connect_timeout=5,
            read_timeout=60,
        )
        return session.client("s3", region_name=region, endpoint_url=options.endpoint, config=config)

    client = make("")
    styled = (client.meta.config.s3 or {}).get("addressing_style", "auto")
    path_style = styled == "path" or (
        styled == "auto" and (_foreign(client.meta.endpoint_url) or "." in bucket)
    )
    return make("path" if path_style else "virtual"), path_style


def moment(told: Any) -> datetime:
    """A service's time. botocore's own way takes two thirds of the time that a long listing takes."""
    if isinstance(told, str) and _PLAIN.fullmatch(told):
        with suppress(ValueError):
            return datetime.fromisoformat(told)
    found: datetime = parse_timestamp(told)
    return found


def _foreign(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    return not host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
