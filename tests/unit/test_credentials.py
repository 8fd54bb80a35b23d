"""What services tell of time, on which the life of credentials hangs."""

import pytest
from botocore.utils import parse_timestamp

from pipeline.credentials import moment


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
    ],
)
def test_a_services_time_is_read_as_botocore_reads_it(told: object) -> None:
    found = moment(told)
    assert found == parse_timestamp(told)
    assert found.utcoffset() is not None
