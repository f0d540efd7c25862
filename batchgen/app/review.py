"""Marks of images: which images are meant, what they are told, and the index that shows it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from batchgen.errors import CommandError, OutputBusy
from batchgen.ledger import lock
from batchgen.ledger.marks import write_marks
from batchgen.ledger.records import Mark, NewMark
from batchgen.ledger.store import FILE_NAME, VIEWS_STAMP, Ledger, path_in, reading
from batchgen.manifest.wildcards import matches
from batchgen.reports.index import INDEX, write_views
from batchgen.reports.where import Where
from batchgen.storage.paths import IMAGES
from batchgen.storage.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from batchgen.ledger.records import IndexRow

__all__ = ["Mark", "NewMark", "refresh_index", "selected_rows", "store_marks"]

_SHOWN = 5


def store_marks(root: Path, marks: Iterable[NewMark]) -> int:
    """Keep marks of images of the output `root`, all or none, also during a run; returns how many changed.

    The index shows them after `refresh_index`, or when the run that is going ends. Raises CommandError where there is
    no output, RunStopped where the disk refuses.
    """
    path = path_in(root, "review")
    marks = list(marks)
    try:
        return write_marks(path, marks)
    except CommandError:  # perhaps of an earlier version, which nobody uses now
        with lock.held(root):
            Ledger.open(path).close()
    return write_marks(path, marks)


def refresh_index(root: Path, *, escape_formulas: bool = False) -> bool:
    """Write the index where all that it does not show are marks; False where a run is left to do so at its end."""
    try:
        with lock.held(root):
            ledger = Ledger.open(root / FILE_NAME)
            try:
                is_ready = ledger.meta(VIEWS_STAMP) is not None  # else a run was killed, and the next one reconciles
                if is_ready:
                    write_views(ledger, Tree(root), escape_formulas=escape_formulas)
                return is_ready
            finally:
                ledger.close()
    except OutputBusy:
        return False


def selected_rows(root: Path, where: Sequence[str] = ()) -> list[IndexRow]:
    """The images of the index that the conditions select. Raises CommandError where there is no output."""
    taken = Where.parse(where)
    with reading(path_in(root, "review")) as ledger:
        return [row for row in ledger.index_rows() if taken.takes(row)]


class Images:
    """The images that a command selects, by what a person may call them."""

    def __init__(self, root: Path, rows: Sequence[IndexRow]) -> None:
        self._root = root
        self._rows = rows
        self._by_name: dict[str, list[IndexRow]] = {}
        for row in rows:
            for name in (row.path, row.sha256, row.job.id):
                self._by_name.setdefault(name, []).append(row)

    def named(self, names: Iterable[str]) -> list[IndexRow]:
        """The images of these names: files, patterns, job ids, hashes. Raises CommandError for names of none."""
        found = {name: self._of(name) for name in names}
        if missing := [name for name, rows in found.items() if not rows]:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise CommandError(
                f"No image of {self._root / INDEX} is {', '.join(missing[:_SHOWN])}{more}. Give files, patterns of"
                " their names such as '*mug*', job ids or sha256. Nothing was changed."
            )
        return list({row.path: row for rows in found.values() for row in rows}.values())

    def _of(self, name: str) -> list[IndexRow]:
        here = _relative(os.path.abspath(name), os.path.abspath(self._root))  # noqa: PTH100 - no link is followed
        inside = (name, IMAGES + name, here)
        for each in (*inside, _relative(os.path.realpath(name), os.path.realpath(self._root))):
            if each in self._by_name:
                return self._by_name[each]
        patterns = {each for each in inside if "*" in each or "?" in each}
        return [row for row in self._rows if any(matches(pattern, row.path) for pattern in patterns)]


def _relative(path: str, root: str) -> str:
    return os.path.relpath(path, root).replace(os.sep, "/")
