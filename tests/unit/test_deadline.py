"""A deadline is by the clock on the wall, also in a night in which that is set."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from batchgen.cli.options import moment


@pytest.fixture
def berlin(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def utc(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("now", "asked", "then"),
    [
        ("2027-03-27T21:00", "06:00", "2027-03-28T04:00"),  # 22:00 CET to 06:00 CEST: a night of 7 hours
        ("2027-10-30T20:00", "06:00", "2027-10-31T05:00"),  # 22:00 CEST to 06:00 CET: 9 hours
        ("2027-03-28T00:30", "02:30", "2027-03-28T01:30"),  # a time that no clock shows that night: an hour later
        ("2027-10-31T00:10", "02:30", "2027-10-31T00:30"),  # comes twice: the first
        ("2027-10-31T00:40", "02:30", "2027-10-31T01:30"),  # the second
        ("2027-10-31T01:40", "02:30", "2027-11-01T01:30"),  # both are past
        ("2027-10-30T20:00", "2027-10-31T06:00", "2027-10-31T05:00"),
        ("2027-06-01T03:00", "05:00", "2027-06-02T03:00"),  # now is not later than now
    ],
)
def test_a_time_of_day_is_what_the_clock_shows(now, asked, then):
    assert moment(asked, utc(now)) == utc(then)
