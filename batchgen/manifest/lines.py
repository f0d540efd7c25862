"""A file that a manifest names, line by line, with the faults of its own lines."""

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

    from batchgen.manifest.diagnostics import Faults
    from batchgen.manifest.model import NodePath

MOST_FAULTS = 20  # of one file; a file of another encoding would have thousands


class TooMany(Exception):
    """The file has so many faults that the rest is not read."""


class Broken(Exception):
    """The file cannot be read on; why is among the faults."""


@dataclass(slots=True, kw_only=True)
class LineFile:
    """One file, from its entry in the manifest."""

    file: Path
    name: str  # as messages name it
    path: NodePath  # of the entry
    key: str  # of the entry, which names the file
    faults: Faults
    digest: str = ""  # known once it is read
    said: int = 0  # faults so far

    def check_there(self) -> None:
        """Say what is wrong when the file cannot be read. Raises Broken."""
        at = (*self.path, self.key)
        try:
            there, folder = self.file.is_file(), self.file.is_dir()
        except (OSError, ValueError):
            there = folder = False
        if folder:
            self.faults.add(at, f"{self.name} is a folder.", "Name one prompt file.")
        elif not there and self.file.exists():
            self.faults.add(at, f"{cut(self.name)} is no ordinary file.", "Name a file that holds the prompts.")
        elif not there:
            try:
                names = [other.name for other in self.file.parent.iterdir()]
            except (OSError, ValueError):
                names = []
            guess = nearest(self.file.name, names)
            hint = f"Did you mean {guess}?" if guess else "Its path is relative to the manifest."
            self.faults.add(at, f"The file {cut(self.name)} does not exist.", hint)
        elif self.file.stat().st_size > encoding.MAX_BYTES:
            self.faults.add(at, f"{self.name} is larger than 64 MB.", "Split it into several files.")
        else:
            return
        raise Broken

    def lines(self) -> Iterator[str]:
        """The lines, decoded, their ends kept (as LF); what is no UTF-8 is said and ends the reading."""
        mould = hashlib.sha256()
        with self.file.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                mould.update(raw)
                if number == 1:
                    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                        self.fault(1, 1, "The file is in UTF-16.", "Save it as UTF-8.")
                        raise Broken
                    raw = raw.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901 - the line without its mark
                try:
                    line = raw.decode()
                except UnicodeDecodeError as error:
                    column = len(raw[: error.start].decode(errors="replace")) + 1
                    message = f"The byte 0x{raw[error.start]:02x} is not UTF-8."
                    self.fault(number, column, message, "Save the file as UTF-8.")
                    raise Broken from None
                yield line[:-2] + "\n" if line.endswith("\r\n") else line
        self.digest = mould.hexdigest()

    def place(self, line: int, column: int = 0) -> SourceLocation:
        """A place of the file."""
        return SourceLocation(file=self.name, line=line, column=column)

    def fault(self, line: int, column: int, message: str, hint: str = "", also: Sequence[NodePath] = ()) -> None:
        """One more, at a place of the file; after many of them the reading ends. Raises TooMany."""
        self.faults.add(self.path, message, hint, place=self.place(line, column), also=also)
        self.said += 1
        if self.said >= MOST_FAULTS:
            self.faults.add(self.path, "The file has more faults than are listed here.", place=self.place(line))
            raise TooMany
