"""Brings the files of an output and the ledger's record of them together, before and after a run.

- What a stopped run left in the scratch folder is moved into place or removed.
- Files that are lost or were changed are noted as missing, to be fetched again (never made again).
- Images that the manifest no longer asks for move to `retired/`; those asked for again move back; those
  whose name has changed move too. None of it costs anything.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from batchgen.jobs import ImageFile
from batchgen.ledger.events import Fetched, Missing, RehearsalDropped, Relocated
from batchgen.ledger.rehearsals import rehearsed_images, rehearsed_jobs
from batchgen.ledger.store import IMAGES_APART
from batchgen.reconcile.files import Fault, is_asked_for, is_back, look_at
from batchgen.reconcile.folders import LARGE, Folders, are_as_stamped
from batchgen.storage import paths
from batchgen.storage.images import inspect_file
from batchgen.storage.tree import SCRATCH, disk_refused, gone_as_a_whole, set_aside, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from batchgen.ledger.image_queries import StoredImage
    from batchgen.ledger.reader import LedgerReader
    from batchgen.ledger.store import Ledger
    from batchgen.reconcile.files import Seen
    from batchgen.storage.paths import PathTemplate
    from batchgen.storage.tree import Tree

_BATCH = 1000
_IMAGES = paths.IMAGES.rstrip("/")
_MANY = 20  # images: so many are not lost all at once
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


def check_folder(ledger: LedgerReader, root: Path) -> None:
    """Raise RunStopped where images/ is not there, or empty, though it should hold images: a drive is not mounted.

    To be asked before anything else is moved, for that would go into the empty folder below.
    """
    folder = root / _IMAGES
    scratch = root / SCRATCH  # where images stand that are about to be moved into the folder
    under_way = sum(1 for _ in scratch.iterdir()) if scratch.is_dir() else 0
    is_dangling = folder.is_symlink() and not folder.exists()
    enough = under_way + (1 if is_dangling else 2)
    if ledger.images_in_place(enough) == enough and not _holds_anything(folder):
        raise gone_as_a_whole(folder)


def check_not_away(ledger: LedgerReader, root: Path, away: int, of: int) -> None:
    """Raise RunStopped where so many images are away, of so many, that a drive is not mounted rather than they lost."""
    if away and (away == of >= _MANY or _has_left_its_disk(ledger, root)):
        raise gone_as_a_whole(root / _IMAGES)


def note_missing(ledger: Ledger, tree: Tree, *, refetch: bool = False) -> int:
    """Note every image whose file is lost or changed. A changed file is set aside under `retired/`, not lost.

    In a large output of which nothing has changed since each file was looked at, the folders stand for the files.
    Raises RunStopped where they look as if a drive were not mounted, unless they are to be fetched again (`refetch`).
    """
    root = str(tree.root)
    if are_as_stamped(root, ledger.folder_times()):
        return 0
    missing: list[StoredImage] = []
    changed: list[StoredImage] = []
    restored: list[StoredImage] = []
    same: list[tuple[int, str, int, int, int]] = []
    folders = Folders(root)
    looked_at = 0
    for image in ledger.stored_images():
        looked_at += is_asked_for(image)
        folders.note(image.path)
        seen = _seen(root, image)
        if seen.fault is Fault.MISSING:
            missing.append(image)
        elif seen.fault is Fault.CHANGED:
            original = replace(image, sha256=image.lost_sha256 or "")
            (restored if is_back(root, original) else changed).append(original)
        elif seen.mtime_ns is not None and seen.mtime_ns != image.mtime_ns:
            same.append((seen.mtime_ns, *image.key))
    if not refetch:
        check_not_away(ledger, tree.root, sum(map(is_asked_for, missing)), looked_at)
    for image in filter(is_asked_for, changed):
        set_aside(tree.root / image.path, tree.root / _changed_path(image))
    for batch in _batches([*missing, *changed]):
        ledger.record(map(_missing, batch))
    for batch in _batches(restored):
        ledger.record(_returned(tree.root, image) for image in batch)
    for times in _batches(same):
        ledger.touch(times)
    if not (missing or changed) and looked_at >= LARGE and not ledger.lost_images():
        ledger.note_folder_times(folders.as_stamps())
    return len(missing) + len(changed)


def take_back(ledger: Ledger, tree: Tree) -> int:
    """Take back every image that was lost and stands at its place again, with the hash that it had."""
    root = str(tree.root)
    if are_as_stamped(root, ledger.folder_times()):
        return 0
    back = [image for image in ledger.lost_images() if is_back(root, image)]
    if back:
        taken = {image.path for image in ledger.stored_images()}
        back = [image for image in back if image.path not in taken]
    for batch in _batches(back):
        ledger.record(_returned(tree.root, image) for image in batch)
    return len(back)


def note_disk(ledger: Ledger, tree: Tree) -> None:
    """Note whether images/ is on another disk than the ledger, so that its being away is known for what it is."""
    folder = tree.root / _IMAGES
    if folder.exists() and ledger.note(IMAGES_APART) != (now := str(int(_is_apart(tree.root)))):
        ledger.set_note(IMAGES_APART, now)


def _seen(root: str, image: StoredImage) -> Seen:
    try:
        return look_at(root, image)
    except OSError as error:  # a disk that fails has not lost its files
        raise disk_refused(error, f"{root}/{image.path}") from error


def _holds_anything(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(not entry.name.startswith(".") for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise disk_refused(error, folder) from error


def _is_apart(root: Path) -> bool:
    return (root / _IMAGES).stat().st_dev != root.stat().st_dev


def _has_left_its_disk(ledger: LedgerReader, root: Path) -> bool:
    return ledger.note(IMAGES_APART) == "1" and not ((root / _IMAGES).exists() and _is_apart(root))


def _returned(root: Path, image: StoredImage) -> Fetched:
    path = root / image.path
    status = path.stat()
    info = inspect_file(path)
    return Fetched(
        job_id=image.job_id,
        attempt=image.attempt,
        image=ImageFile(
            index=image.index,
            path=image.path,
            sha256=image.sha256,
            bytes=status.st_size,
            width=info.width,
            height=info.height,
        ),
        marked=image.marked,
        mtime_ns=status.st_mtime_ns,
        at=0,  # what is the same as it was has been here since then
        warning=info.warning,
    )


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
    missing = [image for image, _ in moves if image.key not in moved]
    for batch in _batches([*missing, *ledger.lost_and_wanted()]):
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
