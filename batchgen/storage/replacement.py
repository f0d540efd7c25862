"""Replaces a file at once: it is written beside its place, then moved there."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A name beside `path` to write to, which takes its place at the end; the old file stays whole where that fails.

    Where nothing is left under that name, `path` stays as it is. `durable`: the content is on disk before it is moved.
    Raises OSError.
    """
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)  # a link of that name would be followed
    try:
        yield beside
        if beside.exists():
            if durable:
                with beside.open("rb") as file:
                    os.fsync(file.fileno())
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
