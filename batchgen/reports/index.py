"""`index.csv` and `failures.csv`: views of the ledger, written beside and moved into place when whole.

UTF-8, RFC 4180, in manifest order; the same state writes the same bytes. Cells hold the exact text, unless the
manifest asks for formulas to be escaped (`output.spreadsheet_safe`).
"""

from __future__ import annotations

import csv
import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from batchgen.ledger.store import VIEWS_STAMP
from batchgen.money import plain
from batchgen.storage.tree import disk_refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from batchgen.jobs import Job
    from batchgen.ledger.reader import LedgerReader
    from batchgen.ledger.records import FailureRow, IndexRow
    from batchgen.ledger.store import Ledger
    from batchgen.storage.tree import Tree

INDEX = "index.csv"
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")
FAILURES = "failures.csv"

_REQUEST = ("prompt_id", "prompt", "negative_prompt", "model", "aspect_ratio", "resolution")
INDEX_COLUMNS = (
    *("file_name", "sha256", "bytes", "width", "height", "job_id", "image_index"),
    *_REQUEST,
    *("provider", "task_id", "attempts", "submitted_at", "finished_at", "cost", "params", "warning"),
)
FAILURE_COLUMNS = (
    *("job_id", "status", "code", "message", "attempts", "task_id"),
    *_REQUEST,
    *("provider", "params"),
)


def write_views(ledger: Ledger, tree: Tree, *, escape_formulas: bool = False) -> None:
    """Write both views, unless they already show the ledger's latest change.

    `escape_formulas`: no cell is a formula to a spreadsheet. Raises RunStopped where the disk refuses; the files of
    before then stay whole.
    """
    stamp = views_stamp(tree.root, escape_formulas=escape_formulas)
    if stamp is not None and ledger.meta(VIEWS_STAMP) == stamp:
        return
    _write(tree, INDEX, _index(ledger, escape_formulas=escape_formulas))
    failures = map(_failure_cells, ledger.failure_rows())
    if (first := next(failures, None)) is None:
        (tree.root / FAILURES).unlink(missing_ok=True)
    else:
        _write(tree, FAILURES, _lines(FAILURE_COLUMNS, chain([first], failures), escape_formulas=escape_formulas))
    ledger.set_meta(VIEWS_STAMP, views_stamp(tree.root, escape_formulas=escape_formulas) or "")


def index_is_current(ledger: LedgerReader, root: Path) -> bool:
    """Whether index.csv is, to the byte, what the ledger gives, with formulas escaped or not."""
    return any(
        _is_made_of(root / INDEX, _index(ledger, escape_formulas=escape_formulas)) for escape_formulas in (False, True)
    )


def _is_made_of(path: Path, lines: Iterator[bytes]) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return all(file.read(len(line)) == line for line in lines) and not file.read(1)
    return False


def _index(ledger: LedgerReader, *, escape_formulas: bool) -> Iterator[bytes]:
    return _lines(INDEX_COLUMNS, map(_index_cells, ledger.index_rows()), escape_formulas=escape_formulas)


def _lines(columns: tuple[str, ...], rows: Iterable[list[object]], *, escape_formulas: bool) -> Iterator[bytes]:
    target: Any = SimpleNamespace(write=str.encode)  # whose result is that of `writerow`
    writer = csv.writer(target, lineterminator="\r\n")
    return map(writer.writerow, chain([columns], map(escaped, rows) if escape_formulas else rows))


def _write(tree: Tree, name: str, lines: Iterable[bytes]) -> None:
    beside = tree.root / f".{name}.new"
    try:
        with beside.open("wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(tree.root / name)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise disk_refused(error, tree.root / name) from error


def escaped(cells: list[object]) -> list[object]:
    """With an apostrophe before what a spreadsheet takes for a formula."""
    return [f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULAS) else cell for cell in cells]


def _index_cells(row: IndexRow) -> list[object]:
    return [
        row.path,
        row.sha256,
        row.bytes,
        row.width or "",
        row.height or "",
        row.job.id,
        row.index,
        *_request_cells(row.job),
        row.account,
        row.task_id,
        row.attempts,
        _time(row.submitted_at),
        _time(row.finished_at),
        _share(row),
        _params(row.job),
        row.warning,
    ]


def _failure_cells(row: FailureRow) -> list[object]:
    return [
        row.job.id,
        row.status.value,
        row.code,
        row.message,
        row.attempts,
        row.task_id,
        *_request_cells(row.job),
        row.account,
        _params(row.job),
    ]


def _request_cells(job: Job) -> tuple[object, ...]:
    parameters = job.parameters
    return (
        job.prompt_id,
        job.prompt,
        parameters.negative_prompt or "",
        parameters.model,
        parameters.aspect_ratio,
        parameters.resolution,
    )


def _params(job: Job) -> str:
    """The rest of the request, as JSON: `n`, the reference image by its content, fidelities, repeat, vars."""
    rest: dict[str, Any] = {k: v for k, v in job.parameters.canonical().items() if k not in _REQUEST}
    if job.repeat:
        rest["repeat"] = job.repeat
    if job.labels:
        rest["vars"] = dict(job.labels)
    return json.dumps(rest, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _share(row: IndexRow) -> str:
    """The image's share of its task's cost; the shares of a task sum to its cost exactly."""
    if row.cost is None:
        return ""
    share, rest = divmod(row.cost, row.delivered)
    micros = share + (1 if row.index < rest else 0)
    return plain(micros)


def _time(ms: int | None) -> str:
    """Unix milliseconds as ISO 8601 in UTC; empty where it is not known."""
    if ms is None:
        return ""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def views_stamp(root: Path, *, escape_formulas: bool = False) -> str | None:
    """Sizes and times of the views on disk, to see whether they are current; None where there is no index."""
    parts = []
    for name in (INDEX, FAILURES):
        try:
            status = (root / name).stat()
        except OSError:
            parts.append("-")
        else:
            parts.append(f"{status.st_size}:{status.st_mtime_ns}")
    return None if parts[0] == "-" else " ".join([*parts, *(["guarded"] if escape_formulas else [])])
