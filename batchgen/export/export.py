"""Exports images of an output: chooses them, loads and changes them in threads, and writes what has changed."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from batchgen.errors import CommandError
from batchgen.export import pixels, provenance
from batchgen.export.file_formats import CsvTable, ZipArchive
from batchgen.export.folder_formats import ImageFile, JsonLines, ParquetShard, WebDatasetShard
from batchgen.export.selection import Selection
from batchgen.export.target import FolderTarget, State, are_same, replaced
from batchgen.ledger import lock
from batchgen.ledger.store import path_in, reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from batchgen.export.folder_formats import Writer
    from batchgen.export.request import Request
    from batchgen.export.selection import Entry, Item

T = TypeVar("T")
_VERSION = "1"  # of what is written; a higher one writes every file anew
_SHEET_PIXELS = 720  # the longest side of an image on a contact sheet


class Fault(NamedTuple):
    """An image that could not be exported, and why."""

    path: str
    why: str


@dataclass(slots=True, kw_only=True)
class Report:
    """What an export did. `running`: the process that is making images of this output meanwhile."""

    images: int = 0
    splits: Mapping[str, int] = field(default_factory=dict)
    written: int = 0  # files
    unchanged: int = 0
    removed: int = 0
    rejected: int = 0
    duplicates: int = 0
    faults: list[Fault] = field(default_factory=list)
    running: str | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class _Unit:
    """One file of a folder. `has_bytes`: images are loaded for it."""

    name: str
    digest: str
    entries: Sequence[Entry]
    open: Callable[[Path], Writer]
    has_bytes: bool = True


def export(root: Path, request: Request, on_image: Callable[[int, int], None] = lambda _done, _all: None) -> Report:
    """Export images of the output in `root`; `on_image` is told how many of how many are done.

    Raises CommandError where nothing can be exported; nothing is written then.
    """
    ledger_path = path_in(root, "export", merged=True)
    request.check(root)
    running = lock.holder(root)
    with _naming(tempfile.gettempdir()), closing(Selection(request)) as selection:
        with reading(ledger_path) as ledger:
            labels = {name for row in ledger.index_rows() for name in row.job.labels} if request.names else set()
            selection.read(ledger.index_rows(), frozenset(labels))
        exporter = _Exporter(root, request, selection, on_image)
        with _naming(str(request.to)), exporter.pool:
            report = exporter.run()
    report.running = running and (lock.holder(root) or running)
    return report


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Name the place in the error of a full disk, which names none."""
    try:
        yield
    except OSError as error:
        if error.filename:
            raise
        why = os.strerror(error.errno) if error.errno else str(error)  # pyarrow has words of its own
        raise OSError(error.errno, why, path) from error


