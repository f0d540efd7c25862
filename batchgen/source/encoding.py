"""Files as text: bytes that must be UTF-8, and the characters that neither a manifest nor a prompt may contain."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

from batchgen.errors import CommandError, Diagnostic, ManifestInvalid, SourceLocation

MAX_BYTES = 64 * 1024 * 1024

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # C0 and C1 but tab and newline; half characters
_RAW_REFUSED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]|\r(?!\n)|[\ud800-\udfff]")
LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # as libyaml counts lines
_MOST_LISTED = 20


def load_bytes(path: Path | str, file: str) -> bytes:
    """A file's bytes, at most 64 MB of them. Raises CommandError, with `file` as its name."""
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise CommandError(f"{file} does not exist.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CommandError(f"{file} cannot be read: {reason}.") from error
    if len(data) > MAX_BYTES:
        hint = "Split it, or put the prompts into several files."
        raise ManifestInvalid([problem_at(SourceLocation(file=file), "The file is larger than 64 MB.", hint)])
    return data


def decode(data: bytes, file: str) -> str:
    """Bytes as UTF-8, without a byte order mark. Raises ManifestInvalid with line and column."""
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        place = SourceLocation(file=file, line=1, column=1)
        raise ManifestInvalid([problem_at(place, "The file is in UTF-16.", "Save it as UTF-8.")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n")
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace").lstrip("\ufeff"))
        place = SourceLocation(file=file, line=line + 1, column=column + 1)
        message = f"The byte 0x{data[error.start]:02x} is not UTF-8."
        raise ManifestInvalid([problem_at(place, message, "Save the file as UTF-8.")]) from None


def refuse_raw(text: str, file: str) -> None:
    """Refuse characters that YAML does not allow unescaped. Raises ManifestInvalid, with the first twenty places."""
    problems = []
    for match in islice(_RAW_REFUSED.finditer(text), _MOST_LISTED):
        before = text[: match.start()]
        ends = list(LINE_END.finditer(before))
        start = ends[-1].end() if ends else 0
        place = SourceLocation(file=file, line=len(ends) + 1, column=match.start() - start + 1)
        problems.append(problem_at(place, *character_fault(match.group()[0])))
    if problems:
        raise ManifestInvalid(problems)


def character_fault(character: str) -> tuple[str, str]:
    """The error of a character that is not allowed: message and hint."""
    code = f"U+{ord(character):04X}"
    if character in "\u2028\u2029":
        return f"The character {code} is a line break to YAML.", r'Remove it, or write it as "\L" or "\P".'
    if character == "\r":
        return "There is a carriage return alone here.", "Save the file with LF or CR-LF line ends."
    if "\ud800" <= character <= "\udfff":
        return f"{code} is half a character (a lone surrogate).", "Remove it."
    return f"The control character {code} is not allowed.", "Remove it; tab and newline are allowed."


def problem_at(place: SourceLocation, message: str, hint: str = "", *also: SourceLocation) -> Diagnostic:
    """An error that has a place and no path."""
    return Diagnostic(place=place, path="", message=message, hint=hint, also=also)
