"""Prompts and the files they come from: .txt, .csv, .tsv, .jsonl and .yaml.

Files are read line by line, so that of a million prompts only their texts are held, and of a table that
fills a template only the columns it uses. A fault names the file's own line.
"""

from __future__ import annotations

import csv
import hashlib
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchgen.errors import CommandError, ManifestInvalid
from batchgen.manifest import jsonlines, schema
from batchgen.manifest.diagnostics import cut, listed, nearest
from batchgen.manifest.lines import Broken, LineFile, TooMany
from batchgen.manifest.model import NodePath, Prompts
from batchgen.manifest.texts import fault_of, name_fault
from batchgen.manifest.where import Where
from batchgen.source import document, encoding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from batchgen.manifest.model import Match, Settings
    from batchgen.source.document import Value

KINDS = (".txt", ".csv", ".tsv", ".jsonl", ".yaml")


@dataclass(slots=True, kw_only=True)
class _Rows:
    """What was read so far."""

    texts: list[str] = field(default_factory=list)
    ids: list[str | None] = field(default_factory=list)
    lines: array[int] = field(default_factory=lambda: array("I"))
    settings: dict[int, Settings] = field(default_factory=dict)
    cells: list[tuple[str, ...]] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class PromptFile(LineFile):
    """One file of prompts (`from`), or one table whose rows fill a template (`rows`)."""

    column: str | None
    id_column: str | None
    settings_of: Callable[[Mapping[str, Value], document.Document, NodePath, NodePath], Settings]
    template: str | None = None  # with `rows`: what each row fills
    uses: frozenset[str] = frozenset()  # the names in the template
    where: Mapping[str, tuple[Match, ...]] = field(default_factory=dict)
    _rows: _Rows = field(default_factory=_Rows)
    _used: tuple[str, ...] | None = None  # the columns that the template uses
    _header: tuple[str, ...] = ()
    _filter: Where = field(init=False)

    def __post_init__(self) -> None:
        """Ready the filter."""
        self._filter = Where(self.where)

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
            self.faults.add((*self.path, self.key), what, f"It may be {listed(KINDS)}.")
            return None
        before = self.faults.errors
        try:
            self.check_there()
            readers[kind]()
        except (TooMany, Broken):
            return None
        except OSError as error:
            self.faults.add((*self.path, self.key), f"{self.name} cannot be read: {error.strerror or error}.")
            return None
        if self.faults.errors == before:
            self._check_found()
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
            columns=self._used or (),
            cells=rows.cells,
            header=self._header,
        )

    def _check_found(self) -> None:
        """Whether there is any prompt, and whether each value of `where` was met."""
        if self._filter.rows_seen:
            for column, number, message, hint in self._filter.unmet(self.name):
                at = (*self.path, "where", column) if number is None else (*self.path, "where", column, number)
                self.faults.add(at, message, hint, warning=bool(self._rows.texts))
        if not self._rows.texts and not self._filter.unmet(self.name):
            what = "row" if self.template is not None else "prompt"
            at, message, hint = (*self.path, self.key), f"The file {self.name} holds no {what}.", "Write some into it."
            if self._filter.rows_seen:
                at = (*self.path, "where")
                message, hint = f"No row of {self.name} matches.", "Each key matches some row, but none matches all."
            self.faults.add(at, message, hint)

    # --- lines to prompts

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
        self._rows.texts.append(text)
        self._rows.ids.append(name)
        self._rows.lines.append(line)
        if cells is not None:
            self._rows.cells.append(cells)

    def _take_row(self, values: Sequence[str], line: int, column: int = 0) -> None:
        """One row, its values in the order of `_wanted`; unless `where` leaves it out."""
        wheres = len(self.where)
        if wheres and not self._filter.takes(values[:wheres]):
            return
        rest = iter(values[wheres:])
        text = next(rest) if self.template is None else self.template
        name = None if self.id_column is None else next(rest)
        if any("\ud800" <= character <= "\udfff" for value in values if not value.isascii() for character in value):
            self.fault(line, column, "There is half a character (a lone surrogate) here.", "Take it out.")
            return
        self._take(text, name, line, column, None if self.template is None else tuple(rest))

    def _wanted(self) -> list[tuple[str, NodePath]]:
        """The columns that are read, each with the place of the manifest that asks for it."""
        found: list[tuple[str, NodePath]] = [(name, (*self.path, "where", name)) for name in self.where]
        if self.template is None:
            where = (*self.path, "column") if self.column is not None else (*self.path, self.key)
            found.append((self.column or "prompt", where))
        if self.id_column is not None:
            found.append((self.id_column, (*self.path, "id")))
        return found

    @property
    def _has_columns(self) -> bool:
        return any((self.column, self.id_column, self.where, self.template))

    def _settle_columns(self, header: Sequence[str], line: int) -> tuple[str, ...]:
        """The columns of a table that the template uses; the other names in it may be vars."""
        self._header = tuple(header)
        self._used = tuple(sorted(self.uses & set(header)))
        if self.template is not None and not self._used:
            known = listed([f"`{cut(name, 30)}`" for name in header])
            guess = next((near for name in sorted(self.uses) if (near := nearest(name, header))), "")
            hint = f"Did you mean {{{{ {guess} }}}}? " if guess else ""
            message = f"The prompt names no column of {self.name}: every row would make the same images."
            here = self.place(line)
            self.faults.add((*self.path, "prompt"), message, f"{hint}There is {known}.", also=[here])
            raise Broken
        return self._used

    def _read_txt(self) -> None:
        before = self.faults.errors
        if self.template is not None:
            self.faults.add((*self.path, self.key), "A .txt file has no columns.", "Use a .csv, .tsv or .jsonl file.")
        asked = {"column": self.column, "id": self.id_column, "where": self.where or None}
        for key in (key for key, value in asked.items() if value is not None):
            hint = "Take the key out, or use a .csv, .tsv or .jsonl file."
            self.faults.add((*self.path, key), "A .txt file has no columns.", hint, key=True)
        if self.faults.errors > before and (self.template is not None or self.where):
            raise Broken
        for number, line in enumerate(self.lines(), 1):
            if not line.isspace():
                self._take(line.removesuffix("\n"), None, number)

    def _read_tsv(self) -> None:
        rows = ((number, line.removesuffix("\n").split("\t")) for number, line in enumerate(self.lines(), 1))
        self._read_table((number, cells) for number, cells in rows if cells != [""])

    def _read_csv(self) -> None:
        self._read_table(self._csv_rows())

    def _csv_rows(self) -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(self.lines(), strict=True)
        begin = 1
        try:
            for cells in reader:
                if cells and (len(cells) == 1 or any(cells)):  # spreadsheets write blank lines as empty cells
                    yield begin, cells
                begin = reader.line_num + 1
        except csv.Error as error:
            message = f"This row is not CSV: {error}."
            self.fault(begin, 0, message, 'A cell with a comma, a quote or a line break stands in "…", quotes twice.')
            raise Broken from None

    def _read_table(self, rows: Iterable[tuple[int, list[str]]]) -> None:
        iterator = iter(rows)
        first = next(iterator, None)
        if first is None:
            return
        header = [name.strip() for name in first[1]]
        at = self._columns(header, first[0])
        for number, cells in iterator:
            if len(cells) != len(header):
                message = f"This row has {len(cells)} cells; the header has {len(header)}."
                self.fault(number, 0, message, "Quote a cell that holds the separator, or complete the row.")
                continue
            self._take_row([cells[i] for i in at], number)

    def _columns(self, header: list[str], line: int) -> list[int]:
        """The numbers of the columns that are read."""
        numbers = {name: number for number, name in reversed(list(enumerate(header)))}
        doubled = [name for number, name in enumerate(header) if numbers[name] != number]
        if doubled:
            self.fault(line, 0, f"The column `{cut(doubled[0])}` is there twice.", "Rename one of the two.")
            raise Broken
        at = [numbers[name] if name in numbers else self._column(name, header, path) for name, path in self._wanted()]
        return at + [numbers[name] for name in self._settle_columns(header, line)]

    def _column(self, name: str, header: list[str], path: NodePath) -> int:
        """The number of a column; without a wish `prompt`, or the only one."""
        is_wish = path[-1] != self.key
        folded = [other.casefold() for other in header]
        if folded.count(name.casefold()) == 1:
            return folded.index(name.casefold())
        if not is_wish and len(header) == 1 and not {";", "\t"} & set(header[0]):
            return 0
        guess = nearest(name, header)
        hint = f"Did you mean `{guess}`? " if guess and is_wish else ""
        if len(header) == 1 and ";" in header[0]:
            hint = "It seems to be separated by semicolons: save it with commas. "
        elif len(header) == 1 and "\t" in header[0]:
            hint = "It seems to be separated by tabs: call it .tsv. "
        ask = "" if is_wish else "Name the column of the prompts with `column`. "
        message = f"{self.name} has no column `{cut(name)}`."
        self.faults.add(
            path,
            message,
            f"{hint}{ask}There is {listed([f'`{cut(h, 30)}`' for h in header])}.",
            key=path[-2:-1] == ("where",),
        )
        raise Broken

    def _read_jsonl(self) -> None:
        for number, line in enumerate(self.lines(), 1):
            if line.isspace():
                continue
            try:
                value = jsonlines.parse(line)
            except (ValueError, RecursionError) as error:
                column = getattr(error, "colno", 0)
                said = getattr(error, "msg", None) or (str(error) if isinstance(error, ValueError) else "too deep")
                self.fault(number, column, f"This line is not JSON: {said}.", "Each line is a text or an object.")
                continue
            self._take_json(value, number)

    def _take_json(self, value: Value, number: int) -> None:
        if isinstance(value, str) and not isinstance(value, jsonlines.Number):
            if self.id_column is not None or self.where or self.template is not None:
                missing = next(iter(self.where), self.id_column)
                lacks = f"the key `{missing}`" if missing is not None else "keys"
                hint = 'Write {"prompt": "…", "id": "…"}.' if self.template is None else 'Write {"COLUMN": "…"}.'
                self.fault(number, 0, f"This line is a text, without {lacks}.", hint)
                return
            self._take_row([value], number)
        elif isinstance(value, dict):
            self._take_object(value, number)
        else:
            self.fault(number, 0, "This line is neither a text nor an object.", 'Write "…" or {"prompt": "…"}.')

    def _take_object(self, value: Mapping[str, Value], number: int, column: int = 0) -> None:
        wanted = [(name, path[-1]) for name, path in self._wanted()]
        if self._used is None:
            self._settle_columns(list(value), number)
        wanted += [(name, "prompt") for name in self._used or ()]
        found: list[str] = []
        for name, asked in wanted:
            text = self._text_of(value, name, str(asked), number, column)
            if text is None:
                return
            found.append(text)
        self._take_row(found, number, column)

    def _text_of(self, value: Mapping[str, Value], wanted: str, asked: str, number: int, column: int) -> str | None:
        """A key's text; None where there is none, which is said. Without a wish the key's case is free."""
        guess = nearest(wanted, value) if wanted not in value else wanted
        key = guess if asked == self.key and guess.casefold() == wanted.casefold() else wanted
        also = [(*self.path, "prompt")] if asked == "prompt" else []
        if key not in value:
            hint = f"Did you mean `{guess}`?" if guess else f"It has {listed(value) or 'no keys'}."
            self.fault(number, column, f"This object has no key `{cut(wanted)}`.", hint, also)
            return None
        cell = value[key]
        is_text = asked in {"column", "id", self.key}
        if not is_text and (cell is None or isinstance(cell, bool)):
            return "" if cell is None else str(cell).lower()
        if not isinstance(cell, str):  # a number is the text that was written, as everywhere in manifests
            self.fault(number, column, f"The key `{cut(key)}` holds no text.", "Write it in quotes.", also)
            return None
        return cell

    def _read_yaml(self) -> None:
        try:
            data = encoding.load_bytes(self.file, self.name)
            self.digest = hashlib.sha256(data).hexdigest()
            found = document.parse(encoding.decode(data, self.name), self.name)
        except ManifestInvalid as error:
            for problem in error.problems:
                self.faults.add(self.path, problem.message, problem.hint, place=problem.place, also=problem.also)
            raise Broken from None
        except CommandError as error:
            self.faults.add((*self.path, self.key), str(error))
            raise Broken from None
        if not isinstance(found.value, list):
            self.fault(1, 1, "The file must be a list of prompts.", "Begin each prompt with a dash.")
            return
        faults = [] if self._has_columns else schema.check(found.value, "entry_prompt")
        for fault in faults:
            place = found.place(fault.path, key=fault.key)
            self.fault(place.line, place.column, fault.message, fault.hint)
        for number, entry in enumerate(schema.cleaned(found.value, faults)):
            self._take_entry(entry, number, found)

    def _take_entry(self, entry: Value, number: int, found: document.Document) -> None:
        place = found.place((number,))
        if isinstance(entry, dict):
            if self._has_columns:
                self._take_object(self._row(entry, number, found), place.line, place.column)
                return
            if "from" in entry or "rows" in entry:
                self.fault(place.line, place.column, "A prompt file cannot name another.", "Name both in the manifest.")
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
        elif self.where or self.template is not None:
            self.fault(place.line, place.column, "This entry has no columns.", "Write it as a mapping: {COLUMN: …}.")
        elif isinstance(entry, (str, int, float, bool)) or entry is None:
            self._take(found.written((number,)) or "", None, place.line, place.column)
        elif isinstance(entry, list):
            self.fault(place.line, place.column, "A prompt cannot be a list.", "Write it as a text.")

    def _row(self, entry: Mapping[str, Value], number: int, found: document.Document) -> dict[str, Value]:
        """An entry as cells: as written, but null is an empty one (of a prompt and a name it is a word)."""
        words = {self.column or "prompt", self.id_column} if self.template is None else {self.id_column}
        return {
            key: value
            if isinstance(value, (dict, list)) or (value is None and key not in words)
            else found.written((number, key))
            for key, value in entry.items()
        }
