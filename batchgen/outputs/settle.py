"""Brings the files of an output and the ledger's record of them together, before and after a run.

- What a stopped run left in the scratch folder is moved into place or removed.
- Files that are lost or were changed are noted as missing, to be fetched again (never made again).
- Images that the manifest no longer asks for move to `retired/`; those asked for again move back; those
  whose name has changed move too. None of it costs anything.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

from batchgen import paths
from batchgen.ledger.events import Missing, RehearsalDropped, Relocated
from batchgen.ledger.rehearsals import rehearsed_images, rehearsed_jobs
from batchgen.outputs.folders import LARGE, Folders, are_as_stamped
from batchgen.outputs.tree import set_aside, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batchgen.ledger.questions import StoredImage
    from batchgen.ledger.store import Ledger
    from batchgen.outputs.tree import Tree
    from batchgen.paths import PathTemplate

_BATCH = 1000
T = TypeVar("T")
Move = tuple["StoredImage", str]


def finish_moves(ledger: Ledger, tree: Tree) -> int:
    """Move into place what a stopped run left whole in the scratch folder; remove the rest of it."""
    placed = 0
    for file in sorted(tree.scratch.iterdir()) if tree.scratch.is_dir() else []:
        if file.is_symlink():
            file.unlink()  # a download would be written to where it leads
            continue
        if not file.is_file():
            continue  # not ours: scratch files are files
        image = ledger.image_named(file.name)
        if image is not None and file.stat().st_size == image.bytes and sha256_of(file) == image.sha256:
            tree.place(image.key, image.path)
            placed += 1
        else:
            file.unlink()
    return placed


def note_missing(ledger: Ledger, tree: Tree) -> int:
    """Note every image whose file is lost or changed. A changed file is set aside under `retired/`, not lost.

    In a large output of which nothing has changed since each file was looked at, the folders stand for the files.
    """
    root = str(tree.root)
    if are_as_stamped(root, ledger.folder_times()):
        return 0
    missing: list[Missing] = []
    same: list[tuple[int, str, int, int, int]] = []
    folders = Folders(root)
    looked_at = 0
    for image in ledger.stored_images():
        if image.path.startswith(paths.RETIRED):
            continue  # not asked for; when it is, `rename` misses it
        looked_at += 1
        folders.note(image.path)
        try:
            status = os.stat(f"{root}/{image.path}")  # noqa: PTH116 - of every image at every start: half the cost of Path.stat
        except (FileNotFoundError, NotADirectoryError):
            missing.append(_missing(image))
            continue
        if status.st_size == image.bytes and status.st_mtime_ns == image.mtime_ns:
            continue
        path = tree.root / image.path
        if status.st_size == image.bytes and sha256_of(path) == image.sha256:
            same.append((status.st_mtime_ns, *image.key))
            continue
        if path.is_file():
            set_aside(path, tree.root / _changed_path(image))
        missing.append(_missing(image))
    for batch in _batches(missing):
        ledger.record(batch)
    for times in _batches(same):
        ledger.touch(times)
    if not missing and looked_at >= LARGE:
        ledger.note_folder_times(folders.as_stamps())
    return len(missing)


def retire(ledger: Ledger, tree: Tree) -> int:
    """Move what the manifest no longer asks for, and what a later attempt has replaced, to `retired/`."""
    return len(_move(ledger, tree, [(image, retired_path(image)) for image in ledger.images_to_retire()]))


def drop_rehearsals(ledger: Ledger, tree: Tree, base_url: str) -> tuple[int, int]:
    """Retire what another sandbox than the account at this address has painted; how many jobs, and how many files."""
    jobs = rehearsed_jobs(ledger, base_url)
    moved = _move(ledger, tree, [(image, _painted_path(image)) for image in rehearsed_images(ledger, base_url)])
    for batch in _batches(jobs):
        ledger.record(RehearsalDropped(job_id=id_, base_url=base_url) for id_ in batch)
    return len(jobs), len(moved)


def rename(ledger: Ledger, tree: Tree, template: PathTemplate) -> int:
    """Move every wanted image to the name that the manifest now gives it, also out of `retired/`."""
    moves: list[Move] = []
    for image, job in ledger.wanted_images():
        path = template.render(job, image.index, os.path.splitext(image.path)[1])  # noqa: PTH122 - a million times
        if image.marked:
            path = paths.watermarked(path)
        if path != image.path:
            moves.append((image, path))
    moved = {image.key for image in _move(ledger, tree, moves)}
    for batch in _batches([image for image, _ in moves if image.key not in moved]):
        ledger.record(map(_missing, batch))
    return len(moved)


def _move(ledger: Ledger, tree: Tree, moves: Iterable[Move]) -> list[StoredImage]:
    """Move what is there, and return it.

    All files leave before any arrives, so that two may change places; a crash between is finished later.
    """
    under_way = [(image, path) for image, path in moves if tree.lift(image.key, image.path)]
    for batch in _batches(under_way):
        ledger.record(_relocated(image, path) for image, path in batch)
    for image, path in under_way:
        tree.place(image.key, path)
    return [image for image, _ in under_way]


def retired_path(image: StoredImage) -> str:
    """Where an image is kept that is not asked for: under a name that no other attempt of its job has."""
    path = paths.retired(image.path, image.job_id)
    stem, ext = os.path.splitext(path)  # noqa: PTH122
    suffix = ("" if image.last_attempt else f"-attempt{image.attempt}") + ("-watermarked" if image.marked else "")
    return f"{stem}{suffix}{ext}"


def _changed_path(image: StoredImage) -> str:
    stem, ext = os.path.splitext(paths.retired(image.path, image.job_id))  # noqa: PTH122
    return f"{stem}-changed{ext}"


def _painted_path(image: StoredImage) -> str:
    stem, ext = os.path.splitext(retired_path(image))  # noqa: PTH122
    return f"{stem}-painted{ext}"


def _relocated(image: StoredImage, path: str) -> Relocated:
    return Relocated(job_id=image.job_id, attempt=image.attempt, index=image.index, marked=image.marked, path=path)


def _missing(image: StoredImage) -> Missing:
    return Missing(job_id=image.job_id, attempt=image.attempt, index=image.index, marked=image.marked)


def _batches(items: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]
