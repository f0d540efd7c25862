"""The formats of one file for people and spreadsheets: CSV and ZIP."""

from __future__ import annotations

import csv
import zipfile
from typing import TYPE_CHECKING

from batchgen.reports.index import escaped

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from batchgen.export.selection import Item


class CsvTable:
    """A table for spreadsheets: it begins with the mark by which Excel knows UTF-8, and no cell is a formula."""

    def __init__(self, path: Path, columns: Mapping[str, type]) -> None:
        self._file = path.open("w", encoding="utf-8-sig", newline="")
        self._writer = csv.writer(self._file, lineterminator="\r\n")
        self._columns = list(columns)
        self._writer.writerow(escaped([*columns]))

    def add(self, item: Item, data: bytes) -> None:
        del data
        self._writer.writerow(escaped([item.record.get(name, "") for name in self._columns]))

    def close(self) -> None:
        self._file.close()


class ZipArchive:
    """The images alone, under their new names. The same images give the same bytes."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path, "w")

    def add(self, item: Item, data: bytes) -> None:
        member = zipfile.ZipInfo(item.name)  # with the date 1980-01-01
        member.external_attr = 0o644 << 16
        self._zip.writestr(member, data)

    def close(self) -> None:
        self._zip.close()
