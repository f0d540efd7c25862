"""`index.csv`, `failures.csv` and `metadata.csv`: views of the ledger, written beside and moved into place when whole.

UTF-8, RFC 4180, in manifest order; the same state writes the same bytes. Cells hold the exact text, unless the
manifest asks for formulas to be escaped (`output.spreadsheet_safe`).
"""

from __future__ import annotations

import csv
import json
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from batchgen.ledger.store import VIEWS_STAMP
from batchgen.money import plain
from batchgen.reports.columns import OwnColumns
from batchgen.storage.replacement import replacing
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
METADATA = "metadata.csv"  # as Hugging Face's `imagefolder` reads it
_WRITING = "being written"
_TRIES = 3

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


def write_views(ledger: Ledger, tree: Tree, *, escape_formulas: bool = False, metadata: bool | None = None) -> None:
    """Write the views, unless they already show the ledger's latest change.

    `escape_formulas`: no cell of index and failures is a formula to a spreadsheet. `metadata`: whether there is a
    metadata.csv, whose cells are always exact; None: where there is one. Raises RunStopped where the disk refuses; the
    files of before then stay whole.
    """
    stamp = views_stamp(tree.root, escape_formulas=escape_formulas)
    has_metadata = (tree.root / METADATA).exists()
    metadata = has_metadata if metadata is None else metadata
    if stamp is not None and ledger.meta(VIEWS_STAMP) == stamp and metadata is has_metadata:
        return
    for _ in range(_TRIES):
        ledger.set_meta(VIEWS_STAMP, _WRITING)
        _write_views(ledger, tree, escape_formulas=escape_formulas, metadata=metadata)
        stamp = views_stamp(tree.root, escape_formulas=escape_formulas)
        if ledger.swap_meta(VIEWS_STAMP, _WRITING, stamp or ""):
            return  # else a mark was stored meanwhile


def _write_views(ledger: Ledger, tree: Tree, *, escape_formulas: bool, metadata: bool) -> None:
    own = OwnColumns.of(ledger)
    _write(tree, INDEX, _index(ledger, own, escape_formulas=escape_formulas))
    failures = ([*_failure_cells(row), *own.job_cells(row.job)] for row in ledger.failure_rows())
    if (first := next(failures, None)) is None:
        (tree.root / FAILURES).unlink(missing_ok=True)
    else:
        columns = (*FAILURE_COLUMNS, *own.of_jobs)
        _write(tree, FAILURES, _lines(columns, chain([first], failures), escape_formulas=escape_formulas))
    if metadata:
        rows = map(own.dataset_cells, ledger.index_rows())
        _write(tree, METADATA, _lines(own.of_dataset, rows, escape_formulas=False))
    else:
        (tree.root / METADATA).unlink(missing_ok=True)


def index_is_current(ledger: LedgerReader, root: Path) -> bool:
    """Whether index.csv is, to the byte, what the ledger gives, with formulas escaped or not."""
    own = OwnColumns.of(ledger)
    return any(_is_made_of(root / INDEX, _index(ledger, own, escape_formulas=escape)) for escape in (False, True))


def _is_made_of(path: Path, lines: Iterator[bytes]) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return all(file.read(len(line)) == line for line in lines) and not file.read(1)
    return False


def _index(ledger: LedgerReader, own: OwnColumns, *, escape_formulas: bool) -> Iterator[bytes]:
    rows = ([*index_cells(row), *own.image_cells(row)] for row in ledger.index_rows())
    return _lines((*INDEX_COLUMNS, *own.of_images), rows, escape_formulas=escape_formulas)


def _lines(columns: tuple[str, ...], rows: Iterable[list[object]], *, escape_formulas: bool) -> Iterator[bytes]:
    target: Any = SimpleNamespace(write=str.encode)  # whose result is that of `writerow`
    writer = csv.writer(target, lineterminator="\r\n")
    return map(writer.writerow, chain([columns], map(escaped, rows) if escape_formulas else rows))


def _write(tree: Tree, name: str, lines: Iterable[bytes]) -> None:
    try:
        with replacing(tree.root / name, durable=True) as beside, beside.open("wb") as file:
            file.writelines(lines)
    except OSError as error:
        raise disk_refused(error, error.filename or tree.root / name) from error


def escaped(cells: list[object]) -> list[object]:
    """With an apostrophe before what a spreadsheet takes for a formula."""
    return [f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULAS) else cell for cell in cells]


def index_cells(row: IndexRow) -> list[object]:
    """The cells of an image's row, in the order of INDEX_COLUMNS."""
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
        "" if row.share is None else plain(row.share),
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


def _time(ms: int | None) -> str:
    """Unix milliseconds as ISO 8601 in UTC; empty where it is not known."""
    if ms is None:
        return ""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def views_stamp(root: Path, *, escape_formulas: bool = False) -> str | None:
    """Sizes and times of the views on disk, to see whether they are current; None where there is no index."""
    parts = []
    for name in (INDEX, FAILURES, METADATA):
        try:
            status = (root / name).stat()
        except OSError:
            parts.append("-")
        else:
            parts.append(f"{status.st_size}:{status.st_mtime_ns}")
    return None if parts[0] == "-" else " ".join([*parts, *(["guarded"] if escape_formulas else [])])
