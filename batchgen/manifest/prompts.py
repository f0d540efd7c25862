"""Prompts and the files they come from: .txt, .csv, .tsv, .jsonl and .yaml.

Every format is a stream of rows, each with its line; a row is a text alone, or values under the keys that the manifest
names. Of a million prompts only their texts are held, and of a table that fills a template only the columns it uses.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchgen.errors import CommandError, ManifestInvalid
from batchgen.manifest import schema
from batchgen.manifest.diagnostics import cut, listed, nearest
from batchgen.manifest.model import NodePath, Prompts
from batchgen.manifest.text_file import ReadingEnded, TextFile
from batchgen.manifest.texts import fault_of, name_fault
from batchgen.manifest.where import Where
from batchgen.source import document, encoding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from batchgen.manifest.model import Match, Settings
    from batchgen.source.document import Document, Value

KINDS = (".txt", ".csv", ".tsv", ".jsonl", ".yaml")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(slots=True, kw_only=True)
class PromptFile(TextFile):
    """One file of prompts (`from`), or one table whose rows fill a template (`rows`)."""

    column: str | None
    id_column: str | None
    settings_of: Callable[[Mapping[str, Value], Document, NodePath, NodePath], Settings]
    template: str | None = None  # with `rows`: what each row fills
    uses: frozenset[str] = frozenset()  # the names in the template
    where: Mapping[str, tuple[Match, ...]] = field(default_factory=dict)
    _texts: list[str] = field(default_factory=list)
    _ids: list[str | None] = field(default_factory=list)
    _lines: array[int] = field(default_factory=lambda: array("I"))
    _settings: dict[int, Settings] = field(default_factory=dict)  # of single prompts
    _cells: list[tuple[str, ...]] = field(default_factory=list)
    _header: tuple[str, ...] = ()
    _used: tuple[str, ...] | None = None  # the columns that the template uses; None: no row was read
    _wanted: list[tuple[str, NodePath]] = field(init=False)  # keys of a row, each with what asks for it
    _filter: Where = field(init=False)

    def __post_init__(self) -> None:
        """Determine what is read of each row: the keys of `where`, then prompt and id."""
        self._filter = Where(self.where)
        self._wanted = [(name, (*self.path, "where", name)) for name in self.where]
        if self.template is None:
            asked_by = self.key if self.column is None else "column"
            self._wanted.append((self.column or "prompt", (*self.path, asked_by)))
        if self.id_column is not None:
            self._wanted.append((self.id_column, (*self.path, "id")))

    def read(self, settings: Settings) -> Prompts | None:
        """Its prompts; None where there are none, which is then among the problems."""
        kind = self.file.suffix.lower()
        readers: dict[str, Callable[[], None]] = {
            ".txt": self._read_txt,
            ".csv": lambda: self._read_table(self._csv_rows()),
            ".tsv": lambda: self._read_table(self._tsv_rows()),
            ".jsonl": lambda: self._take_objects(self._json_objects()),
            ".yaml": self._read_yaml,
            ".yml": self._read_yaml,
        }
        if kind not in readers:
            what = f"A prompt file cannot be of the kind {kind or 'without an ending'}."
            self.diagnostics.add((*self.path, self.key), what, f"It may be {listed(KINDS)}.")
            return None
        before = self.diagnostics.errors
        try:
            self.check_exists()
            readers[kind]()
        except ReadingEnded:
            return None
        except OSError as error:
            self.diagnostics.add((*self.path, self.key), f"{self.name} cannot be read: {error.strerror or error}.")
            return None
        if self.diagnostics.errors == before:
            self._check_found()
        if not self._texts:
            return None
        return Prompts(
            texts=self._texts,
            ids=self._ids if any(name is not None for name in self._ids) else None,
            settings=settings,
            row_settings=self._settings,
            path=self.path,
            file=self.name,
            lines=self._lines,
            columns=self._used or (),
            cells=self._cells,
            header=self._header,
        )

    def _check_found(self) -> None:
        """Whether there is any prompt, and whether each value of `where` matched."""
        unmatched = self._filter.unmatched(self.name) if self._filter.rows_seen else []
        for column, number, message, hint in unmatched:
            at = (*self.path, "where", column) if number is None else (*self.path, "where", column, number)
            self.diagnostics.add(at, message, hint, warning=bool(self._texts))
        if self._texts or unmatched:
            return
        if self._filter.rows_seen:
            hint = "Each key matches some row, but none matches all."
            self.diagnostics.add((*self.path, "where"), f"No row of {self.name} matches.", hint)
        else:
            what = "prompt" if self.template is None else "row"
            self.diagnostics.add(
                (*self.path, self.key), f"The file {self.name} holds no {what}.", "Write some into it."
            )

    # --- from rows to prompts

    def _take(
        self, text: str, name: str | None, line: int, column: int = 0, cells: tuple[str, ...] | None = None
    ) -> None:
        """One more prompt, unless something is wrong with it."""
        fault = None if cells is not None else fault_of(text)  # a template's is seen when it is rendered
        if fault is None and name is not None:
            fault = name_fault(name, self.id_column)
        if fault is not None:
            self.fault(line, column, *fault)
            return
        self._texts.append(text)
        self._ids.append(name)
        self._lines.append(line)
        if cells is not None:
            self._cells.append(cells)

    def _take_values(self, values: Sequence[str], line: int, column: int = 0) -> None:
        """One row, its values in the order of `_keys`; unless `where` leaves it out."""
        at = len(self.where)
        if at and not self._filter.takes(values[:at]):
            return
        for value in values:
            if not value.isascii() and _SURROGATE.search(value):
                self.fault(line, column, "There is half a character (a lone surrogate) here.", "Remove it.")
                return
        text, name = self.template, None
        if text is None:
            text, at = values[at], at + 1
        if self.id_column is not None:
            name, at = values[at], at + 1
        self._take(text, name, line, column, None if self.template is None else tuple(values[at:]))

    def _take_objects(self, objects: Iterable[tuple[int, int, Mapping[str, Value]]]) -> None:
        """Rows that each bring their own keys; most have those of the row before."""
        header: tuple[str, ...] | None = None
        keys: list[str] = []
        for line, column, value in objects:
            if header != (own := tuple(value)):
                header = None
                if (found := self._keys(own, line, column)) is None:
                    continue
                header, keys = own, found
            values = [value[key] for key in keys]
            if all(isinstance(cell, str) for cell in values) or self._as_texts(values, keys, line, column):
                self._take_values(values, line, column)

    def _as_texts(self, values: list[Any], keys: Sequence[str], line: int, column: int) -> bool:
        """Make texts of null, true and false where they are cells; whether all values are texts then."""
        for number, cell in enumerate(values):
            is_cell = not len(self.where) <= number < len(self._wanted)  # neither a prompt nor an id
            if is_cell and (cell is None or isinstance(cell, bool)):
                values[number] = "" if cell is None else str(cell).lower()
            elif not isinstance(cell, str):
                also = [(*self.path, "prompt")] if number >= len(self._wanted) else []
                self.fault(line, column, f"The key `{cut(keys[number])}` holds no text.", "Write it in quotes.", also)
                return False
        return True

    # --- the keys of a row

    def _keys(self, header: Sequence[str], line: int, column: int = 0) -> list[str] | None:
        """What is read of a row with these keys; None where one is missing, which is then reported."""
        keys, known = [], set(header)
        for name, path in self._wanted:
            key = name if name in known else self._similar_key(name, path, header)
            if key is None:
                self._report_missing(name, path, header, line, column)
                return None
            keys.append(key)
        if self._used is None:
            self._header = tuple(header)
            self._used = tuple(sorted(self.uses & known))
            if self.template is not None and not self._used:
                guess = next((near for name in sorted(self.uses) if (near := nearest(name, header))), "")
                hint = f"Did you mean {{{{ {guess} }}}}? There is " if guess else "There is "
                message = f"The prompt names no column of {self.name}: every row would make the same images."
                at, also = (*self.path, "prompt"), [self.place(line)]
                self.diagnostics.add(at, message, f"{hint}{_shown(header)}.", also=also)
                raise ReadingEnded
        for name in self._used:
            if name not in known:
                self._report_missing(name, (*self.path, "prompt"), header, line, column)
                return None
        return [*keys, *self._used]

    def _similar_key(self, name: str, path: NodePath, header: Sequence[str]) -> str | None:
        """A key that differs in case only; for the prompt, unless a column is named, the only one of a table."""
        is_default = path[-1] == self.key
        similar = [key for key in header if key.casefold() == name.casefold()]
        if len(similar) == 1 and (is_default or self._is_table):
            return similar[0]
        is_only = is_default and self._is_table and len(header) == 1 and not {";", "\t"} & set(header[0])
        return header[0] if is_only else None

    def _report_missing(self, name: str, path: NodePath, header: Sequence[str], line: int, column: int) -> None:
        """Report a key that an object does not have, or a column that a table does not have."""
        guess = nearest(name, header)
        if not self._is_table:
            hint = f"Did you mean `{guess}`?" if guess else f"It has {listed(header) or 'no keys'}."
            also = [path] if path[-1] == "prompt" else []
            self.fault(line, column, f"This object has no key `{cut(name)}`.", hint, also)
            return
        is_default = path[-1] == self.key
        hint = f"Did you mean `{guess}`? " if guess and not is_default else ""
        if len(header) == 1 and ";" in header[0]:
            hint = "It seems to be separated by semicolons: save it with commas. "
        elif len(header) == 1 and "\t" in header[0]:
            hint = "It seems to be separated by tabs: call it .tsv. "
        ask = "Name the column of the prompts with `column`. " if is_default else ""
        message, is_key = f"{self.name} has no column `{cut(name)}`.", path[-2:-1] == ("where",)
        self.diagnostics.add(path, message, f"{hint}{ask}There is {_shown(header)}.", key=is_key)
        raise ReadingEnded

    # --- formats

    @property
    def _is_table(self) -> bool:
        return self.file.suffix.lower() in {".csv", ".tsv"}

    def _read_txt(self) -> None:
        asked = {"column": self.column, "id": self.id_column, "where": self.where or None}
        if self.template is not None:
            self.diagnostics.add(
                (*self.path, self.key), "A .txt file has no columns.", "Use a .csv, .tsv or .jsonl file."
            )
        for key in (key for key, value in asked.items() if value is not None):
            hint = "Remove the key, or use a .csv, .tsv or .jsonl file."
            self.diagnostics.add((*self.path, key), "A .txt file has no columns.", hint, key=True)
        if self.template is not None or self.where:
            raise ReadingEnded
        for number, line in enumerate(self.lines(), 1):
            if not line.isspace():
                self._take(line.removesuffix("\n"), None, number)

    def _tsv_rows(self) -> Iterator[tuple[int, list[str]]]:
        rows = ((number, line.removesuffix("\n").split("\t")) for number, line in enumerate(self.lines(), 1))
        return ((number, cells) for number, cells in rows if cells != [""])

    def _csv_rows(self) -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(self.lines(), strict=True)
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

    def _read_table(self, rows: Iterator[tuple[int, list[str]]]) -> None:
        line, names = next(rows, (0, None))
        if names is None:
            return
        header = [name.strip() for name in names]
        numbers = {name: number for number, name in reversed(list(enumerate(header)))}
        if doubled := [name for number, name in enumerate(header) if numbers[name] != number]:
            self.fault(line, 0, f"The column `{cut(doubled[0])}` is there twice.", "Rename one of the two.")
            raise ReadingEnded
        at = [numbers[key] for key in self._keys(header, line) or ()]
        for number, cells in rows:
            if len(cells) == len(header):
                self._take_values([cells[i] for i in at], number)
            else:
                message = f"This row has {len(cells)} cells; the header has {len(header)}."
                self.fault(number, 0, message, "Quote a cell that holds the separator, or complete the row.")

    def _json_objects(self) -> Iterator[tuple[int, int, Mapping[str, Value]]]:
        """The lines that are objects; a line that is a text is taken as a prompt."""
        for number, line in enumerate(self.lines(), 1):
            if line.isspace():
                continue
            try:
                value = _JSON.decode(line)
            except (ValueError, RecursionError) as error:
                column = getattr(error, "colno", 0)
                why = getattr(error, "msg", None) or (str(error) if isinstance(error, ValueError) else "too deep")
                self.fault(number, column, f"This line is not JSON: {why}.", "Each line is a text or an object.")
                continue
            if isinstance(value, dict):
                yield number, 0, value
            elif not line.lstrip().startswith('"'):
                self.fault(number, 0, "This line is neither a text nor an object.", 'Write "…" or {"prompt": "…"}.')
            elif self.id_column is not None or self.where or self.template is not None:
                missing = next(iter(self.where), self.id_column)
                lacks = f"the key `{missing}`" if missing is not None else "keys"
                hint = 'Write {"prompt": "…", "id": "…"}.' if self.template is None else 'Write {"COLUMN": "…"}.'
                self.fault(number, 0, f"This line is a text, without {lacks}.", hint)
            else:
                self._take_values([value], number)

    def _read_yaml(self) -> None:
        try:
            data = encoding.load_bytes(self.file, self.name)
            self.digest = hashlib.sha256(data).hexdigest()
            found = document.parse(encoding.decode(data, self.name), self.name)
        except ManifestInvalid as error:
            for problem in error.problems:
                self.diagnostics.add(self.path, problem.message, problem.hint, place=problem.place, also=problem.also)
            raise ReadingEnded from None
        except CommandError as error:
            self.diagnostics.add((*self.path, self.key), str(error))
            raise ReadingEnded from None
        if not isinstance(found.value, list):
            self.fault(1, 1, "The file must be a list of prompts.", "Begin each prompt with a dash.")
            return
        if any((self.column, self.id_column, self.where, self.template)):
            mappings = self._yaml_mappings(found.value, found)
            self._take_objects((line, column, self._as_written(n, found)) for line, column, n in mappings)
            return
        refused = schema.check(found.value, "entry_prompt")
        for fault in refused:
            place = found.place(fault.path, key=fault.key)
            self.fault(place.line, place.column, fault.message, fault.hint)
        entries = schema.cleaned(found.value, refused)
        for line, column, number in self._yaml_mappings(entries, found):
            self._take_entry(entries[number], found, number, line, column)

    def _yaml_mappings(self, entries: Sequence[Value], found: Document) -> Iterator[tuple[int, int, int]]:
        """The numbers of the entries that are mappings; an entry that is a text is taken as a prompt."""
        for number, entry in enumerate(entries):
            place = found.place((number,))
            if isinstance(entry, dict):
                yield place.line, place.column, number
            elif isinstance(entry, list):
                self.fault(place.line, place.column, "A prompt cannot be a list.", "Write it as a text.")
            elif self.where or self.template is not None:
                hint = "Write it as a mapping: {COLUMN: …}."
                self.fault(place.line, place.column, "This entry has no columns.", hint)
            elif entry is not schema.INVALID:
                self._take(found.written((number,)) or "", None, place.line, place.column)

    def _as_written(self, number: int, found: Document) -> dict[str, Value]:
        """An entry's scalars as they are written; but null is an empty cell, unless it is a prompt or an id."""
        words = {self.id_column} if self.template is not None else {self.id_column, self.column or "prompt"}
        return {
            key: value
            if isinstance(value, (dict, list)) or (value is None and key not in words)
            else found.written((number, key))
            for key, value in found.value[number].items()
        }

    def _take_entry(self, entry: Mapping[str, Value], found: Document, number: int, line: int, column: int) -> None:
        """A mapping with a prompt and what it sets."""
        if "from" in entry or "rows" in entry:
            self.fault(line, column, "A prompt file cannot name another.", "Name both in the manifest.")
            return
        if "prompt" not in entry:
            return
        before = len(self._texts)
        name = found.written((number, "id")) if entry.get("id") is not None else None
        self._take(found.written((number, "prompt")) or "", name, line, column)
        settings = self.settings_of(entry, found, (number,), self.path)
        if settings and len(self._texts) > before:
            self._settings[before] = settings


def _shown(header: Sequence[str]) -> str:
    return listed(f"`{cut(name, 30)}`" for name in header)


def _object(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    """A JSON object whose keys differ. Raises ValueError."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is given twice")
    return value


# Numbers are kept as they are written.
_JSON = json.JSONDecoder(object_pairs_hook=_object, parse_int=str, parse_float=str, parse_constant=str)
