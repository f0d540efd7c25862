"""`verify`: every file of an output against its record: present, whole, the same hash, and none besides."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from batchgen.outputs.tree import sha256_of
from batchgen.outputs.views import INDEX, index_is_current

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchgen.ledger.store import Ledger
    from batchgen.outputs.tree import Tree

_TOPS = ("images", "watermarked")
_DROPPINGS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})  # of file browsers


class Fault(StrEnum):
    """What can be wrong with a file."""

    MISSING = "missing"
    CHANGED = "changed"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A file that is not as the ledger knows it; `path` is relative to the output."""

    path: str
    fault: Fault


def findings(ledger: Ledger, tree: Tree) -> Iterator[Finding]:
    """Everything that is not as it should be. Reads every file once."""
    known: set[str] = set()
    for image in ledger.stored_images():
        known.add(image.path)
        path = tree.root / image.path
        if not path.is_file():
            yield Finding(path=image.path, fault=Fault.MISSING)
        elif path.stat().st_size != image.bytes or sha256_of(path) != image.sha256:
            yield Finding(path=image.path, fault=Fault.CHANGED)
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
