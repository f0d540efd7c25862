"""A diagnostic as a terminal shows it: the sentence, then the line of the source with a caret under it."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

from batchgen.errors import CommandError, SourceLocation
from batchgen.manifest.schema_errors import is_secret
from batchgen.source import encoding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchgen.errors import Diagnostic

_WIDTH = 100  # columns of a source line that are shown
_KEY = re.compile(  # a key with a value, or a password in an address
    r"(key|key_env|secret|token|password|authorization|bearer)[\"']?[ \t]*:|://[^/\s]*@", re.IGNORECASE
)
_RED, _YELLOW, _BLUE, _BOLD, _OFF = "\x1b[31m", "\x1b[33m", "\x1b[34m", "\x1b[1m", "\x1b[0m"


def render(diagnostic: Diagnostic, *, color: bool = False) -> str:
    """A diagnostic in a few lines."""

    def paint(code: str, text: str) -> str:
        return f"{code}{text}{_OFF}" if color else text

    kind = paint(_YELLOW, "warning:") if diagnostic.warning else paint(_RED, "error:")
    path = f"{diagnostic.path}: " if diagnostic.path else ""
    lines = [f"{paint(_BOLD, _printable(str(diagnostic.place)))}: {kind} {_printable(path + diagnostic.message)}"]
    source = _source(diagnostic.place)
    if source.strip() and not _hides(diagnostic, source):
        shown, caret = _window(source, diagnostic.place.column)
        gutter = f"{diagnostic.place.line:>5} | "
        lines.append(paint(_BLUE, gutter) + shown)
        if diagnostic.place.column:
            lines.append(" " * (len(gutter) - 2) + paint(_BLUE, "| ") + " " * caret + paint(_RED, "^"))
    if diagnostic.hint:
        lines.append(f"    {_printable(diagnostic.hint)}")
    lines += [f"    see also {_printable(str(place))}" for place in diagnostic.also]
    return "\n".join(lines)


def _hides(diagnostic: Diagnostic, source: str) -> bool:
    """Whether the line may hold a key, which no log may contain."""
    steps = diagnostic.path.replace("[", ".").split(".")
    return is_secret(tuple(steps)) or _may_hold_key(source)


@lru_cache(maxsize=16)
def _may_hold_key(source: str) -> bool:
    """Cached, for a long line may have thousands of diagnostics."""
    return _KEY.search(source) is not None


def _source(place: SourceLocation) -> str:
    lines = _lines_of(place.file) if place.line else ()
    return lines[place.line - 1] if 0 < place.line <= len(lines) else ""


@lru_cache(maxsize=8)
def _lines_of(file: str) -> Sequence[str]:
    try:
        text = encoding.load_bytes(file, file).decode("utf-8-sig", "replace")
    except CommandError:
        return ()
    return text.replace("\r\n", "\n").split("\n")


def _window(source: str, column: int) -> tuple[str, int]:
    """The part of a line around a column (from 1), and the caret's distance from its start."""
    start = max(0, min(column - 1 - _WIDTH // 2, len(source) - _WIDTH))
    head, tail = ("…" if start else ""), ("…" if len(source) > start + _WIDTH else "")
    shown = _printable(source[start : start + _WIDTH].expandtabs(1))
    before = shown[: max(0, column - 1 - start)]
    return head + shown + tail, len(head) + sum(_cells(character) for character in before)


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _printable(text: str) -> str:
    """The text without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() or c == " " else "\N{REPLACEMENT CHARACTER}" for c in text)