class _Exporter:
    def __init__(
        self, root: Path, request: Request, selection: Selection, on_image: Callable[[int, int], None]
    ) -> None:
        self._root, self._request, self._selection, self._on_image = root, request, selection, on_image
        self._workers = min(8, os.cpu_count() or 1)
        self.pool = ThreadPoolExecutor(self._workers)  # Pillow and hashlib let other threads run
        self._report = Report(rejected=selection.rejected)
        self._faulty: set[str] = set()

    def run(self) -> Report:
        if self._request.drop_duplicates == "perceptual":
            self._drop_alike()
        if not self._selection.entries:
            raise CommandError(f"No image is selected, so nothing was written.{self._left_out()}")
        if self._request.format.name == "contact-sheet":
            self._write_sheet()
        elif self._request.format.endings:
            self._write_file()
        else:
            self._write_folder()
        report, entries = self._report, self._selection.entries
        report.duplicates += self._selection.duplicates
        report.images = len(entries) - len(self._faulty)
        report.splits = dict(Counter(entry.split for entry in entries if entry.split and entry.key not in self._faulty))
        return report

    def _left_out(self) -> str:
        return f" {self._report.rejected} are marked reject (--where mark=reject)." if self._report.rejected else ""

    # --- loading ------------------------------------------------------------------------------------------

    def _loaded(self, entries: Iterable[Entry], total: int) -> Iterator[tuple[Item, bytes | None]]:
        """Each image in order with its bytes, changed as asked for; None where it cannot be exported."""
        items = self._selection.items(entries)
        for done, (item, found) in enumerate(self._in_order(self._load, items), 1):
            self._on_image(done, total)
            yield item, self._checked(item, found)

    def _checked(self, item: Item, found: bytes | Fault) -> bytes | None:
        if isinstance(found, bytes):
            return found
        self._faulty.add(item.key)
        self._report.faults.append(found)
        return None

    def _in_order(self, work: Callable[[Item], T], items: Iterable[Item]) -> Iterator[tuple[Item, T]]:
        """The results of the threads in the order of the items; few are worked on ahead, so memory stays flat."""
        waiting: deque[tuple[Item, Any]] = deque()
        stream = iter(items)
        try:
            while True:
                for item in islice(stream, 3 * self._workers - len(waiting)):
                    waiting.append((item, self.pool.submit(work, item)))
                if not waiting:
                    return
                item, future = waiting.popleft()
                yield item, future.result()
        finally:
            for _, future in waiting:
                future.cancel()

    def _load(self, item: Item) -> bytes | Fault:
        try:
            if not self._request.format.has_images:
                return b"" if (self._root / item.source).is_file() else Fault(item.source, "missing")
            data = (self._root / item.source).read_bytes()
        except FileNotFoundError:
            return Fault(item.source, "missing")
        except OSError as error:
            return Fault(item.source, f"cannot be read: {error.strerror}")
        if hashlib.sha256(data).hexdigest() != item.sha256:
            return Fault(item.source, "changed")
        try:
            return self._changed(data, item)
        except pixels.CannotChange as error:
            return Fault(item.source, str(error))

    def _changed(self, data: bytes, item: Item) -> bytes:
        request = self._request
        resize, encoding = request.resize, request.encode
        if request.format.name == "contact-sheet":
            resize, encoding = min(resize or _SHEET_PIXELS, _SHEET_PIXELS), "jpeg"
        if resize or encoding:
            data = pixels.encode(data, resize=resize, encoding=encoding, quality=request.quality, strip=request.strip)
        if request.strip:
            data = provenance.strip(data)
        return provenance.embed(data, item.record) if request.embed else data

    def _drop_alike(self) -> None:
        """Leave out each image that looks like an earlier one. What cannot be decoded looks like no other."""

        def look(item: Item) -> pixels.Fingerprint | None:
            try:
                return pixels.fingerprint((self._root / item.source).read_bytes())
            except (OSError, pixels.CannotChange):
                return None

        alike, entries = pixels.AlikeImages(), self._selection.entries
        looks = self._in_order(look, self._selection.items(entries))
        kept = [e for e, (_, found) in zip(entries, looks, strict=True) if found is None or not alike.has(found)]
        self._report.duplicates += len(entries) - len(kept)
        self._selection.entries = kept

    # --- one file -----------------------------------------------------------------------------------------

    def _write_file(self) -> None:
        columns, entries = self._selection.columns, self._selection.entries
        writers: dict[str, Callable[[Path], Writer]] = {
            "jsonl": partial(JsonLines, columns=columns),
            "csv": partial(CsvTable, columns=columns),
            "zip": ZipArchive,
        }
        with replaced(self._request.to) as path:
            with closing(writers[self._request.format.name](path)) as writer:
                self._fill(writer, self._loaded(entries, len(entries)))
            self._check_any(len(entries))
            self._report.unchanged = int(are_same(path, self._request.to))
        self._report.written = 1 - self._report.unchanged

    def _write_sheet(self) -> None:
        from batchgen.export.contact_sheet import ContactSheet  # noqa: PLC0415 - loads its libraries

        request, entries = self._request, self._selection.entries
        sheet = ContactSheet(self._root.resolve().name, len(entries), columns=request.columns, fonts=request.fonts)
        self._fill(sheet, self._loaded(entries, len(entries)))
        self._check_any(len(entries))
        self._report.written = len(sheet.save(request.to))
        self._report.warnings += sheet.warnings

    def _fill(self, writer: Writer, loaded: Iterable[tuple[Item, bytes | None]]) -> int:
        number = 0
        for item, data in loaded:
            if data is not None:
                writer.add(item, data)
                number += 1
        return number

    def _check_any(self, selected: int) -> None:
        if len(self._faulty) == selected:
            first = self._report.faults[0]
            raise CommandError(
                f"None of the {selected} images can be exported ({first.path}: {first.why}), so nothing was written."
            )

    # --- folders ------------------------------------------------------------------------------------------

    def _write_folder(self) -> None:
        request, report = self._request, self._report
        target = FolderTarget(request.to, request.format.name)
        with target.entered():
            units, shards = self._units(target.state)
            fresh = [unit for unit in units if unit.has_bytes and not target.has(unit.name, unit.digest)]
            total = sum(len(unit.entries) for unit in fresh)
            loaded = self._loaded(chain.from_iterable(unit.entries for unit in fresh), total)
            new = State(format=request.format.name, shard_size=request.shard_size, shards=shards)
            stale = {unit.name for unit in fresh}
            for unit in units:
                faults = len(self._faulty)
                if unit.name in stale:
                    source: Iterable[tuple[Item, bytes | None]] = islice(loaded, len(unit.entries))
                else:
                    left = [entry for entry in unit.entries if entry.key not in self._faulty]
                    if unit.has_bytes or (len(left) == len(unit.entries) and target.has(unit.name, unit.digest)):
                        new.files[unit.name] = unit.digest
                        report.unchanged += 1
                        continue
                    source = ((item, b"") for item in self._selection.items(left))
                    unit.digest = unit.digest if len(left) == len(unit.entries) else ""
                path = target.new(unit.name)
                with closing(unit.open(path)) as writer:
                    number = self._fill(writer, source)
                if number:
                    new.files[unit.name] = unit.digest if len(self._faulty) == faults else ""
                    report.written += 1
                else:
                    path.unlink(missing_ok=True)
            self._check_any(len(self._selection.entries))
            report.removed = target.commit(new)

    def _units(self, state: State) -> tuple[list[_Unit], dict[str, list[str]]]:
        columns = self._selection.columns
        match self._request.format.name:
            case "imagefolder":
                return [*self._image_units(), *self._metadata_units()], {}
            case "webdataset":
                return self._shard_units(state, "tar", partial(WebDatasetShard, columns=columns))
            case _:
                return self._shard_units(state, "parquet", partial(ParquetShard, columns=columns))

    def _image_units(self) -> Iterator[_Unit]:
        entries = self._selection.entries
        for entry, item in zip(entries, self._selection.items(entries), strict=True):
            content = entry.digest.encode() if self._request.embed else entry.sha256
            yield _Unit(name=item.name, digest=self._digest([content]), entries=[entry], open=ImageFile)

    def _metadata_units(self) -> Iterator[_Unit]:
        columns = self._selection.columns
        for split, entries in _by_split(self._selection.entries).items():
            yield _Unit(
                name=f"{split}/metadata.jsonl",
                digest=self._digest([repr(columns).encode(), *(entry.digest.encode() for entry in entries)]),
                entries=entries,
                open=partial(JsonLines, columns=columns, in_split=True),
                has_bytes=False,
            )

    def _shard_units(
        self, state: State, ending: str, opener: Callable[[Path], Writer]
    ) -> tuple[list[_Unit], dict[str, list[str]]]:
        """The shards: an image stays in the one that has it; new ones go to the last, then to further ones."""
        size = self._request.shard_size
        before = state.shards if state.shard_size == size else {}
        columns = repr(self._selection.columns).encode()
        units, keys = [], {}
        for split, entries in _by_split(self._selection.entries).items():
            for name, members in _shards(split, entries, before, size, ending).items():
                digest = self._digest([columns, *(entry.digest.encode() for entry in members)])
                units.append(_Unit(name=name, digest=digest, entries=members, open=opener))
                keys[name] = [entry.key for entry in members]
        return units, keys

    def _digest(self, parts: Iterable[bytes]) -> str:
        request = self._request
        how = [_VERSION, request.resize, request.encode, request.quality, request.strip, request.embed]
        return hashlib.sha256(b"\0".join([repr(how).encode(), *parts])).hexdigest()[:20]


def _by_split(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.split, []).append(entry)
    return found


def _shards(
    prefix: str, entries: Iterable[Entry], before: Mapping[str, Sequence[str]], size: int, ending: str
) -> dict[str, list[Entry]]:
    left = {entry.key: entry for entry in entries}
    shards: dict[str, list[Entry]] = {}
    number = -1
    for name in sorted(each for each in before if each.rpartition("-")[0] == prefix):
        number = int(name.rpartition("-")[2].removesuffix(f".{ending}"))
        if members := [left.pop(key) for key in before[name] if key in left]:
            shards[name] = members
    rest = list(left.values())
    name = f"{prefix}-{number:05d}.{ending}"
    if name in shards:
        free = size - len(shards[name])
        shards[name] = shards[name] + rest[:free]
        rest = rest[free:]
    for at in range(0, len(rest), size):
        number += 1
        shards[f"{prefix}-{number:05d}.{ending}"] = rest[at : at + size]
    return shards
