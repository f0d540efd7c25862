"""Marks in a CSV file, as the gallery saves it or a spreadsheet does: `sha256` or `file_name`, `mark`, `note`."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from batchgen.errors import CommandError
from batchgen.ledger.records import Mark, NewMark
from batchgen.ledger.store import FILE_NAME, reading
from batchgen.source.encoding import decode, load_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from batchgen.ledger.records import IndexRow

_SHOWN = 10


def read_marks(path: Path, root: Path, rows: list[IndexRow]) -> list[NewMark]:
    """The marks of a file for images of the output; those that its images have already are left out.

    An empty mark takes a person's mark away. A mark of an image that was replaced since is kept too. Raises
    CommandError with the line of every row that is wrong.
    """
    text = decode(load_bytes(path, str(path)), str(path))
    first = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    by_name = {name: row for row in rows for name in (row.sha256, row.path)}
    faults: list[tuple[int, str]] = []
    marks: dict[str, NewMark] = {}
    lines: dict[str, int] = {}
    try:
        columns = [(name or "").strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        if not {"sha256", "file_name"} & {*columns} or not {"mark", "note"} & {*columns}:
            raise CommandError(f"{path}:1: the first line names the columns sha256 or file_name, and mark or note.")
        for cells in reader:
            sha256, name = _cell(cells, "sha256").lower(), _cell(cells, "file_name")
            row = by_name.get(sha256 or name)
            try:
                mark = _mark(cells, row.sha256 if row else sha256 or name)
            except ValueError:
                faults.append((reader.line_num, f"the mark {_cell(cells, 'mark')!r} is not keep, reject or star"))
                continue
            lines.setdefault(mark.sha256, reader.line_num)
            if marks.setdefault(mark.sha256, mark) != mark:
                faults.append((reader.line_num, f"line {lines[mark.sha256]} gives this image another mark"))
    except csv.Error as error:
        faults.append((reader.line_num, f"no CSV: {error}"))
    absent = {name for name in marks if name not in by_name}
    if absent:
        with reading(root / FILE_NAME) as ledger:
            absent -= ledger.known_hashes(absent)
    faults += [(lines[name], f"no image of {root} is {name or 'named here'}") for name in absent]
    if faults:
        more = [f"… and {len(faults) - _SHOWN} more."] if len(faults) > _SHOWN else []
        told = [f"{path}:{line}: {fault}." for line, fault in sorted(faults)[:_SHOWN]]
        raise CommandError("\n".join([*told, *more, "Nothing was changed."]))
    return [mark for mark in marks.values() if _says_more(mark, by_name.get(mark.sha256))]


def _cell(cells: dict[str, str], name: str) -> str:
    return (cells.get(name) or "").strip()


def _mark(cells: dict[str, str], sha256: str) -> NewMark:
    word = _cell(cells, "mark").lower() if "mark" in cells else None
    note = (cells.get("note") or "") if "note" in cells else None
    return NewMark(sha256=sha256, mark=None if word is None else Mark(word), note=note)


def _says_more(mark: NewMark, row: IndexRow | None) -> bool:
    return row is None or mark.mark not in {None, row.mark} or mark.note not in {None, row.note}
