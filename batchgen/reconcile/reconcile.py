"""Brings the files of an output and the ledger's record of them together, before and after a run.

- What a stopped run left in the scratch folder is moved into place or removed.
- Files that are lost or were changed are recorded as missing, to be downloaded again (never made again).
- Images that the manifest no longer asks for move to `retired/`; those asked for again move back; those
  whose name has changed move too. None of it costs anything.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from batchgen.errors import ImageBroken
from batchgen.formatting import counted
from batchgen.ledger.events import Fetched, Missing, RehearsalDropped, Relocated
from batchgen.ledger.store import FOLDER_TIMES, IMAGES_APART
from batchgen.reconcile.files import Fault, check_file, has_returned, is_managed
from batchgen.reconcile.folders import LARGE, FolderTimes, are_unchanged
from batchgen.reports.index import INDEX
from batchgen.storage import paths
from batchgen.storage.tree import (
    SCRATCH,
    disk_refused,
    folder_gone,
    read_image,
    set_aside,
    sha256_of,
    sync_folder,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from batchgen.ledger.reader import LedgerReader
    from batchgen.ledger.records import StoredImage
    from batchgen.ledger.store import Ledger
    from batchgen.reconcile.files import FileState
    from batchgen.storage.paths import PathTemplate
    from batchgen.storage.tree import Tree

_IMAGES = paths.IMAGES.rstrip("/")
_MANY = 20  # images: so many are not lost all at once
Move = tuple["StoredImage", str]


def finish_moves(ledger: Ledger, tree: Tree) -> None:
    """Move into place what a stopped run left whole in the scratch folder; remove the rest of it."""
    for file in sorted(tree.scratch.iterdir()) if tree.scratch.is_dir() else []:
        if file.is_symlink():
            file.unlink()  # a download would be written to its target
            continue
        if not file.is_file():
            continue  # not batchgen's
        name, _, nonce = file.name.partition(".")  # a worker's file has one until it is taken as the image's
        image = ledger.image_named(name)
        if image is None or file.stat().st_size != image.bytes or sha256_of(file) != image.sha256:
            file.unlink()
        elif nonce and check_file(str(tree.root), image).fault is None:
            file.unlink()  # another try's: the image is in its place
        else:
            file.replace(tree.scratch / name)
            tree.place(image.key, image.path)


# --- what is missing ------------------------------------------------------------------------------------------


def check_folder(ledger: LedgerReader, root: Path) -> None:
    """Raise RunStopped where images/ is absent or empty, though it should hold images: a drive is not mounted.

    Call it before any file is moved, for a file would be moved into the empty mount point.
    """
    folder = root / _IMAGES
    scratch = root / SCRATCH  # with images that are to be moved into the folder
    moving = sum(1 for _ in scratch.iterdir()) if scratch.is_dir() else 0
    is_dangling = folder.is_symlink() and not folder.exists()
    enough = moving + (1 if is_dangling else 2)
    if ledger.count_in_place(enough) == enough and not _has_entries(folder):
        raise folder_gone(folder)


def check_not_away(ledger: LedgerReader, root: Path, away: int, of: int) -> None:
    """Raise RunStopped where `away` of `of` images are missing because a drive is not mounted."""
    if away and (away == of >= _MANY or _has_left_its_disk(ledger, root)):
        raise folder_gone(root / _IMAGES)


def record_missing(ledger: Ledger, tree: Tree, *, refetch: bool = False) -> int:
    """Record every image whose file is lost or changed. A changed file is set aside under `retired/`.

    In a large output of which nothing has changed since each file was checked, only the folders are checked.
    Raises RunStopped where a drive seems not to be mounted, unless lost images are to be downloaded again (`refetch`).
    """
    root = str(tree.root)
    if _is_unchanged(ledger, root):
        return 0
    missing: list[StoredImage] = []
    changed: list[StoredImage] = []
    restored: list[StoredImage] = []
    touched: list[tuple[int, str, int, int, int]] = []
    folders = FolderTimes(root)
    checked = 0
    for image in ledger.stored_images():
        checked += is_managed(image)
        folders.add(image.path)
        state = _state(root, image)
        if state.fault is Fault.MISSING:
            missing.append(image)
        elif state.fault is Fault.CHANGED:
            original = replace(image, sha256=image.lost_sha256 or "")
            (restored if has_returned(root, original) else changed).append(original)
        elif state.mtime_ns is not None and state.mtime_ns != image.mtime_ns:
            touched.append((state.mtime_ns, *image.key))
    if not refetch:
        check_not_away(ledger, tree.root, sum(map(is_managed, missing)), checked)
    for image in filter(is_managed, changed):
        set_aside(tree.root / image.path, tree.root / image.retired_path("-changed"))
    ledger.record_all(Missing(key=image.key) for image in [*missing, *changed])
    ledger.record_all(_returned(tree.root, image) for image in restored)
    if touched:
        ledger.set_mtimes(touched)
    if not (missing or changed) and checked >= LARGE and not ledger.lost_images():
        ledger.set_meta(FOLDER_TIMES, json.dumps(folders.final()))
    return len(missing) + len(changed)


def missing_sentence(number: int, manifest: Path) -> str:
    """What a run does about files that are missing or changed, for who deleted them to have other images."""
    return (
        f"Missing or changed: {counted(number, 'file')}; what the gateway still has is downloaded again, unpaid. To get"
        f" another image, reject it: batchgen review {manifest} --reject FILE, then batchgen run {manifest} --remake"
        " rejected"
    )


def record_returned(ledger: Ledger, tree: Tree) -> int:
    """Record every image that was lost and is at its place again, with the hash that it had."""
    root = str(tree.root)
    if _is_unchanged(ledger, root):
        return 0
    returned = [image for image in ledger.lost_images() if has_returned(root, image)]
    if returned:
        used = {image.path for image in ledger.stored_images()}
        returned = [image for image in returned if image.path not in used]
    ledger.record_all(_returned(tree.root, image) for image in returned)
    return len(returned)


def record_disk(ledger: Ledger, tree: Tree) -> None:
    """Record whether images/ is on another disk than the ledger, to recognise it when that is not mounted."""
    folder = tree.root / _IMAGES
    if folder.exists() and ledger.meta(IMAGES_APART) != (now := str(int(_is_apart(tree.root)))):
        ledger.set_meta(IMAGES_APART, now)


def _is_unchanged(ledger: Ledger, root: str) -> bool:
    return are_unchanged(root, json.loads(ledger.meta(FOLDER_TIMES) or "{}"))


def _state(root: str, image: StoredImage) -> FileState:
    try:
        return check_file(root, image)
    except OSError as error:  # a disk that fails has not lost its files
        raise disk_refused(error, f"{root}/{image.path}") from error


def _has_entries(folder: Path) -> bool:
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
    return ledger.meta(IMAGES_APART) == "1" and not ((root / _IMAGES).exists() and _is_apart(root))


def _returned(root: Path, image: StoredImage) -> Fetched:
    """One with the same hash keeps its time of download."""
    return Fetched(key=image.key, path=image.path, image=read_image(root / image.path), at=0)


# --- what moves -----------------------------------------------------------------------------------------------


def retire(ledger: Ledger, tree: Tree) -> int:
    """Move what the manifest no longer asks for, and what a later attempt has replaced, to `retired/`."""
    return len(_move(ledger, tree, [(image, image.retired_path()) for image in ledger.images_to_retire()]))


def drop_rehearsals(ledger: Ledger, tree: Tree, base_urls: Sequence[str]) -> tuple[int, int]:
    """Retire what another sandbox than the accounts at these addresses made; returns how many jobs and files.

    The index goes first, and the moves are made durable: after a crash its rows, or files at their old places, would be
    images that the ledger does not know. Where other images are at their places, this ledger is an old copy: they stay,
    and the index that names them, so that nothing is sent before they are adopted.
    """
    jobs = ledger.rehearsed_jobs(base_urls)
    images = ledger.rehearsed_images(base_urls)
    painted = [image for image in images if not _is_replaced(tree, image)]
    moves = [(image, image.retired_path("-painted")) for image in painted]
    moved = _move(ledger, tree, moves)
    for folder in {(tree.root / path).parent for image, target in moves for path in (image.path, target)}:
        if folder.is_dir():
            sync_folder(folder)
    if jobs and len(painted) == len(images):
        (tree.root / INDEX).unlink(missing_ok=True)
    ledger.record_all(RehearsalDropped(job_id=id_, base_urls=tuple(base_urls)) for id_ in jobs)
    return len(jobs), len(moved)


def _is_replaced(tree: Tree, image: StoredImage) -> bool:
    """Whether another whole image is at its place."""
    with suppress(OSError, ImageBroken):
        return read_image(tree.root / image.path).sha256 != image.sha256
    return False


def rename(ledger: Ledger, tree: Tree, template: PathTemplate) -> None:
    """Move every wanted image to the name that the manifest now gives it, also out of `retired/`."""
    moves: list[Move] = []
    for image, job in ledger.wanted_images():
        path = template.render(job, image.index, os.path.splitext(image.path)[1])  # noqa: PTH122 - a million times
        if image.watermarked:
            path = paths.watermarked(path)
        if path != image.path:
            moves.append((image, path))
    moved = {image.key for image in _move(ledger, tree, moves)}
    missing = [image for image, _ in moves if image.key not in moved]
    ledger.record_all(Missing(key=image.key) for image in [*missing, *ledger.lost_and_wanted()])


def _move(ledger: Ledger, tree: Tree, moves: Iterable[Move]) -> list[StoredImage]:
    """Move the files that exist; returns their images.

    All files leave before any arrives, so that two may exchange their names; a later run finishes what a crash stops.
    """
    moving = [(image, path) for image, path in moves if tree.move_to_scratch(image.key, image.path)]
    if moving:  # else a power cut might take the files back to where the ledger no longer looks for them
        sync_folder(tree.scratch)
    ledger.record_all(Relocated(key=image.key, path=path) for image, path in moving)
    for image, path in moving:
        tree.place(image.key, path)
    return [image for image, _ in moving]
