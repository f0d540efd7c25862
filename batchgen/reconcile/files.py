"""Compares the files of an output with the ledger's record of them."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from batchgen.reports.index import INDEX, index_is_current
from batchgen.storage import paths
from batchgen.storage.tree import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchgen.ledger.records import StoredImage
    from batchgen.ledger.store import Ledger
    from batchgen.storage.tree import Tree

_MOST_READERS = 8  # a disk that turns reads one file at a time
_READ_AHEAD = 256  # images
_BY_FILE_BROWSERS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


class Fault(StrEnum):
    """How a file can differ from the ledger's record."""

    MISSING = "missing"
    CHANGED = "changed"
    FOREIGN = "foreign"  # not batchgen's
    RETURNED = "returned"  # it was missing during a run, and is there again


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """The file at an image's path; `mtime_ns` is None where there is none."""

    fault: Fault | None
    mtime_ns: int | None


def check_file(root: str, image: StoredImage, *, content: bool = False) -> FileState:
    """Compare a file with the ledger's record; `content`: also where its size and time have not changed.

    Raises OSError where the file cannot be read.
    """
    path = f"{root}/{image.path}"
    try:
        status = os.stat(path)  # noqa: PTH116 - for every image at every start: half the cost of Path.stat
    except (FileNotFoundError, NotADirectoryError):
        status = None
    if status is None or not stat.S_ISREG(status.st_mode):
        return FileState(fault=Fault.MISSING, mtime_ns=None)
    is_same = status.st_size == image.bytes and (
        (status.st_mtime_ns == image.mtime_ns and not content) or sha256_of(path) == image.sha256
    )
    return FileState(fault=None if is_same else Fault.CHANGED, mtime_ns=status.st_mtime_ns)


def has_returned(root: str, image: StoredImage) -> bool:
    """Whether a lost file is at its path again, with its hash; `image` has both as they were."""
    try:
        return sha256_of(f"{root}/{image.path}") == image.sha256
    except OSError:
        return False


def is_managed(image: StoredImage) -> bool:
    """Whether batchgen restores the file when it is lost. The user may edit or delete what is retired."""
    return not image.path.startswith(paths.RETIRED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A file that differs from the ledger's record; `path` is relative to the output."""

    path: str
    fault: Fault


def findings(ledger: Ledger, tree: Tree) -> Iterator[Finding]:
    """Every file that is missing, changed or not batchgen's. Reads every file once."""
    known: set[str] = set()
    for image, fault in _faults(str(tree.root), filter(is_managed, ledger.stored_images())):
        known.add(image.path)
        if fault is not None:
            yield Finding(path=image.path, fault=fault)
    for image in ledger.lost_images():
        if is_managed(image) and image.path not in known and has_returned(str(tree.root), image):
            known.add(image.path)
            yield Finding(path=image.path, fault=Fault.RETURNED)
    if not index_is_current(ledger, tree.root):
        yield Finding(path=INDEX, fault=Fault.CHANGED if (tree.root / INDEX).exists() else Fault.MISSING)
    for name in files_below(tree.root, "images", "watermarked"):
        if name not in known and name.rpartition("/")[2] not in _BY_FILE_BROWSERS:
            yield Finding(path=name, fault=Fault.FOREIGN)


def _faults(root: str, images: Iterator[StoredImage]) -> Iterator[tuple[StoredImage, Fault | None]]:
    """Each image with what is wrong with its file, which is read: by threads, for hashing lets other threads run."""
    with ThreadPoolExecutor(min(_MOST_READERS, os.cpu_count() or 1)) as pool:
        while some := list(islice(images, _READ_AHEAD)):
            yield from zip(some, pool.map(partial(_fault, root), some), strict=True)


def _fault(root: str, image: StoredImage) -> Fault | None:
    try:
        return check_file(root, image, content=True).fault
    except OSError:
        return Fault.CHANGED  # an unreadable file is not what was downloaded


def files_below(root: Path, *tops: str) -> Iterator[str]:
    """The paths of all files in these folders, relative to the root."""
    for top in tops:
        for folder, folders, names in os.walk(root / top):
            folders.sort()
            for name in sorted(names):
                yield os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")  # noqa: PTH118
