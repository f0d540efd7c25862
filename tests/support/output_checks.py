"""What must hold of an output folder after every run."""

from __future__ import annotations

import csv
import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def rows_of(root: Path, name: str = "index.csv") -> list[dict[str, str]]:
    path = root / name
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def check_invariant(root: Path) -> list[dict[str, str]]:
    """Each row is a file with that hash, and each file under images/ is a row."""
    rows = rows_of(root)
    for row in rows:
        data = (root / row["file_name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"], row["file_name"]
        assert len(data) == int(row["bytes"])
    files = {path.relative_to(root).as_posix() for path in (root / "images").rglob("*") if path.is_file()}
    assert files == {row["file_name"] for row in rows}
    assert not (root / ".scratch").exists()
    return rows
