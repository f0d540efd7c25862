"""Numbers, durations and moments in words."""

from __future__ import annotations

from datetime import UTC, datetime


def counted(number: int, noun: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """In words, in the largest unit that says enough."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def size(number: float) -> str:
    """An amount of bytes in decimal units, as shops and `df -H` have it."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB" if number < 1000 else f"{number:.0f} TB"


def utc(moment: datetime | None = None, *, timespec: str = "milliseconds") -> str:
    """A moment in UTC as ISO 8601, `2027-01-31T06:00:00.000Z`; without one, now."""
    return (moment or datetime.now(UTC)).isoformat(timespec=timespec).replace("+00:00", "Z")
