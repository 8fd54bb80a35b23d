"""What services tell of time, on which the life of credentials hangs."""

from datetime import UTC, datetime

import pytest
from botocore.utils import parse_timestamp

from pipeline.credentials import S3Access, moment
from pipeline.objects import StoreOptions
from tests.bench.listing import listed_bucket


@pytest.mark.parametrize(
    "told",
    [
        "2026-11-01T10:00:00.000Z",
        "2026-11-01T10:00:00Z",
        "Sun, 01 Nov 2026 10:00:00 GMT",
        "2026-11-01T10:00:00+02:00",
        1793527200,
        "1793527200",
        "20261101T100000Z",
        "20261101100000Z",
    ],
)
def test_a_services_time_is_read_as_botocore_reads_it(told: object) -> None:
    found = moment(told)
    assert found == parse_timestamp(told)
    assert found.utcoffset() is not None


def test_listings_are_read_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore's own way is several times as slow as all else of a listing."""
    names = ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION", "DEFAULT_REGION")
    for name in names:
        monkeypatch.setenv(f"AWS_{name}", "x")  # what the bucket sets ends with the test
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    with listed_bucket(2) as uri:
        client = S3Access(uri.removeprefix("s3://"), StoreOptions()).client
        found = client.list_objects_v2(Bucket="listed")["Contents"]
    assert [one["LastModified"] for one in found] == [datetime(2026, 11, 1, 10, tzinfo=UTC)] * 2
    assert {one["LastModified"].tzinfo for one in found} == {UTC}, "botocore's own have a zone of dateutil's"
