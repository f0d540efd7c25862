"""Texts with `*` and `?`, the only wildcards: of `exclude`, `where` and `--only`."""

from __future__ import annotations

import re
import unicodedata
from fnmatch import translate
from functools import lru_cache


def matches(pattern: str, text: str) -> bool:
    """Whether the text equals the pattern, where `*` and `?` stand for any characters and for one.

    Both are compared in Unicode's form NFC: an accent may be part of its letter or follow it.
    """
    if not (pattern.isascii() and text.isascii()):
        pattern, text = unicodedata.normalize("NFC", pattern), unicodedata.normalize("NFC", text)
    return pattern == text or (("*" in pattern or "?" in pattern) and _compiled(pattern).match(text) is not None)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    """As a regular expression; since Python 3.11 its groups are atomic, so that no pattern makes it slow."""
    return re.compile(translate(pattern.replace("[", "[[]")))
