"""A document as it was read: its value, and the tape that says where each part of it stands."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from batchgen.errors import SourceLocation
from batchgen.source.encoding import LINE_END

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Value: TypeAlias = Any  # what YAML can hold: str, int, float, bool, None, and lists and dicts of these
COLUMN_BITS = 28  # a line is shorter than the file, and that than 64 MB


@dataclass(slots=True)
class SourceMap:
    """Where each node of a document stands, in the order of the text, keys and values alike.

    A packed position and the number of entries of the subtree for each: 12 bytes a node.
    """

    marks: array[int] = field(default_factory=lambda: array("Q"))
    sizes: array[int] = field(default_factory=lambda: array("I"))
    written: dict[int, str] = field(default_factory=dict)  # of scalars that are no strings
    aliases: dict[int, int] = field(default_factory=dict)  # the alias's entry → its anchor's

    def add(self, mark: int) -> int:
        """A new entry without children; its number."""
        self.marks.append(mark)
        self.sizes.append(1)
        return len(self.marks) - 1

    def cut(self, start: int) -> None:
        """Forget everything from an entry on."""
        del self.marks[start:]
        del self.sizes[start:]
        for table in (self.written, self.aliases):
            while table and next(reversed(table)) >= start:  # entries are added in their order
                table.popitem()

    def children(self, node: int, *, open_end: bool = False) -> Iterator[int]:
        """The entries right below a container; with `open_end`, below one that is still being filled."""
        entry, end = node + 1, len(self.marks) if open_end else node + self.sizes[node]
        while entry < end:
            yield entry
            entry += self.sizes[entry]

    def text_of(self, entry: int) -> str | None:
        """What was written for a scalar that is no string."""
        return self.written.get(self.aliases.get(entry, entry))


@dataclass(slots=True, kw_only=True)
class Document:
    """A document's value, and where each part of it stands."""

    file: str
    text: str
    value: Any = None
    tape: SourceMap = field(default_factory=SourceMap)
    _children: dict[int, array[int]] = field(default_factory=dict)
    _orders: dict[int, dict[str, int]] = field(default_factory=dict)
    _lines: list[str] | None = None

    def place(self, path: Sequence[str | int], *, key: bool = False) -> SourceLocation:
        """Where the value at `path` stands (with `key`, its key), or the nearest parent that is there."""
        entry, key_entry = self._find(path)
        if key and key_entry is not None:
            entry = key_entry
        return self.place_of(self.tape.marks[entry] if self.tape.marks else 0)

    def place_of(self, mark: int) -> SourceLocation:
        """A packed position as a place."""
        line, column = mark >> COLUMN_BITS, mark & ((1 << COLUMN_BITS) - 1)
        return SourceLocation(file=self.file, line=line + 1, column=column + 1)

    def written(self, path: Sequence[str | int]) -> str | None:
        """A scalar's text as written (`1.50`, `null`), or None for what is no scalar."""
        value = self.value
        for step in path:
            value = value[step]
        if isinstance(value, str):
            return value
        entry, _ = self._find(path)
        return self.tape.text_of(entry)

    def line(self, number: int) -> str:
        """A line of the source, from 1; empty where there is none."""
        if self._lines is None:
            self._lines = LINE_END.split(self.text)
        return self._lines[number - 1] if 0 < number <= len(self._lines) else ""

    def _find(self, path: Sequence[str | int]) -> tuple[int, int | None]:
        """The tape's entries of a value and of its key, as far down as the path leads."""
        value: Value = self.value
        entry, key_entry = 0, None
        for step in path:
            node = self.tape.aliases.get(entry, entry)
            if node < 0:  # its anchor stood in a part that was left out
                break
            if isinstance(value, dict) and isinstance(step, str) and step in value:
                starts, number = self._starts(node), self._order(node, value)[step]
                key_entry, entry = starts[2 * number], starts[2 * number + 1]
                value = value[step]
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                key_entry, entry = None, self._starts(node)[step]
                value = value[step]
            else:
                break
        return entry, key_entry

    def _order(self, node: int, mapping: dict[str, Value]) -> dict[str, int]:
        if node not in self._orders:
            self._orders[node] = {key: number for number, key in enumerate(mapping)}
        return self._orders[node]

    def _starts(self, node: int) -> array[int]:
        if node not in self._children:
            self._children[node] = array("I", self.tape.children(node))
        return self._children[node]
