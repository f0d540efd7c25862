"""A file of prompts or rows as one stream, whatever its format: .txt, .csv, .tsv, .jsonl or .yaml."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from batchgen.errors import SourceLocation
from batchgen.manifest import schema
from batchgen.manifest.diagnostics import cut, listed, nearest
from batchgen.source import document, encoding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from batchgen.manifest.diagnostics import Diagnostics
    from batchgen.manifest.model import NodePath, Settings
    from batchgen.source.document import Document, Value

KINDS = (".txt", ".csv", ".tsv", ".jsonl", ".yaml")
MOST_ERRORS = 20  # of one file; a file of another encoding would have thousands
_GUESSED = {";": "semicolons", "\t": "tabs"}
_SURROGATE = re.compile("[\ud800-\udfff]")


class ReadingEnded(Exception):
    """The rest of the file is not read; why is among the problems."""


class Row(NamedTuple):
    """A prompt alone, or values by column; and where it stands. The last three are of a prompt alone."""

    line: int
    content: str | Mapping[str, Value]
    column: int = 0
    id: str | None = None
    settings: Settings | None = None
    labels: Mapping[str, str] | None = None


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
class RowFile:
    """One file, from its entry in the manifest."""

    file: Path
    name: str  # as messages name it
    path: NodePath  # of the entry
    key: str  # of the entry, which names the file
    diagnostics: Diagnostics
    settings_of: Callable[[Mapping[str, Value], Document, NodePath, NodePath], Settings]
    delimiter: str | None = None  # between the cells of a table; None: as its ending says, or as its header shows
    digest: str = ""  # known once it is read
    guessed: str = ""  # what separates its cells, where that was seen in its header
    errors: int = 0  # so far

    @property
    def kind(self) -> str:
        """Its ending."""
        return self.file.suffix.lower().replace(".yml", ".yaml")

    @property
    def is_table(self) -> bool:
        """Whether all its rows have the columns of its header."""
        return self.kind in {".csv", ".tsv"}

    def rows(self, *, words: frozenset[str] | None) -> Iterator[Row]:
        """Its rows. Of YAML, null under `words` is a word; with None, its entries are prompts with settings.

        Raises ReadingEnded, and CommandError for a file that cannot be read or decoded.
        """
        if self.kind not in KINDS:
            what = f"A prompt file cannot be of the kind {self.kind or 'without an ending'}."
            self.refuse(self.key, what, f"It may be {listed(KINDS)}.")
        if problem := reason_missing(self.file, cut(self.name)):
            self.refuse(self.key, *problem)
        data = encoding.load_bytes(self.file, self.name)
        self.digest = hashlib.sha256(data).hexdigest()
        text = encoding.decode(data, self.name)  # all of it, before the first row is taken
        if self.kind == ".yaml":
            return self._of_yaml(document.parse(text, self.name), words)
        stream = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline="\n")
        lines = (f"{line[:-2]}\n" if line.endswith("\r\n") else line for line in stream)
        if self.kind == ".txt":
            return (Row(n, line.removesuffix("\n")) for n, line in enumerate(lines, 1) if not line.isspace())
        return self._of_json(lines) if self.kind == ".jsonl" else self._of_table(self._separated(lines))

    # --- formats

    def _separated(self, lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
        if self.kind == ".csv" or self.delimiter is not None:
            header = next(lines, "")
            reader = csv.reader(chain([header], lines), delimiter=self.delimiter or self._guess(header), strict=True)
        else:
            reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        begin = 1
        try:
            for cells in reader:
                if cells and (len(cells) == 1 or any(cells)):  # spreadsheets write blank lines as empty cells
                    yield begin, cells
                begin = reader.line_num + 1
        except csv.Error as error:
            hint = 'Quote a cell with a comma, a quote or a line break: "…"; double each quote in it.'
            self.fault(begin, 0, f"This row is not CSV: {error}.", hint)
            raise ReadingEnded from None

    def _guess(self, header: str) -> str:
        """The delimiter of a .csv file: spreadsheets of many countries write semicolons, some write tabs."""
        cells = {delimiter: len(next(csv.reader([header], delimiter=delimiter), ())) for delimiter in (",", *_GUESSED)}
        best = max(_GUESSED, key=lambda delimiter: cells[delimiter])
        if cells[best] <= cells[","]:
            return ","
        self.guessed = f"It is read as separated by {_GUESSED[best]}, as its header is."
        hint = f"Add `delimiter: {json.dumps(best)}` to say so yourself, or save it with commas."
        message = f"{self.name} is separated by {_GUESSED[best]}, not by commas; it is read so."
        self.diagnostics.add((*self.path, self.key), message, hint, warning=True)
        return best

    def _of_table(self, rows: Iterator[tuple[int, list[str]]]) -> Iterator[Row]:
        first, names = next(rows, (1, []))
        header = [name.strip() for name in names]
        if doubled := [name for name, times in Counter(header).items() if times > 1]:
            self.fault(first, 0, f"The column `{cut(doubled[0])}` is there twice.", "Rename one of the two.")
            raise ReadingEnded
        for line, cells in rows:
            if len(cells) == len(header):
                yield Row(line, dict(zip(header, cells, strict=True)))
            else:
                message = f"This row has {len(cells)} cells; the header has {len(header)}."
                self.fault(line, 0, message, "Quote a cell that holds the separator, or complete the row.")

    def _of_json(self, lines: Iterator[str]) -> Iterator[Row]:
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            try:
                value = _JSON.decode(line)
            except (ValueError, RecursionError) as error:
                column = getattr(error, "colno", 0)
                why = getattr(error, "msg", None) or (str(error) if isinstance(error, ValueError) else "too deep")
                self.fault(number, column, f"This line is not JSON: {why}.", "Each line is a text or an object.")
                continue
            if not isinstance(value, dict) and not line.lstrip().startswith('"'):
                self.fault(number, 0, "This line is neither a text nor an object.", 'Write "…" or {"prompt": "…"}.')
            elif "\\u" in line and _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
                self.fault(number, 0, "There is half a character (a lone surrogate) here.", "Remove it.")
            else:
                yield Row(number, value)

    def _of_yaml(self, found: Document, words: frozenset[str] | None) -> Iterator[Row]:
        """Its entries as they are written; null is an empty cell, but under `words`."""
        if not isinstance(found.value, list):
            self.fault(1, 1, "The file must be a list of prompts.", "Begin each prompt with a dash.")
            raise ReadingEnded
        for number, entry in enumerate(self._checked(found) if words is None else found.value):
            place = found.place((number,))
            if isinstance(entry, list):
                self.fault(place.line, place.column, "A prompt cannot be a list.", "Write it as a text.")
            elif not isinstance(entry, dict):
                if entry is not schema.INVALID:
                    yield Row(place.line, found.written((number,)) or "", place.column)
            elif words is not None:
                cells = {
                    key: value
                    if isinstance(value, (dict, list)) or (value is None and key not in words)
                    else found.written((number, key))
                    for key, value in entry.items()
                }
                yield Row(place.line, cells, place.column)
            elif "from" in entry or "rows" in entry:
                message = "A prompt file cannot name another."
                self.fault(place.line, place.column, message, "Name both in the manifest.")
            elif "prompt" in entry:
                name = None if entry.get("id") is None else found.written((number, "id"))
                settings = self.settings_of(entry, found, (number,), self.path)
                yield Row(
                    place.line,
                    found.written((number, "prompt")) or "",
                    place.column,
                    name,
                    settings,
                    _labels(entry, found, number),
                )

    def _checked(self, found: Document) -> Sequence[Value]:
        """The entries without what the schema refuses, which is reported."""
        refused = schema.check(found.value, "entry_prompt")
        for fault in refused:
            place = found.place(fault.path, key=fault.key)
            self.fault(place.line, place.column, fault.message, fault.hint)
        entries: list[Value] = schema.cleaned(found.value, refused)
        return entries

    # --- errors

    def place(self, line: int, column: int = 0) -> SourceLocation:
        """A location in the file."""
        return SourceLocation(file=self.name, line=line, column=column)

    def refuse(self, key: str, message: str, hint: str = "") -> None:
        """Report why the file is not read, at a key of its entry. Raises ReadingEnded."""
        self.diagnostics.add((*self.path, key), message, hint)
        raise ReadingEnded

    def fault(self, line: int, column: int, message: str, hint: str = "") -> None:
        """Report an error of the file. Raises ReadingEnded after many of them."""
        self.diagnostics.add(self.path, message, hint, place=self.place(line, column))
        self.errors += 1
        if self.errors >= MOST_ERRORS:
            self.diagnostics.add(self.path, "The file has more errors than are listed here.", place=self.place(line))
            raise ReadingEnded


def _labels(entry: Mapping[str, Value], found: Document, number: int) -> Mapping[str, str] | None:
    """The labels of an entry, as they are written; of a prompt there are no columns."""
    given = entry.get("labels")
    return {k: found.written((number, "labels", k)) or "" for k in given} if isinstance(given, dict) else None


def _object(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    """A JSON object whose keys differ. Raises ValueError."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is given twice")
    return value


# Numbers are kept as they are written.
_JSON = json.JSONDecoder(object_pairs_hook=_object, parse_int=str, parse_float=str, parse_constant=str)
