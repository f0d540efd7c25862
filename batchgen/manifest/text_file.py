"""A file that a manifest names, line by line, with the errors of its own lines."""

from __future__ import annotations

import codecs
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchgen.errors import SourceLocation
from batchgen.manifest.diagnostics import cut, nearest
from batchgen.source import encoding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from batchgen.manifest.diagnostics import Diagnostics
    from batchgen.manifest.model import NodePath

MOST_ERRORS = 20  # of one file; a file of another encoding would have thousands


class ReadingEnded(Exception):
    """The rest of the file is not read; why is among the problems."""


def reason_missing(file: Path, name: str) -> tuple[str, str] | None:
    """Why a file that a manifest names cannot be read, if so: message and hint."""
    try:
        if file.is_file():
            return None
        if file.is_dir():
            return f"{name} is a folder.", "Name one file of it."
        if file.exists():
            return f"{name} is no ordinary file.", "Name a file."
        guess = nearest(file.name, [other.name for other in file.parent.iterdir()])
    except (OSError, ValueError):
        guess = ""
    hint = f"Did you mean {guess}?" if guess else "Its path is relative to the manifest."
    return f"The file {name} does not exist.", hint


@dataclass(slots=True, kw_only=True)
class TextFile:
    """One file, from its entry in the manifest."""

    file: Path
    name: str  # as messages name it
    path: NodePath  # of the entry
    key: str  # of the entry, which names the file
    diagnostics: Diagnostics
    digest: str = ""  # known once it is read
    errors: int = 0  # so far

    def check_exists(self) -> None:
        """Report why the file cannot be read, if so. Raises ReadingEnded."""
        problem = reason_missing(self.file, cut(self.name))
        if problem is None and self.file.stat().st_size > encoding.MAX_BYTES:
            problem = f"{self.name} is larger than 64 MB.", "Split it into several files."
        if problem is not None:
            self.diagnostics.add((*self.path, self.key), *problem)
            raise ReadingEnded

    def lines(self) -> Iterator[str]:
        """The lines, decoded, with LF at their ends. Raises ReadingEnded at the first that is not UTF-8."""
        hasher = hashlib.sha256()
        with self.file.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                hasher.update(raw)
                if number == 1:
                    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                        self.fault(1, 1, "The file is in UTF-16.", "Save it as UTF-8.")
                        raise ReadingEnded
                    raw = raw.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901 - the line without its mark
                try:
                    line = raw.decode()
                except UnicodeDecodeError as error:
                    column = len(raw[: error.start].decode(errors="replace")) + 1
                    message = f"The byte 0x{raw[error.start]:02x} is not UTF-8."
                    self.fault(number, column, message, "Save the file as UTF-8.")
                    raise ReadingEnded from None
                yield line[:-2] + "\n" if line.endswith("\r\n") else line
        self.digest = hasher.hexdigest()

    def place(self, line: int, column: int = 0) -> SourceLocation:
        """A location in the file."""
        return SourceLocation(file=self.name, line=line, column=column)

    def fault(self, line: int, column: int, message: str, hint: str = "", also: Sequence[NodePath] = ()) -> None:
        """Report an error of the file. Raises ReadingEnded after many of them."""
        self.diagnostics.add(self.path, message, hint, place=self.place(line, column), also=also)
        self.errors += 1
        if self.errors >= MOST_ERRORS:
            self.diagnostics.add(self.path, "The file has more errors than are listed here.", place=self.place(line))
            raise ReadingEnded
