"""Which images of an output an export has, and what it says of each.

What is said of an image waits in a temporary file, so that memory holds a few numbers for each image.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from typing import TYPE_CHECKING, Any, NamedTuple

from batchgen.export.pixels import ENCODINGS, new_size
from batchgen.ledger.records import Mark
from batchgen.reports.columns import further_cells
from batchgen.reports.index import INDEX_COLUMNS, index_cells
from batchgen.reports.where import Where
from batchgen.storage import paths

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batchgen.export.request import Request
    from batchgen.ledger.records import IndexRow

_OF_A_MARK = re.compile(r"\s*mark\s*[!=]")
_OF_THE_RUN = frozenset({"bytes", "task_id", "attempts", "cost", "submitted_at", "warning"})
_INTEGERS = frozenset({"bytes", "width", "height", "image_index", "attempts"})


class Entry(NamedTuple):
    """An image to be exported; the rest of what is known of it is in the spool, at `offset`."""

    key: str  # what identifies the image: its job and its number
    sha256: bytes
    digest: str  # of all that is said of it, and of its bytes
    split: str  # empty where there are none
    offset: int


class Item(NamedTuple):
    """One image as a format writes it. `record` has the columns of the export, without those that are empty."""

    key: str
    split: str
    name: str  # of its file, with `/`; unique among those of the export
    source: str  # its path in the output folder
    sha256: str
    record: dict[str, Any]


class Selection:
    """The chosen images of an output in manifest order. Close it: it has a temporary file."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._splits = request.splits
        self._is_table = not request.format.has_images
        self.entries: list[Entry] = []
        self.columns: dict[str, type] = {}  # in order, with the type of their values
        self.rejected = 0  # left out, because they are marked so
        self.duplicates = 0  # left out, because another image is the same
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._names: dict[str, int] = {}

    def close(self) -> None:
        self._spool.close()

    def read(self, rows: Iterable[IndexRow], labels: frozenset[str]) -> None:
        """Choose from all rows of an output; `labels` are those that any of them has. Raises CommandError."""
        request = self._request
        where = Where.parse(request.where)
        keeps_rejected = any(_OF_A_MARK.match(text) for text in request.where)
        template = None if request.template is None else paths.PathTemplate.parse(request.template, labels)
        hashes: set[bytes] = set()
        found: dict[str, type] = {}
        for row in rows:
            if not where.takes(row):
                continue
            if row.mark is Mark.REJECT and not keeps_rejected:
                self.rejected += 1
                continue
            sha256 = bytes.fromhex(row.sha256)
            if request.drop_duplicates:
                if sha256 in hashes:
                    self.duplicates += 1
                    continue
                hashes.add(sha256)
            self._add(row, sha256, template, found)
        self.columns = {name: _type_of(name) for name in _ordered(found, is_table=self._is_table)}

    def items(self, entries: Iterable[Entry]) -> Iterator[Item]:
        """What is known of these images, in this order."""
        for entry in entries:
            self._spool.seek(entry.offset)
            yield Item(entry.key, entry.split, *json.loads(self._spool.readline()))

    def _add(self, row: IndexRow, sha256: bytes, template: paths.PathTemplate | None, found: dict[str, type]) -> None:
        split = self._splits.of(row.job.prompt)
        name = self._name(row, template, split)
        record = self._record(row, split)
        found.update(dict.fromkeys(record, str))
        line = json.dumps([name, row.path, row.sha256, record], ensure_ascii=False).encode("utf-8", "surrogatepass")
        digest = hashlib.sha256(line).hexdigest()[:20]
        self.entries.append(Entry(f"{row.job.id}-{row.index}", sha256, digest, split, self._spool.tell()))
        self._spool.write(line + b"\n")

    def _name(self, row: IndexRow, template: paths.PathTemplate | None, split: str) -> str:
        """Its name by the template; a number is added to all but the first that would have the same."""
        own = row.path if template is None else template.render(row.job, row.index, _ext(row.path))
        stem, ext = (
            own.removeprefix(paths.IMAGES).removesuffix(_ext(own)),
            ENCODINGS.get(self._request.encode or "", _ext(own)),
        )
        while True:
            name = f"{split}/{stem}{ext}" if split else stem + ext
            folded = paths.folded(name)
            if folded not in self._names:
                self._names[folded] = 1
                return name
            self._names[folded] += 1
            stem = f"{stem}-{self._names[folded]}"

    def _record(self, row: IndexRow, split: str) -> dict[str, Any]:
        cells = dict(zip(INDEX_COLUMNS, index_cells(row), strict=False))
        cells |= {"mark": row.mark.value, "note": row.note}
        cells |= further_cells(row.job)
        cells |= {f"label.{name}": value for name, value in row.job.labels.items()}
        cells |= {f"score.{name}": value for name, value in row.scores.items()}
        if not self._is_table:
            del cells["file_name"]
            width, height = new_size((row.width, row.height), self._request.resize)
            cells |= {"width": width or "", "height": height or ""}
            cells = {name: value for name, value in cells.items() if name not in _OF_THE_RUN}
        elif split:
            cells["split"] = split
        return {name: value for name, value in cells.items() if value not in {"", None}}


def _ext(path: str) -> str:
    name = path.rpartition("/")[2]
    return name[name.rfind(".") :] if "." in name else ""


def _type_of(name: str) -> type:
    return int if name in _INTEGERS else float if name == "cost" or name.startswith("score.") else str


def _ordered(found: Iterable[str], *, is_table: bool) -> list[str]:
    """The columns: those of the index always, others where an image has them."""
    fixed = [name for name in INDEX_COLUMNS if is_table or name not in {"file_name", *_OF_THE_RUN}]
    others = sorted(name for name in found if name.startswith("parameter."))
    others += [*sorted(name for name in found if name.startswith("label.")), "mark", "note", "split"]
    others += sorted(name for name in found if name.startswith("score."))
    return fixed + [name for name in others if name in set(found)]
