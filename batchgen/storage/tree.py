"""The output folder: scratch files, and moving whole files into place.

A file reaches its place in the same way, whether it was downloaded, renamed or retired: it is written whole to the
scratch folder under a name of its own, then the ledger records its path, then it is moved there. Whatever is
interrupted, `reconcile.finish_moves` finishes: a scratch file whose hash the ledger has only needs to be moved, every
other one is an unfinished download.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from batchgen.descriptors import is_short_of_descriptors
from batchgen.errors import CommandError, DiskRefused, RunStopped, TooFewDescriptors
from batchgen.jobs import ReceivedImage
from batchgen.storage.images import inspect

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from batchgen.jobs import ImageKey

SCRATCH = ".scratch"
_TOPS = ("images", "retired", "watermarked")
_OWN_FILES = (
    *(".lock", ".index.csv.new", ".failures.csv.new", ".metadata.csv.new", ".sandbox.jsonl"),
    *(f"state.sqlite3{end}" for end in ("", "-journal", "-wal", "-shm")),
)


class Tree:
    """One output folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.scratch = root / SCRATCH
        self._known_folders: set[str] = set()
        self._identity: tuple[int, int] | None = None  # of the folder, once it is prepared
        self._tops: dict[str, tuple[int, int]] = {}  # which folder, on which device, each of `_TOPS` is

    def prepare(self) -> None:
        """Make the folder, and try to write to it before anything is paid for. Raises RunStopped where that fails."""
        try:
            mkdir_durable(self.root)
            self._identity = _identity(self.root)
            check_own_names(self.root)
            self.scratch.mkdir(exist_ok=True)
            for folder in (self.scratch, *(self.root / top for top in _TOPS)):
                if folder.exists():
                    self._tops[folder.name] = _identity(folder)
                    _probe(folder)
        except OSError as error:
            raise disk_refused(error, error.filename or self.root) from error
        for name in ("index.csv", "failures.csv", "metadata.csv"):
            if (self.root / name).is_dir():
                raise DiskRefused(f"{self.root / name} is a folder, and should be a file. Move it away.")

    def check_in_place(self) -> None:
        """Raise RunStopped where the folder was moved during the run: its path may be that of another one."""
        with suppress(OSError):
            if self._identity is None or _identity(self.root) == self._identity:
                return
        raise RunStopped(
            f"{self.root} was moved while this run was going. Nothing more is sent, and nothing is lost: run again with"
            " --output and the folder's new path."
        )

    def scratch_path(self, key: ImageKey) -> Path:
        """The path of an image until it is moved into place."""
        return self.scratch / scratch_name(key)

    def take(self, name: str, key: ImageKey, size: int) -> bool:
        """Take the scratch file of one try as the image's; False where it is not there, or not of this size."""
        source = self.scratch / name
        try:
            if source.stat().st_size != size:
                return False
            source.replace(self.scratch_path(key))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise disk_refused(error, source) from error
        return True

    def place(self, key: ImageKey, path: str) -> None:
        """Move a whole file from the scratch folder to its place; a user's file of that name is set aside."""
        self.check_in_place()
        target = self.root / path
        source = self.scratch_path(key)
        try:
            self._check_top(path)
            self._make_folder(target.parent)
            if target.exists() and not _are_same(source, target):
                set_aside(target, self.root / "retired" / f"{target.stem}-found{target.suffix}")
            _move(source, target)
        except OSError as error:
            raise disk_refused(error, target) from error

    def move_to_scratch(self, key: ImageKey, path: str) -> bool:
        """Move a file from its place back to the scratch folder, to be placed elsewhere; False if it is missing."""
        try:
            self.scratch.mkdir(exist_ok=True)  # else a file that is there would seem to be missing
            _move(self.root / path, self.scratch_path(key))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise disk_refused(error, self.root / path) from error
        self._known_folders.clear()
        return True

    def remove_scratch_if_empty(self) -> None:
        """Remove the scratch folder when it is empty."""
        _remove_if_empty(self.scratch)

    def remove_empty_folders(self) -> None:
        """Remove folders that have become empty."""
        for top in _TOPS:
            for folder, _, _ in os.walk(self.root / top, topdown=False):
                _remove_if_empty(folder)
        self._tops.clear()
        self._known_folders.clear()

    def _check_top(self, path: str) -> None:
        """Raise RunStopped where the top folder is another one than before: a file in a mount point would be lost."""
        top = self.root / path.partition("/")[0]
        try:
            now = _identity(top)
        except FileNotFoundError:
            if top.name not in self._tops and not top.is_symlink():
                return  # the first file of a new output
            now = None
        if self._tops.setdefault(top.name, now or (0, 0)) != now:
            raise folder_gone(top)

    def _make_folder(self, folder: Path) -> None:
        name = str(folder)
        if name not in self._known_folders:
            top = self.root / folder.relative_to(self.root).parts[0]
            top.mkdir(exist_ok=True)
            above = next(each for each in (folder, *folder.parents) if each.exists())
            if not above.resolve().is_relative_to(top.resolve()):
                raise RunStopped(
                    f"{above} leads out of {top} by a symbolic link, and batchgen writes nowhere else. Remove the link;"
                    f" {top} itself may be one."
                )
            folder.mkdir(parents=True, exist_ok=True)
            self._known_folders.add(name)


