"""Durations in words."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """In words, in the largest unit that says enough."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
