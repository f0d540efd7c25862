"""`where`: which rows of a file are taken, and which of its values match no row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.manifest import wildcards
from batchgen.manifest.diagnostics import cut, listed, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchgen.manifest.model import Match

_MOST_REMEMBERED = 2000  # values of a column, each with its answer
_MOST_LISTED = 8


class Where:
    """The values wanted in each column; a row is in when each column has one of its values."""

    def __init__(self, columns: Mapping[str, tuple[Match, ...]]) -> None:
        self.rows_seen = 0
        self._columns = list(columns.items())
        self._known: list[dict[str, bool]] = [{} for _ in self._columns]
        self._matched: set[tuple[int, int]] = set()

    def takes(self, values: Sequence[str]) -> bool:
        """Whether a row is in, from its cells in the order of the columns."""
        self.rows_seen += 1
        taken = True
        for number, value in enumerate(values):
            known = self._known[number]
            answer = known.get(value)
            if answer is None:
                answer = self._matches(number, value)
                if len(known) < _MOST_REMEMBERED:
                    known[value] = answer
            taken &= answer
        return taken

    def _matches(self, number: int, value: str) -> bool:
        found = False
        for which, match in enumerate(self._columns[number][1]):
            if value == "" if match.value is None else wildcards.matches(match.text, value):
                self._matched.add((number, which))
                found = True
        return found

    def unmatched(self, file: str) -> list[tuple[str, int | None, str, str]]:
        """Each value that matches no row: its column, its number in a list, message and hint."""
        found = []
        for number, (column, matches) in enumerate(self._columns):
            values = list(self._known[number])
            for match in (match for which, match in enumerate(matches) if (number, which) not in self._matched):
                text = "an empty cell" if match.value is None else f'"{cut(match.text)}"'
                guess = nearest(match.text, values)
                shown = listed((f'"{cut(value, 30)}"' for value in values), _MOST_LISTED)
                message = f"No row of {file} has {text} in the column `{cut(column)}`."
                found.append(
                    (column, match.number, message, f'Did you mean "{guess}"?' if guess else f"It has {shown}.")
                )
        return found
