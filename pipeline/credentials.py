"""How an S3 bucket is reached: endpoint, region and credentials, found the way boto3 finds them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import botocore
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ProfileNotFound

from pipeline.objects import StoreError, StoreOptions, Unavailable

if TYPE_CHECKING:
    from obstore.store import S3Credential

NOT_RENEWED = "credentials could not be renewed"
_LIFE = timedelta(minutes=1)
"""How long obstore may keep what botocore gave it. botocore knows when to renew; asking it is cheap."""
_REMEDY = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile, or say `anonymous` for a public bucket"
)


class Credentials:
    """Credentials of a botocore session as obstore asks for them: renewed by botocore before they expire."""

    def __init__(self, found: Any) -> None:
        self._found = found

    def __call__(self) -> S3Credential:
        """Return the credentials of this minute. Raises RuntimeError, without a secret, if there are none."""
        try:
            frozen = self._found.get_frozen_credentials()
        except Exception as error:  # a credential process may fail in any way, and its text may hold anything
            raise RuntimeError(f"{NOT_RENEWED} ({type(error).__name__})") from None
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _LIFE,
        }


@dataclass(frozen=True)
class S3Access:
    """One bucket, ready to be asked."""

    client: Any
    """boto3's S3 client: lists, because it reads names that obstore's listing stumbles over."""
    endpoint: str
    """URL of the service."""
    region: str
    path_style: bool
    credentials: Credentials | None
    """None: requests are not signed."""


def s3_access(bucket: str, options: StoreOptions) -> S3Access:
    """Find out how a bucket is reached. Makes no request to it.

    Raises StoreError for a profile or an endpoint that cannot be, Unavailable when no credentials are found.
    """
    place = f"s3://{bucket}"
    try:
        session = boto3.Session(profile_name=options.profile)
        region = options.region or session.region_name or os.environ.get("AWS_REGION") or "us-east-1"
        found = None if options.anonymous else session.get_credentials()
        if found is None and not options.anonymous:
            raise Unavailable(f"no credentials found for {place}: {_REMEDY}")
        client, path_style = _client(session, bucket, region, options)
    except ProfileNotFound:
        raise StoreError(
            f"{place}: profile {options.profile!r} is not in ~/.aws/config or ~/.aws/credentials"
        ) from None
    except (BotoCoreError, ValueError) as error:
        raise StoreError(
            f"{place}: the AWS settings cannot be used: {error}; check endpoint, region, profile"
        ) from None
    endpoint: str = client.meta.endpoint_url
    return S3Access(client, endpoint, region, path_style, Credentials(found) if found else None)


def _client(session: Any, bucket: str, region: str, options: StoreOptions) -> tuple[Any, bool]:
    """Make boto3's client. Others than AWS get the bucket in the path, unless `~/.aws/config` says how."""

    def make(style: str) -> Any:
        config = Config(
            signature_version=botocore.UNSIGNED if options.anonymous else None,
            s3={"addressing_style": style} if style else None,
            retries={"mode": "standard", "total_max_attempts": 9},
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


def _foreign(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    return not host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
