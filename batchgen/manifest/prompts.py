"""Prompts and the files they come from: .txt, .csv, .tsv, .jsonl and .yaml.

Files are read line by line, so that of a million prompts only their texts are held. A fault names the
file's own line.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchgen import document, encoding, templates
from batchgen.catalog import builtin
from batchgen.errors import CommandError, ManifestInvalid, Place
from batchgen.manifest import schema
from batchgen.manifest.faults import cut, listed, nearest
from batchgen.manifest.model import NodePath, Prompts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from batchgen.document import Value
    from batchgen.manifest.faults import Faults
    from batchgen.manifest.model import Settings

KINDS = (".txt", ".csv", ".tsv", ".jsonl", ".yaml")
MOST_FAULTS = 20  # of one file; a file of another encoding would have thousands
LONGEST_ID = 80


def fault_of(text: str, *, rendered: bool = False) -> tuple[str, str] | None:
    """What is wrong with a prompt's text, if anything: message and hint."""
    if bad := encoding.CONTROL.search(text):
        return encoding.character_fault(bad.group())
    if not text or text.isspace():
        return ("The rendered prompt is empty." if rendered else "The prompt is empty."), "Write what to show."
    most = builtin().limits.prompt_characters
    if len(text) > most and (rendered or not templates.is_template(text)):
        what = "The rendered prompt" if rendered else "The prompt"
        return f"{what} is {len(text):,} characters long.", f"It may have at most {most:,}; shorten it."
    return None


@dataclass(slots=True, kw_only=True)
class _Rows:
    """What was read so far."""

    texts: list[str] = field(default_factory=list)
    ids: list[str | None] = field(default_factory=list)
    lines: array[int] = field(default_factory=lambda: array("I"))
    settings: dict[int, Settings] = field(default_factory=dict)


class _TooMany(Exception):
    pass


class _Broken(Exception):
    pass


