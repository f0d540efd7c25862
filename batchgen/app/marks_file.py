"""Marks in a CSV file, as the gallery saves it or a spreadsheet does: `sha256` or `file_name`, `mark`, `note`."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from batchgen.errors import CommandError
from batchgen.ledger.records import Mark, NewMark
from batchgen.source.encoding import decode, load_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from batchgen.ledger.records import IndexRow

_SHOWN = 10


def read_marks(path: Path, root: Path, rows: list[IndexRow]) -> list[NewMark]:
    """The marks of a file for images of the output; those that its images have already are left out.

    An empty mark takes a person's mark away. Raises CommandError with the line of every row that is wrong.
    """
    text = decode(load_bytes(path, str(path)), str(path))
    first = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    by_sha256 = {row.sha256: row for row in rows}
    by_name = {row.path: row for row in rows}
    faults: list[str] = []
    marks: dict[str, NewMark] = {}
    try:
        columns = [(name or "").strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        if not {"sha256", "file_name"} & {*columns} or not {"mark", "note"} & {*columns}:
            raise CommandError(f"{path}:1: the first line names the columns sha256 or file_name, and mark or note.")
        for cells in reader:
            row = by_sha256.get(_cell(cells, "sha256").lower()) or by_name.get(_cell(cells, "file_name"))
            try:
                if row is None:
                    raise CommandError(f"no image of {root} is {_name(cells)}")  # noqa: TRY301 - listed with the others
                mark = _mark(cells, row)
                if marks.setdefault(row.sha256, mark) != mark:
                    raise CommandError(f"{row.path} has another mark above")  # noqa: TRY301
            except CommandError as error:
                faults.append(f"{path}:{reader.line_num}: {error}.")
    except csv.Error as error:
        faults.append(f"{path}:{reader.line_num}: no CSV: {error}.")
    if faults:
        more = [f"… and {len(faults) - _SHOWN} more."] if len(faults) > _SHOWN else []
        raise CommandError("\n".join([*faults[:_SHOWN], *more, "Nothing was changed."]))
    return [mark for mark in marks.values() if _says_more(mark, by_sha256[mark.sha256])]


def _cell(cells: dict[str, str], name: str) -> str:
    return (cells.get(name) or "").strip()


def _name(cells: dict[str, str]) -> str:
    return _cell(cells, "file_name") or _cell(cells, "sha256") or "named in this row"


def _mark(cells: dict[str, str], row: IndexRow) -> NewMark:
    word = _cell(cells, "mark").lower() if "mark" in cells else None
    if word is not None and word not in {*Mark}:
        raise CommandError(f"the mark {word!r} is not keep, reject or star")
    note = (cells.get("note") or "") if "note" in cells else None
    return NewMark(sha256=row.sha256, mark=None if word is None else Mark(word), note=note)


def _says_more(mark: NewMark, row: IndexRow) -> bool:
    return mark.mark not in {None, row.mark} or mark.note not in {None, row.note}
