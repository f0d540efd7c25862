"""The data of a gallery: columns, in scripts that the page loads when it needs them.

A page that was opened as a file may request nothing, but it may load scripts. `columns.js` has, of every image, what
filters and orders need: numbers, and positions in lists of values. The rest is in parts of some hundred images
(`images-0001.js`) and prompts (`prompts-0001.js`). `columns.js` names the digest of each part, so that a page that was
opened before the gallery was written again notices that a part is not of its time.
"""

from __future__ import annotations

import hashlib
import json
import re
from itertools import islice
from typing import TYPE_CHECKING, Any

from batchgen.ledger.records import Mark
from batchgen.storage.replacement import replacing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from batchgen.ledger.records import IndexRow

PART = 500  # images or prompts in a part
_AXES = ("model", "aspect_ratio", "resolution", "provider")
_MARKS = {mark: number for number, mark in enumerate((Mark.NONE, Mark.KEEP, Mark.REJECT, Mark.STAR))}
# What ends a script, and what ends a line to browsers before 2019.
_IN_SCRIPTS = {ord("<"): "\\u003c", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_DATA_FILE = re.compile(r"(columns|(images|prompts)-\d{4,})\.js")


class _Values:
    """A column of few different values: each value once, and of each image its position; -1 where it has none."""

    def __init__(self) -> None:
        self.positions: dict[str, int] = {}
        self.rows: list[int] = []

    def add(self, value: str) -> None:
        self.rows.append(self.positions.setdefault(value, len(self.positions)))

    def pad(self, rows: int) -> None:
        self.rows += [-1] * (rows - len(self.rows))

    def as_data(self, key: str) -> dict[str, Any]:
        return {"key": key, "values": list(self.positions), "rows": self.rows}


class _Columns:
    """What `columns.js` holds."""

    def __init__(self) -> None:
        self.count = 0
        self.axes = {key: _Values() for key in _AXES}
        self.labels: dict[str, _Values] = {}  # and further parameters, by their columns in the index
        self.scores: dict[str, list[float | None]] = {}
        self.prompts: dict[tuple[str, str], int] = {}
        self.prompt: list[int] = []
        self.mark: list[int] = []
        self.notes: dict[int, str] = {}  # of the few rows that have one
        self.cost: list[int | None] = []
        self.time: list[int | None] = []
        self.sha256: list[str] = []

    def add(self, row: IndexRow) -> None:
        parameters = row.job.parameters
        for key, value in zip(
            _AXES, (parameters.model, parameters.aspect_ratio, parameters.resolution, row.account), strict=True
        ):
            self.axes[key].add(value)
        shown = {f"label.{name}": str(label) for name, label in row.job.labels.items()}
        shown |= {f"parameter.{name}": str(given) for name, given in row.job.parameters.further}
        for name, value in shown.items():
            values = self.labels.setdefault(name, _Values())
            values.pad(self.count)
            values.add(value)
        for name, score in row.scores.items():
            scores = self.scores.setdefault(name, [])
            scores += [None] * (self.count - len(scores))
            scores.append(round(score, 6))
        self.prompt.append(self.prompts.setdefault((row.job.prompt_id, row.job.prompt), len(self.prompts)))
        self.mark.append(_MARKS[row.mark])
        if row.note:
            self.notes[self.count] = row.note
        self.cost.append(row.share)
        self.time.append(None if row.finished_at is None else row.finished_at // 1000)
        self.sha256.append(row.sha256)
        self.count += 1

    def as_data(self) -> dict[str, Any]:
        for values in self.labels.values():
            values.pad(self.count)
        for scores in self.scores.values():
            scores.extend([None] * (self.count - len(scores)))
        axes = [values.as_data(key) for key, values in self.axes.items()]
        axes += [values.as_data(name) for name, values in sorted(self.labels.items())]
        return {
            "count": self.count,
            "axes": axes,
            "scores": dict(sorted(self.scores.items())),
            "prompts": len(self.prompts),
            "prompt": self.prompt,
            "mark": self.mark,
            "notes": self.notes,
            "cost": self.cost,
            "time": self.time,
            "sha256": "".join(self.sha256),
        }


def write_pages(rows: Iterable[IndexRow], folder: Path, about: dict[str, Any]) -> str:
    """Write the data of these images into the folder and remove what is of no use now; returns the data's digest.

    `about`: what the page should know besides, such as the output's name. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns = _Columns()
    digests: dict[str, str] = {}
    for number, part in enumerate(_parts(rows), 1):
        for row in part:
            columns.add(row)
        name = f"images-{number:04}"
        digests[name] = _write_part(folder, name, _details(part))
    for number, prompts in enumerate(_parts(columns.prompts), 1):
        name = f"prompts-{number:04}"
        data = {"id": [id_ for id_, _ in prompts], "text": [text for _, text in prompts]}
        digests[name] = _write_part(folder, name, data)
    body = _script_text({**about, "part": PART, "digests": digests, **columns.as_data()})
    stamp = _digest(body)
    _replace(folder / "columns.js", f'store.load("{stamp}",{body});\n')
    current = {"columns.js", *(f"{name}.js" for name in digests)}
    for path in folder.iterdir():
        if _DATA_FILE.fullmatch(path.name) and path.name not in current:
            path.unlink(missing_ok=True)
    return stamp


def _parts(items: Iterable[Any]) -> Iterator[list[Any]]:
    stream = iter(items)
    while part := list(islice(stream, PART)):
        yield part


def _details(rows: list[IndexRow]) -> dict[str, Any]:
    """What the page shows of single images."""
    return {
        "file": [row.path for row in rows],
        "bytes": [row.bytes for row in rows],
        "width": [row.width for row in rows],
        "height": [row.height for row in rows],
        "job": [row.job.id for row in rows],
        "index": [row.index for row in rows],
        "task": [row.task_id for row in rows],
        "attempts": [row.attempts for row in rows],
        "submitted": [row.submitted_at for row in rows],
        "finished": [row.finished_at for row in rows],
        "warning": [row.warning for row in rows],
        "parameters": [_parameters(row) for row in rows],
    }


def _parameters(row: IndexRow) -> dict[str, Any]:
    """The rest of the request: what is no axis."""
    rest = {key: value for key, value in row.job.parameters.canonical().items() if key not in _AXES}
    return {**rest, "repeat": row.job.repeat} if row.job.repeat else rest


def _write_part(folder: Path, name: str, data: dict[str, Any]) -> str:
    """Write a part, unless it is there as it should be; returns its digest."""
    body = _script_text(data)
    digest = _digest(body)
    head = f'store.part("{name}","{digest}",'
    path = folder / f"{name}.js"
    if not path.is_file() or _begins_otherwise(path, head.encode()):
        _replace(path, f"{head}{body});\n")
    return digest


def _begins_otherwise(path: Path, head: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(head)) != head


def _script_text(data: object) -> str:
    """JSON that is a part of a script, whatever the texts in it are."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(_IN_SCRIPTS)


def _digest(text: str) -> str:
    return hashlib.sha256(_bytes(text)).hexdigest()[:16]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes the escape that a script has for it


def _replace(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_bytes(_bytes(text))
