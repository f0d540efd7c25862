"""`verify`: every file of an output against its record: present, whole, the same hash, and none besides."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from batchgen.reports.index import INDEX, index_is_current
from batchgen.storage import paths
from batchgen.storage.tree import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchgen.ledger.image_queries import StoredImage
    from batchgen.ledger.store import Ledger
    from batchgen.storage.tree import Tree

_TOPS = ("images", "watermarked")
_DROPPINGS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})  # of file browsers


class Fault(StrEnum):
    """What can be wrong with a file."""

    MISSING = "missing"
    CHANGED = "changed"
    FOREIGN = "foreign"
    RETURNED = "returned"  # it was missing for a run, and is there again


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What stands where an image's file should be; `mtime_ns` is None where no file does."""

    fault: Fault | None
    mtime_ns: int | None


def look_at(root: str, image: StoredImage, *, closely: bool = False) -> Seen:
    """Compare a file with what the ledger knows of it; `closely`: its content too where its time has not changed.

    Raises OSError where it cannot be told what is there.
    """
    path = f"{root}/{image.path}"
    try:
        status = os.stat(path)  # noqa: PTH116 - of every image at every start: half the cost of Path.stat
    except (FileNotFoundError, NotADirectoryError):
        return Seen(fault=Fault.MISSING, mtime_ns=None)
    if not stat.S_ISREG(status.st_mode):
        return Seen(fault=Fault.MISSING, mtime_ns=None)
    is_same = status.st_size == image.bytes and (
        (status.st_mtime_ns == image.mtime_ns and not closely) or sha256_of(path) == image.sha256
    )
    return Seen(fault=None if is_same else Fault.CHANGED, mtime_ns=status.st_mtime_ns)


def is_back(root: str, image: StoredImage) -> bool:
    """Whether a file that was lost stands at its place again; `image` has the path and the hash that it had."""
    try:
        return sha256_of(f"{root}/{image.path}") == image.sha256
    except OSError:
        return False


def is_asked_for(image: StoredImage) -> bool:
    """Whether a run looks after the file. What is retired may be edited or deleted: then it is the user's."""
    return not image.path.startswith(paths.RETIRED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A file that is not as the ledger knows it; `path` is relative to the output."""

    path: str
    fault: Fault


def findings(ledger: Ledger, tree: Tree) -> Iterator[Finding]:
    """Everything that is not as it should be. Reads every file once."""
    known: set[str] = set()
    for image in filter(is_asked_for, ledger.stored_images()):
        known.add(image.path)
        try:
            fault = look_at(str(tree.root), image, closely=True).fault
        except OSError:
            fault = Fault.CHANGED  # what cannot be read is not what was fetched
        if fault is not None:
            yield Finding(path=image.path, fault=fault)
    for image in ledger.lost_images():
        if is_asked_for(image) and image.path not in known and is_back(str(tree.root), image):
            known.add(image.path)
            yield Finding(path=image.path, fault=Fault.RETURNED)
    if not index_is_current(ledger, tree.root):
        yield Finding(path=INDEX, fault=Fault.CHANGED if (tree.root / INDEX).exists() else Fault.MISSING)
    for name in _files(tree):
        if name not in known and name.rpartition("/")[2] not in _DROPPINGS:
            yield Finding(path=name, fault=Fault.FOREIGN)


def _files(tree: Tree) -> Iterator[str]:
    for top in _TOPS:
        for folder, folders, names in os.walk(tree.root / top):
            folders.sort()
            for name in sorted(names):
                yield os.path.relpath(os.path.join(folder, name), tree.root).replace(os.sep, "/")  # noqa: PTH118
