"""Texts with `*` and `?`, matched in time that no pattern can make long."""

from __future__ import annotations

import re
from functools import lru_cache


def matches(pattern: str, text: str) -> bool:
    """Equal, or alike where `*` and `?` stand for anything."""
    if pattern == text:
        return True
    return ("*" in pattern or "?" in pattern) and _wildcard(pattern, text)


@lru_cache(maxsize=1024)
def _pieces(pattern: str) -> tuple[re.Pattern[str], ...]:
    """What stands between the `*` of a pattern, each as an expression that cannot backtrack."""
    return tuple(
        re.compile("".join("." if c == "?" else re.escape(c) for c in piece), re.DOTALL) for piece in pattern.split("*")
    )


def _wildcard(pattern: str, text: str) -> bool:
    """Whether the whole text is like the pattern; in time that grows with the text's length only."""
    first, *rest = _pieces(pattern)
    if not rest:
        return first.fullmatch(text) is not None
    begin = first.match(text)
    if begin is None:
        return False
    at = begin.end()
    for piece in rest[:-1]:
        found = piece.search(text, at)
        if found is None:
            return False
        at = found.end()
    start = len(text) - (len(pattern) - pattern.rindex("*") - 1)
    return start >= at and rest[-1].fullmatch(text, start) is not None
