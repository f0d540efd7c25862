"""Prompts of a file (`from`), and rows of a table that fill a template (`rows`), of which `where` takes some.

Of a million prompts only their texts are held, and of a table that fills a template only the columns it uses.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from batchgen.errors import CommandError, ManifestInvalid
from batchgen.manifest import wildcards
from batchgen.manifest.diagnostics import cut, listed, nearest, written_path
from batchgen.manifest.model import NodePath, Prompts, RowLabels
from batchgen.manifest.row_file import ReadingEnded, RowFile
from batchgen.manifest.texts import fault_of, label_fault, name_fault
from batchgen.source import encoding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchgen.manifest.model import Labels, Match, Settings
    from batchgen.manifest.row_file import Row
    from batchgen.source.document import Value

_MOST_REMEMBERED = 2000  # values of a column of `where`, each with its answer
_MOST_LISTED = 8
_NONE: RowLabels = ((), ())


@dataclass(slots=True, kw_only=True)
class PromptFile(RowFile):
    """One file of prompts, or one table whose rows fill a template."""

    column: str | None
    id_column: str | None
    template: str | None = None  # with `rows`: what each row fills
    uses: frozenset[str] = frozenset()  # the names in the template
    columns: tuple[str, ...] | None = ()  # that are labels; None: every one but those of prompt and id
    labels: Labels = field(default_factory=dict)  # of every prompt
    where: Mapping[str, tuple[Match, ...]] = field(default_factory=dict)
    _texts: list[str] = field(default_factory=list)
    _ids: list[str | None] = field(default_factory=list)
    _lines: array[int] = field(default_factory=lambda: array("I"))
    _settings: dict[int, Settings] = field(default_factory=dict)  # of single prompts
    _cells: list[tuple[str, ...]] = field(default_factory=list)
    _header: tuple[str, ...] = ()  # of the row before
    _keys: list[str] | None = None  # what is read of a row with that header; None: something is missing
    _used: tuple[str, ...] | None = None  # the columns that the template uses; None: no row was read
    _columns: tuple[str, ...] = ()  # of the first row
    _labelled: tuple[str, ...] = ()  # the columns that are labels, of rows with that header
    _labels: list[RowLabels] = field(default_factory=list)
    _known_labels: dict[RowLabels, RowLabels] = field(default_factory=dict)  # so that equal rows share one, and
    _known_cells: dict[str, str] = field(default_factory=dict)  # equal cells
    _wanted: list[tuple[str, NodePath]] = field(default_factory=list)  # keys of a row, each with what asks for it
    _seen: list[dict[str, bool]] = field(default_factory=list)  # values of each column of `where`, and whether taken
    _matched: set[tuple[int, Match]] = field(default_factory=set)

    def read(self, settings: Settings) -> Prompts | None:
        """Its prompts; None where there are none, which is then among the problems."""
        before = self.diagnostics.errors
        try:
            self._read_rows()
        except ReadingEnded:
            return None
        except ManifestInvalid as error:
            self.diagnostics.extend(replace(problem, path=written_path(self.path)) for problem in error.problems)
            return None
        except CommandError as error:
            self.diagnostics.add((*self.path, self.key), str(error))
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
            header=self._columns,
            labels=self.labels,
            row_labels=self._labels if any(names for names, _ in self._labels) else (),
        )

    def _read_rows(self) -> None:
        prompt = [(self.column or "prompt", (*self.path, self.key if self.column is None else "column"))]
        name = [] if self.id_column is None else [(self.id_column, (*self.path, "id"))]
        where: list[tuple[str, NodePath]] = [(column, (*self.path, "where", column)) for column in self.where]
        self._wanted = [*where, *(prompt if self.template is None else []), *name]
        self._seen = [{} for _ in where]
        words = frozenset(key for key, _ in self._wanted[len(where) :])
        asked: dict[str, object] = {"rows": self.template, "column": self.column, "id": self.id_column}
        asked |= {"where": self.where or None, "labels": None if self.columns == () else True}
        keys = [key for key, value in asked.items() if value is not None]
        if self.kind == ".txt" and keys:
            for key in keys:
                hint = "Use a .csv, .tsv or .jsonl file."
                self.diagnostics.add((*self.path, key), "A .txt file has no columns.", hint, key=key != "rows")
            raise ReadingEnded
        if self.delimiter is not None and not self.is_table:
            hint = "Remove it."
            self.diagnostics.add((*self.path, "delimiter"), f"A {self.kind} file has no delimiter.", hint, key=True)
            raise ReadingEnded
        for row in self.rows(words=words if keys else None):
            if not isinstance(row.content, str):
                self._take_cells(row, row.content)
            elif self.where or self.template is not None:
                hint = "Write a mapping, whose keys are the columns."
                self.fault(row.line, row.column, "This text has no columns.", hint)
            else:
                self._take(row, row.content, row.id)

    def _check_found(self) -> None:
        """Whether there is any prompt, and whether each value of `where` matched."""
        unmatched = [
            (number, column, match)
            for number, (column, matches) in enumerate(self.where.items())
            for match in matches
            if self._seen[number] and (number, match) not in self._matched
        ]
        for number, column, match in unmatched:
            at = (*self.path, "where", column, *([] if match.number is None else [match.number]))
            text = "an empty cell" if match.value is None else f'"{cut(match.text)}"'
            guess = nearest(match.text, self._seen[number])
            shown = listed((f'"{cut(value, 30)}"' for value in self._seen[number]), _MOST_LISTED)
            hint = f'Did you mean "{guess}"?' if guess else f"It has {shown}."
            message = f"No row of {self.name} has {text} in the column `{cut(column)}`."
            self.diagnostics.add(at, message, hint, warning=bool(self._texts))
        if self.kind == ".txt":
            self._warn_of_comments()
        if self._texts or unmatched:
            return
        if any(self._seen):
            hint = "Each key matches some row, but none matches all."
            self.diagnostics.add((*self.path, "where"), f"No row of {self.name} matches.", hint)
        else:
            what = "prompt" if self.template is None else "row"
            message = f"The file {self.name} holds no {what}."
            self.diagnostics.add((*self.path, self.key), message, "Write some into it.")

    def _warn_of_comments(self) -> None:
        lines = [line for line, text in zip(self._lines, self._texts, strict=True) if text.lstrip().startswith("#")]
        if lines:
            more = f", and {len(lines) - 1:,} more lines" if lines[1:] else ""
            message = f"This line begins with #{more}: a .txt file has no comments, so that it is a prompt."
            hint = "Remove what is not to be made."
            self.diagnostics.add(self.path, message, hint, place=self.place(lines[0], 1), warning=True)

    # --- from rows to prompts

    def _take(
        self,
        row: Row,
        text: str,
        name: str | None,
        cells: tuple[str, ...] | None = None,
        labels: RowLabels | None = None,
    ) -> None:
        """One more prompt, unless something is wrong with it."""
        fault = None if cells is not None else fault_of(text)  # a template's is seen when it is rendered
        if fault is None and name is not None:
            fault = name_fault(name)
        if fault is not None:
            self.fault(row.line, row.column, *fault)
            return
        if row.settings:
            self._settings[len(self._texts)] = row.settings
        self._texts.append(text)
        self._ids.append(name)
        self._lines.append(row.line)
        if cells is not None:
            self._cells.append(cells)
        self._labels.append(labels or self._of_entry(row))

    def _of_entry(self, row: Row) -> RowLabels:
        """The labels that an entry of a prompt file gives to itself."""
        if row.labels and (fault := next(filter(None, map(label_fault, row.labels)), None)):
            self.fault(row.line, row.column, *fault)
        return (tuple(row.labels), tuple(row.labels.values())) if row.labels else _NONE

    def _shared(self, row: Row, values: Sequence[str]) -> RowLabels:
        """The labels of a row; of rows that have the same, the first one's."""
        found = (self._labelled, tuple(values))
        if (known := self._known_labels.get(found)) is None:
            known = found
            if bad := encoding.CONTROL.search("".join(values)):
                self.fault(row.line, row.column, *encoding.character_fault(bad.group()))
            if len(self._known_labels) < _MOST_REMEMBERED:
                self._known_labels[known] = known
                self._known_cells.update(zip(values, values, strict=True))
            else:  # a column whose cells all differ
                known = (self._labelled, tuple(self._known_cells.get(value, value) for value in values))
        return known

    def _take_cells(self, row: Row, content: Mapping[str, Value]) -> None:
        """One row, unless `where` leaves it out; most have the columns of the row before."""
        if self._header != (header := tuple(content)) or self._keys is None:
            self._header, self._keys = header, self._find_keys(row, header)
        if self._keys is None:
            return
        values = []
        for key in self._keys:
            cell = content[key]
            if isinstance(cell, (dict, list)):
                message = f"The key `{cut(key)}` holds no text."
                self.fault(row.line, row.column, message, "Write it in quotes.")
                return
            values.append(cell if isinstance(cell, str) else "" if cell is None else str(cell).lower())
        at = len(self.where)
        if at and not self._is_taken(values[:at]):
            return
        text = self.template
        if text is None:
            text, at = values[at], at + 1
        name = None if self.id_column is None else values[at]
        first = len(values) - len(self._labelled)
        cells = None if self.template is None else tuple(values[len(self._wanted) : first])
        self._take(row, text, name, cells, self._shared(row, values[first:]) if self._labelled else None)

    def _is_taken(self, values: Sequence[str]) -> bool:
        """Whether each column of `where` has one of the values wanted there."""
        taken = True
        for number, (value, matches) in enumerate(zip(values, self.where.values(), strict=True)):
            known = self._seen[number]
            if (answer := known.get(value)) is None:
                hits = [m for m in matches if (not value if m.value is None else wildcards.matches(m.text, value))]
                self._matched.update((number, match) for match in hits)
                answer = bool(hits)
                if len(known) < _MOST_REMEMBERED:
                    known[value] = answer
            taken &= answer
        return taken

    # --- the keys of a row

    def _find_keys(self, row: Row, header: tuple[str, ...]) -> list[str] | None:
        """What is read of a row with these keys; None where one is missing, which is then reported."""
        if self._used is None:
            self._columns = header
            self._used = tuple(sorted(self.uses & set(header)))
            if self.template is not None and not self._used:
                guess = next((near for name in sorted(self.uses) if (near := nearest(name, header))), "")
                hint = f"Did you mean {{{{ {guess} }}}}? There is " if guess else "There is "
                message = f"The prompt names no column of {self.name}: every row would make the same images."
                at, also = (*self.path, "prompt"), [self.place(row.line)]
                self.diagnostics.add(at, message, f"{hint}{_shown(header)}.", also=also)
                raise ReadingEnded
        keys = []
        wanted = [*self._wanted, *((name, (*self.path, "prompt")) for name in self._used)]
        wanted += [(name, (*self.path, "labels", number)) for number, name in enumerate(self.columns or ())]
        for name, path in wanted:
            key = name if name in header else self._similar_key(name, path, header)
            if key is None:
                self._report_missing(name, path, row, header)
                return None
            keys.append(key)
        others = header if self.columns is None else ()
        keys += [name for name in others if name and name not in keys[len(self.where) : len(self._wanted)]]
        self._labelled = tuple(keys[len(wanted) :]) if self.columns is None else self.columns
        self._check_names()
        return keys

    def _check_names(self) -> None:
        """Whether each column that is a label can be one."""
        for number, name in enumerate(self._labelled):
            if fault := label_fault(name):
                message, hint = fault
                hint = hint if self.columns else f"Name the columns that are wanted: labels: [NAME, …]. {hint}"
                self.diagnostics.add((*self.path, "labels", *([number] if self.columns else [])), message, hint)

    def _similar_key(self, name: str, path: NodePath, header: Sequence[str]) -> str | None:
        """A key that differs in case only; for the prompt, unless a column is named, the only one of a table."""
        is_default = path[-1] == self.key
        similar = [key for key in header if key.casefold() == name.casefold()]
        if len(similar) == 1 and (is_default or self.is_table):
            return similar[0]
        is_only = is_default and self.is_table and len(header) == 1 and not {";", "\t"} & set(header[0])
        return header[0] if is_only else None

    def _report_missing(self, name: str, path: NodePath, row: Row, header: Sequence[str]) -> None:
        """Report a key that an object does not have, or a column that a table does not have."""
        guess = nearest(name, header)
        hint = f"Did you mean `{guess}`? " if guess else ""
        if not self.is_table:
            message = f"This object has no key `{cut(name)}`."
            self.fault(row.line, row.column, message, f"{hint}It has {_shown(header)}.")
            return
        if self.guessed:
            hint = f"{hint}{self.guessed} "
        if path[-1] == self.key:
            hint = f"{hint}Name the column of the prompts with `column`. "
        message, is_key = f"{self.name} has no column `{cut(name)}`.", path[-2:-1] == ("where",)
        self.diagnostics.add(path, message, f"{hint}There is {_shown(header)}.", key=is_key)
        raise ReadingEnded


def _shown(header: Sequence[str]) -> str:
    return listed(f"`{cut(name, 30)}`" for name in header) or "none"