@dataclass(slots=True, kw_only=True)
class PromptFile:
    """One prompt file, from its entry in the manifest."""

    file: Path
    name: str  # as messages name it
    path: NodePath  # of the entry
    column: str | None
    id_column: str | None
    faults: Faults
    settings_of: Callable[[Mapping[str, Value], document.Document, NodePath, NodePath], Settings]
    digest: str = ""
    _rows: _Rows = field(default_factory=_Rows)
    _said: int = 0

    def read(self, settings: Settings) -> Prompts | None:
        """Its prompts; None where there are none, which is then among the faults."""
        kind = self.file.suffix.lower()
        readers: dict[str, Callable[[], None]] = {
            ".txt": self._read_txt,
            ".csv": self._read_csv,
            ".tsv": self._read_tsv,
            ".jsonl": self._read_jsonl,
            ".yaml": self._read_yaml,
            ".yml": self._read_yaml,
        }
        if kind not in readers:
            what = f"A prompt file cannot be of the kind {kind or 'without an ending'}."
            self.faults.add((*self.path, "from"), what, f"It may be {listed(KINDS)}.")
            return None
        before = self.faults.errors
        try:
            self._check_there()
            readers[kind]()
        except (_TooMany, _Broken):
            return None
        except OSError as error:
            self.faults.add((*self.path, "from"), f"{self.name} cannot be read: {error.strerror or error}.")
            return None
        if not self._rows.texts and self.faults.errors == before:
            self.faults.add((*self.path, "from"), f"The file {self.name} holds no prompt.", "Write some into it.")
        if not self._rows.texts:
            return None
        rows = self._rows
        ids = rows.ids if any(name is not None for name in rows.ids) else None
        return Prompts(
            texts=rows.texts,
            ids=ids,
            settings=settings,
            row_settings=rows.settings,
            path=self.path,
            file=self.name,
            lines=rows.lines,
        )

    # --- bytes to lines

    def _check_there(self) -> None:
        at = (*self.path, "from")
        try:
            there, folder = self.file.is_file(), self.file.is_dir()
        except (OSError, ValueError):
            there = folder = False
        if folder:
            self.faults.add(at, f"{self.name} is a folder.", "Name one prompt file.")
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
        raise _Broken

    def _lines(self) -> Iterator[str]:
        """The lines, decoded, their ends kept (as LF); what is no UTF-8 is said and ends the reading."""
        mould = hashlib.sha256()
        with self.file.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                mould.update(raw)
                if number == 1:
                    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                        self._fault(1, 1, "The file is in UTF-16.", "Save it as UTF-8.")
                        raise _Broken
                    raw = raw.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901 - the line without its mark
                try:
                    line = raw.decode()
                except UnicodeDecodeError as error:
                    column = len(raw[: error.start].decode(errors="replace")) + 1
                    message = f"The byte 0x{raw[error.start]:02x} is not UTF-8."
                    self._fault(number, column, message, "Save the file as UTF-8.")
                    raise _Broken from None
                yield line[:-2] + "\n" if line.endswith("\r\n") else line
        self.digest = mould.hexdigest()

    def _fault(self, line: int, column: int, message: str, hint: str = "") -> None:
        place = Place(file=self.name, line=line, column=column)
        self.faults.add(self.path, message, hint, place=place)
        self._said += 1
        if self._said >= MOST_FAULTS:
            place = Place(file=self.name, line=line)
            self.faults.add(self.path, "The file has more faults than are listed here.", place=place)
            raise _TooMany

    # --- lines to prompts

    def _take(self, text: str, name: str | None, line: int, column: int = 0) -> None:
        """One more prompt, unless something is wrong with it."""
        fault = fault_of(text)
        if fault is None and name is not None:
            fault = self._id_fault(name)
        if fault is not None:
            self._fault(line, column, *fault)
            return
        self._rows.texts.append(text)
        self._rows.ids.append(name)
        self._rows.lines.append(line)

    def _id_fault(self, name: str) -> tuple[str, str] | None:
        if not name.strip():
            return f"The column `{self.id_column}` is empty here.", "Every row needs a name there."
        if len(name) > LONGEST_ID:
            return f"The name is {len(name)} characters long.", f"It may have at most {LONGEST_ID}."
        if encoding.CONTROL.search(name) or "\n" in name:
            return "The name holds a control character or a line break.", "Take it out."
        return None

    def _read_txt(self) -> None:
        for key in ("column", "id"):
            if (self.column if key == "column" else self.id_column) is not None:
                hint = "Take the key out, or use a .csv, .tsv or .jsonl file."
                self.faults.add((*self.path, key), "A .txt file has no columns.", hint, key=True)
        for number, line in enumerate(self._lines(), 1):
            if not line.isspace():
                self._take(line.removesuffix("\n"), None, number)

    def _read_tsv(self) -> None:
        rows = ((number, line.removesuffix("\n").split("\t")) for number, line in enumerate(self._lines(), 1))
        self._read_table((number, cells) for number, cells in rows if cells != [""])

    def _read_csv(self) -> None:
        self._read_table(self._csv_rows())

    def _csv_rows(self) -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(self._lines(), strict=True)
        begin = 1
        try:
            for cells in reader:
                if cells:
                    yield begin, cells
                begin = reader.line_num + 1
        except csv.Error as error:
            message = f"This row is not CSV: {error}."
            self._fault(begin, 0, message, 'A cell with a comma, a quote or a line break stands in "…", quotes twice.')
            raise _Broken from None

    def _read_table(self, rows: Iterable[tuple[int, list[str]]]) -> None:
        iterator = iter(rows)
        first = next(iterator, None)
        if first is None:
            return
        header = [name.strip() for name in first[1]]
        at, id_at = self._columns(header, first[0])
        for number, cells in iterator:
            if len(cells) != len(header):
                message = f"This row has {len(cells)} cells; the header has {len(header)}."
                self._fault(number, 0, message, "Quote a cell that holds the separator, or complete the row.")
                continue
            self._take(cells[at], None if id_at is None else cells[id_at], number)

    def _columns(self, header: list[str], line: int) -> tuple[int, int | None]:
        doubled = [name for number, name in enumerate(header) if name in header[:number]]
        if doubled:
            self._fault(line, 0, f"The column `{cut(doubled[0])}` is there twice.", "Rename one of the two.")
            raise _Broken
        at = self._column(self.column, header, "column")
        id_at = self._column(self.id_column, header, "id") if self.id_column is not None else None
        return at, id_at

    def _column(self, wanted: str | None, header: list[str], key: str) -> int:
        """The number of a column; without a wish `prompt`, or the only one."""
        name = "prompt" if wanted is None else wanted
        if name in header:
            return header.index(name)
        folded = [other.casefold() for other in header]
        if folded.count(name.casefold()) == 1:
            return folded.index(name.casefold())
        if wanted is None and len(header) == 1 and not {";", "\t"} & set(header[0]):
            return 0
        guess = nearest(name, header)
        hint = f"Did you mean `{guess}`? " if guess and wanted is not None else ""
        if len(header) == 1 and ";" in header[0]:
            hint = "It seems to be separated by semicolons: save it with commas. "
        elif len(header) == 1 and "\t" in header[0]:
            hint = "It seems to be separated by tabs: call it .tsv. "
        where = (*self.path, key) if wanted is not None else (*self.path, "from")
        ask = "" if wanted is not None else "Name the column of the prompts with `column`. "
        message = f"{self.name} has no column `{cut(name)}`."
        self.faults.add(where, message, f"{hint}{ask}There is {listed([f'`{cut(h, 30)}`' for h in header])}.")
        raise _Broken

    def _read_jsonl(self) -> None:
        for number, line in enumerate(self._lines(), 1):
            if line.isspace():
                continue
            try:
                value = json.loads(line, object_pairs_hook=_object)
            except (ValueError, RecursionError) as error:
                column = getattr(error, "colno", 0)
                said = getattr(error, "msg", None) or (str(error) if isinstance(error, ValueError) else "too deep")
                self._fault(number, column, f"This line is not JSON: {said}.", "Each line is a text or an object.")
                continue
            self._take_json(value, number)

    def _take_json(self, value: Value, number: int) -> None:
        if isinstance(value, str):
            if self.id_column is not None:
                hint = 'Write {"prompt": "…", "id": "…"}.'
                self._fault(number, 0, f"This line is a text, without the key `{self.id_column}`.", hint)
                return
            self._take_text(value, None, number)
        elif isinstance(value, dict):
            self._take_object(value, number)
        else:
            self._fault(number, 0, "This line is neither a text nor an object.", 'Write "…" or {"prompt": "…"}.')

    def _take_object(self, value: Mapping[str, Value], number: int) -> None:
        found: list[str | None] = []
        for wanted in (self.column or "prompt", self.id_column):
            if wanted is None:
                found.append(None)
                continue
            key = wanted if wanted in value else nearest(wanted, value) if self.column is None else wanted
            if key not in value or key.casefold() != wanted.casefold():
                guess = nearest(wanted, value)
                hint = f"Did you mean `{guess}`?" if guess else f"It has {listed(value) or 'no keys'}."
                self._fault(number, 0, f"This object has no key `{cut(wanted)}`.", hint)
                return
            if not isinstance(value[key], str):
                self._fault(number, 0, f"The key `{cut(key)}` holds no text.", "Write it in quotes.")
                return
            found.append(value[key])
        self._take_text(str(found[0]), found[1], number)

    def _take_text(self, text: str, name: str | None, number: int) -> None:
        for part in (text, name or ""):
            if any("\ud800" <= character <= "\udfff" for character in part):
                self._fault(number, 0, "There is half a character (a lone surrogate) here.", "Take it out.")
                return
        self._take(text, name, number)

    def _read_yaml(self) -> None:
        try:
            data = encoding.load_bytes(self.file, self.name)
            self.digest = hashlib.sha256(data).hexdigest()
            found = document.parse(encoding.decode(data, self.name), self.name)
        except ManifestInvalid as error:
            for problem in error.problems:
                self.faults.add(self.path, problem.message, problem.hint, place=problem.place, also=problem.also)
            raise _Broken from None
        except CommandError as error:
            self.faults.add((*self.path, "from"), str(error))
            raise _Broken from None
        if not isinstance(found.value, list):
            self._fault(1, 1, "The file must be a list of prompts.", "Begin each prompt with a dash.")
            return
        faults = [] if self.column or self.id_column else schema.check(found.value, "entry_prompt")
        for fault in faults:
            place = found.place(fault.path, key=fault.key)
            self._fault(place.line, place.column, fault.message, fault.hint)
        for number, entry in enumerate(schema.cleaned(found.value, faults)):
            self._take_entry(entry, number, found)

    def _take_entry(self, entry: Value, number: int, found: document.Document) -> None:
        place = found.place((number,))
        if isinstance(entry, dict):
            if "from" in entry:
                self._fault(
                    place.line, place.column, "A prompt file cannot name another.", "Name both in the manifest."
                )
                return
            if self.column or self.id_column:
                row = {key: found.written((number, key)) for key in entry}
                self._take_object(row, place.line)
                return
            if "prompt" not in entry:
                return
            text = found.written((number, "prompt")) or ""
            name = found.written((number, "id")) if entry.get("id") is not None else None
            size = len(self._rows.texts)
            self._take(text, name, place.line, place.column)
            settings = self.settings_of(entry, found, (number,), self.path)
            if settings and len(self._rows.texts) > size:
                self._rows.settings[size] = settings
        elif isinstance(entry, (str, int, float, bool)) or entry is None:
            self._take(found.written((number,)) or "", None, place.line, place.column)
        elif isinstance(entry, list):
            self._fault(place.line, place.column, "A prompt cannot be a list.", "Write it as a text.")


def _object(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    """A JSON object whose keys differ. Raises ValueError."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is given twice")
    return value
