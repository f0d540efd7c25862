r"""Writes everything that is printed, so that no text from a gateway, a file or a command line controls the terminal.

Characters that could (ESC, BEL, other control characters, bidirectional overrides, lone surrogates) are written as
`\u001b`: visible in a sentence, and exact in JSON.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
import unicodedata
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO, cast

from batchgen.formatting import utc
from batchgen.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and line feed; \x9b is another ESC [
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # change the direction of text
    "\u2028\u2029\ud800-\udfff]"
)
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")


def harmless(text: str) -> str:
    """The text with an escape in place of each character that could control a terminal."""
    return _CONTROLS.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    units = found.group().encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def cells(text: str) -> int:
    """How many cells of a terminal the text takes: wide characters take two, marks on others none."""
    return sum(map(_cells, text))


def _cells(character: str) -> int:
    if unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """The text on one line, as it is written to a terminal, in at most so many cells; an ellipsis ends what is cut."""
    text = harmless(" ".join(text.split("\n")))
    if len(text) <= width // 2 or cells(text) <= width:
        return text
    taken, left = 0, width - 1
    while left >= (taken_by := _cells(text[taken])):
        taken, left = taken + 1, left - taken_by
    return f"{text[:taken]}…" if width > 0 else ""


def record(**fields: object) -> str:
    """A line of a log as JSON, with the time."""
    return harmless(json.dumps({"time": utc(), **fields}, ensure_ascii=False, default=str))


def write(stream: TextIO, text: str) -> None:
    """Write to a stream, with escapes for characters that its encoding lacks. A closed terminal is no error."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        stream.write(_BEYOND_ASCII.sub(_escaped, text))
    except OSError as error:
        _leave_closed_terminal(stream, error)


def flush(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError as error:
        _leave_closed_terminal(stream, error)


def _leave_closed_terminal(stream: TextIO, error: OSError) -> None:
    """Discard what is still buffered for a closed terminal: it would fail again when Python exits."""
    if error.errno != errno.EIO:
        raise error
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


class HarmlessStream(io.TextIOBase):
    """Standard output or standard error while a command runs; `beneath` is the real one.

    `as_records` makes each message a line of JSON. A `lenient` stream ignores every error of the stream beneath.
    """

    encoding = "utf-8"  # of what it accepts; characters that the stream beneath lacks are escaped

    def __init__(self, beneath: TextIO, *, as_records: bool = False, lenient: bool = False) -> None:
        self.beneath = beneath
        self.as_records = as_records
        self._ignored = (OSError, ValueError) if lenient else ()
        self._partial = ""  # a message whose line has not ended

    def write(self, text: str) -> int:
        """Write a text, with escapes for control characters."""
        if self.as_records:
            self._partial += text
            if self._partial.endswith("\n"):
                self._end_record()
        else:
            self._put(harmless(text))
        return len(text)

    def _end_record(self) -> None:
        message, self._partial = self._partial.strip(), ""
        if message:
            self._put(record(level="error", message=message) + "\n")

    def _put(self, text: str) -> None:
        with suppress(*self._ignored):
            write(self.beneath, redact(text))

    def flush(self) -> None:
        with suppress(*self._ignored):
            flush(self.beneath)

    def end(self) -> None:
        """Write a message whose line has not ended."""
        self._end_record()
        self.flush()

    def close(self) -> None:
        """Leave the stream beneath open."""

    def isatty(self) -> bool:
        return self.beneath.isatty()

    def fileno(self) -> int:
        return self.beneath.fileno()

    def writable(self) -> bool:
        return True


def is_log(stream: TextIO) -> bool:
    """Whether each line of the stream is a record of a log, in JSON."""
    return isinstance(stream, HarmlessStream) and stream.as_records


def beneath(stream: TextIO) -> TextIO:
    """The real stream, for callers that draw on a terminal and escape what they draw."""
    return stream.beneath if isinstance(stream, HarmlessStream) else stream


@contextmanager
def guarded(*, as_records: bool = False) -> Iterator[None]:
    """Route everything that is printed through here; with `as_records`, standard error becomes lines of JSON."""
    before = sys.stdout, sys.stderr
    output = HarmlessStream(before[0])
    errors = HarmlessStream(before[1], as_records=as_records, lenient=True)
    sys.stdout, sys.stderr = cast(TextIO, output), cast(TextIO, errors)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        errors.end()