def scratch_name(key: ImageKey) -> str:
    """The name of an image's scratch file; one of a single try has a dot and a nonce after it."""
    return "-".join(map(str, key))


def check_own_names(root: Path) -> None:
    """Raise CommandError where a file of batchgen's own is a symbolic link: its target would be written."""
    for name in (SCRATCH, *_OWN_FILES):
        if (root / name).is_symlink():
            raise CommandError(
                f"{root / name} is a symbolic link, and batchgen writes its own files into the output folder alone."
                " Remove it; only images, watermarked and retired may be links to other disks."
            )


def _probe(folder: Path) -> None:
    """Make and remove a file; a link of its name is not followed."""
    probe = folder / ".probe"
    if probe.is_symlink():
        probe.unlink()
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644))
    probe.unlink()


def mkdir_durable(folder: Path) -> None:
    """Make a folder that survives a power cut: each new name is synced in the folder above it.

    The ledger is in the folder, so an intent is on disk only when the folder is.
    """
    if folder.is_dir():
        return
    mkdir_durable(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut, as they are now."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems cannot sync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_chunk(path: Path, pieces: Sequence[bytes], *, first: bool) -> None:
    """Write a part of a body to a scratch file; runs in a thread."""
    try:
        with path.open("wb" if first else "ab") as file:
            file.writelines(pieces)
    except OSError as error:
        raise _not_written(error, path) from error


def finish_file(path: Path, pieces: Sequence[bytes], *, first: bool) -> ReceivedImage:
    """Write the last pieces, check the image, hash it and sync it; runs in a thread.

    A body that came in one chunk is checked and hashed in memory: to read it back costs as much as the check.
    Raises ImageBroken where it is not a whole image, RunStopped where the disk refuses.
    """
    body = b"".join(pieces)
    try:
        with path.open("wb" if first else "ab") as file:
            file.write(body)
            file.flush()
            image = _image(body if first else path.read_bytes())
            os.fsync(file.fileno())
            return replace(image, mtime_ns=os.fstat(file.fileno()).st_mtime_ns)
    except OSError as error:
        raise _not_written(error, path) from error


def read_image(path: Path) -> ReceivedImage:
    """The image that a file holds. Raises ImageBroken, and OSError where the file cannot be read.

    It is read whole, not mapped: the process would be killed where someone shortens a mapped file.
    """
    return replace(_image(path.read_bytes()), mtime_ns=path.stat().st_mtime_ns)


def _image(body: bytes) -> ReceivedImage:
    info = inspect(body)
    return ReceivedImage(
        sha256=hashlib.sha256(body).hexdigest(),
        bytes=len(body),
        width=info.width,
        height=info.height,
        ext=info.format.ext,
        mtime_ns=0,
        warning=info.warning,
    )


def _not_written(error: OSError, path: Path) -> RunStopped | TooFewDescriptors:
    if is_short_of_descriptors(error):
        return TooFewDescriptors(f"{path} cannot be opened: {error.strerror}.")
    return disk_refused(error, path)


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 - before each file that is put into place
    return status.st_dev, status.st_ino


def _are_same(source: Path, target: Path) -> bool:
    """A move between two disks that was interrupted may have left the file in both places."""
    return (
        target.is_file() and source.stat().st_size == target.stat().st_size and sha256_of(source) == sha256_of(target)
    )


def folder_gone(folder: Path) -> DiskRefused:
    """The error that ends a run whose images are suddenly all missing."""
    return DiskRefused(
        f"{folder} is empty or another folder than before: is a drive not mounted? Nothing more is sent, and no image"
        " is recorded as lost. Restore the folder, then run again to go on; or, if the images are really lost, download"
        " them again, unpaid, with --refetch."
    )


def set_aside(source: Path, target: Path) -> None:
    """Keep a file that is in the way, or was changed, under a name with the hash of its content."""
    target = target.with_name(f"{target.stem}-{sha256_of(source)[:8]}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _move(source, target)
    except OSError as error:
        raise disk_refused(error, target) from error


def _move(source: Path, target: Path) -> None:
    """Rename; where the folders are on different disks, copy beside the target first."""
    try:
        os.replace(source, target)  # noqa: PTH105 - half the cost of Path.replace
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.with_name(f".{target.name}.new")
        beside.unlink(missing_ok=True)  # a link there would be followed
        shutil.copy2(source, beside)
        with beside.open("rb") as copy:
            os.fsync(copy.fileno())  # else a power cut might take both
        beside.replace(target)
        source.unlink()


def sha256_of(path: Path | str) -> str:
    """The hash of a file, in hexadecimal."""
    with open(path, "rb") as file:  # noqa: PTH123 - names in the tree are text, as in the ledger
        return hashlib.file_digest(file, "sha256").hexdigest()


def disk_refused(error: OSError, path: object) -> DiskRefused:
    """The error that ends a run when the disk refuses."""
    return DiskRefused(
        f"{path} cannot be written: {error.strerror or error}. Nothing more is sent; free disk space or fix the"
        " permissions, then run again to go on."
    )


def _remove_if_empty(folder: str | Path) -> None:
    with suppress(OSError):  # a folder that is not empty stays: that is the wish
        os.rmdir(folder)  # noqa: PTH106 - names in the tree are text
