"""The output folder: scratch files, and moving whole files into place.

Every file reaches its place in the same way, whether it was fetched, renamed or retired: it stands whole
in the scratch folder under a name of its own, then the ledger records where it belongs, then it is moved.
Whatever stops in between, `reconcile.finish_moves` finishes: a scratch file that the ledger knows by its hash only
has to be moved, every other one is a torn download.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchgen.descriptors import is_short_of_descriptors
from batchgen.errors import CommandError, DiskRefused, RunStopped, TooFewDescriptors
from batchgen.storage.images import ImageInfo, inspect

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import FileIO
    from pathlib import Path

SCRATCH = ".scratch"
_TOPS = ("images", "retired", "watermarked")
_OWN_FILES = (
    *(".lock", ".index.csv.new", ".failures.csv.new", ".sandbox.jsonl"),
    *(f"state.sqlite3{end}" for end in ("", "-journal", "-wal", "-shm")),
)
_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeFile:
    """A file in the scratch folder that was checked and is on disk."""

    sha256: str
    bytes: int
    mtime_ns: int
    info: ImageInfo


class Tree:
    """One output folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.scratch = root / SCRATCH
        self._made: set[str] = set()
        self._identity: tuple[int, int] | None = None  # of the folder, once it is prepared
        self._tops: dict[str, tuple[int, int]] = {}  # which folder, on which device, each of `_TOPS` is

    def prepare(self) -> None:
        """Make the folder, and try what will be needed before anything is paid for.

        Raises RunStopped with a sentence where the disk does not let us.
        """
        try:
            make_lasting(self.root)
            self._identity = _identity(self.root)
            self._check_own_names()
            self.scratch.mkdir(exist_ok=True)
            for folder in (self.scratch, *(self.root / top for top in _TOPS)):
                if folder.exists():
                    self._tops[folder.name] = _identity(folder)
                    _probe(folder)
        except OSError as error:
            raise disk_refused(error, error.filename or self.root) from error
        for name in ("index.csv", "failures.csv"):
            if (self.root / name).is_dir():
                raise DiskRefused(f"{self.root / name} is a folder, and a file is to be written there. Move it away.")

    def _check_own_names(self) -> None:
        """Raise CommandError where a file of batchgen's own is a symbolic link: it would be written elsewhere."""
        for name in (SCRATCH, *_OWN_FILES):
            if (self.root / name).is_symlink():
                raise CommandError(
                    f"{self.root / name} is a symbolic link, and batchgen writes its own files into the output folder"
                    " alone. Remove it; only images, watermarked and retired may be links to other disks."
                )

    def check_in_place(self) -> None:
        """Raise RunStopped where the folder was moved away while the run is going: its path is no longer its own."""
        try:
            if self._identity is None or _identity(self.root) == self._identity:
                return
        except OSError as error:
            raise self._moved() from error
        raise self._moved()

    def _moved(self) -> RunStopped:
        return RunStopped(
            f"{self.root} was moved while this run was going. Nothing more is sent, and nothing is lost: run again with"
            " --output and the folder's new place."
        )

    def scratch_path(self, key: tuple[str, int, int, int]) -> Path:
        """Where an image (job id, attempt, index, marked) stands until it is moved into place."""
        return self.scratch / "-".join(map(str, key))

    def place(self, key: tuple[str, int, int, int], path: str) -> None:
        """Move a whole file from the scratch folder to its place; a file of the user's that is there is set aside."""
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

    def lift(self, key: tuple[str, int, int, int], path: str) -> bool:
        """Move a placed file back into the scratch folder, on its way to another place; False if it is not there."""
        try:
            _move(self.root / path, self.scratch_path(key))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise disk_refused(error, self.root / path) from error
        self._made.clear()
        return True

    def tidy(self) -> None:
        """Remove the scratch folder when it is empty."""
        _remove_if_empty(self.scratch)

    def prune(self) -> None:
        """Remove folders that have become empty."""
        for top in _TOPS:
            for folder, _, _ in os.walk(self.root / top, topdown=False):
                _remove_if_empty(folder)
        self._tops.clear()
        self._made.clear()

    def _check_top(self, path: str) -> None:
        """A file is put only into the folder that was there at first: under a drive that is gone, it would be lost."""
        top = self.root / path.partition("/")[0]
        try:
            now = _identity(top)
        except FileNotFoundError:
            if top.name not in self._tops and not top.is_symlink():
                return  # the first file of a new output
            now = None
        if self._tops.setdefault(top.name, now or (0, 0)) != now:
            raise gone_as_a_whole(top)

    def _make_folder(self, folder: Path) -> None:
        name = str(folder)
        if name not in self._made:
            top = self.root / folder.relative_to(self.root).parts[0]
            top.mkdir(exist_ok=True)
            above = next(each for each in (folder, *folder.parents) if each.exists())
            if not above.resolve().is_relative_to(top.resolve()):
                raise RunStopped(
                    f"{above} leads out of {top} by a symbolic link, and batchgen writes nowhere else. Remove the link;"
                    f" {top} itself may be one."
                )
            folder.mkdir(parents=True, exist_ok=True)
            self._made.add(name)


def _probe(folder: Path) -> None:
    """Try whether a file can be made; a link that stands at its name is not followed."""
    probe = folder / ".probe"
    if probe.is_symlink():
        probe.unlink()
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644))
    probe.unlink()


def make_lasting(folder: Path) -> None:
    """Make a folder that survives a power cut: each new name is synced in the folder above it.

    The ledger is in it: an intent that is on disk is none while the way to it is not.
    """
    if folder.is_dir():
        return
    make_lasting(folder.parent)
    folder.mkdir(exist_ok=True)
    above = os.open(folder.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems cannot sync a folder
            os.fsync(above)
    finally:
        os.close(above)


def write_slab(path: Path, pieces: Sequence[bytes], *, first: bool) -> None:
    """Write pieces of a body to a scratch file; runs in a thread."""
    try:
        with path.open("wb" if first else "ab") as file:
            file.writelines(pieces)
    except OSError as error:
        raise _not_written(error, path) from error


def finish(path: Path, pieces: Sequence[bytes], *, first: bool) -> WholeFile:
    """Write the last pieces, check the image, hash it and have it on disk; runs in a thread.

    A body that came in one slab is checked and hashed as it stands in memory: each reading back of it would cost
    as much as the check. Raises ImageBroken where it is not a whole image, RunStopped where the disk refuses.
    """
    body = b"".join(pieces)
    try:
        with path.open("wb" if first else "ab", buffering=0) as file:
            _write_all(file, body)
            if not first:
                body = path.read_bytes()
            info = inspect(body)
            os.fsync(file.fileno())
            status = os.fstat(file.fileno())
        sha256 = hashlib.sha256(body).hexdigest()
        return WholeFile(sha256=sha256, bytes=len(body), mtime_ns=status.st_mtime_ns, info=info)
    except OSError as error:
        raise _not_written(error, path) from error


def _not_written(error: OSError, path: Path) -> RunStopped | TooFewDescriptors:
    if is_short_of_descriptors(error):
        return TooFewDescriptors(f"{path} cannot be opened: {error.strerror}.")
    return disk_refused(error, path)


def _write_all(file: FileIO, body: bytes) -> None:
    """A full disk may take a part of it without an error; the next write then says why."""
    rest = memoryview(body)
    while rest:
        rest = rest[file.write(rest) :]


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 - before each file that is put into place
    return status.st_dev, status.st_ino


def _are_same(source: Path, target: Path) -> bool:
    """A move between two disks that was stopped half-way may have left the file at both ends."""
    return (
        target.is_file() and source.stat().st_size == target.stat().st_size and sha256_of(source) == sha256_of(target)
    )


def gone_as_a_whole(folder: Path) -> DiskRefused:
    """The sentence that ends a run whose images are suddenly all away."""
    return DiskRefused(
        f"{folder} is not the folder that it was, or is empty: is a drive not mounted? Nothing more is sent, and no"
        " image is taken to be lost. Bring the folder back, then run again to go on; or, if the images are really"
        " lost, fetch them again, unpaid, with --refetch."
    )


def set_aside(source: Path, target: Path) -> None:
    """Keep a file that is in the way, or not what it was, under a name that tells its content."""
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
    digest = hashlib.sha256()
    with open(path, "rb") as file:  # noqa: PTH123 - names in the tree are text, as in the ledger
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def disk_refused(error: OSError, path: object) -> DiskRefused:
    """A refusal of the disk as the sentence that ends the run."""
    return DiskRefused(
        f"{path} cannot be written: {error.strerror or error}. Nothing more is sent; mend it, then run again to go on."
    )


def _remove_if_empty(folder: str | Path) -> None:
    try:
        os.rmdir(folder)  # noqa: PTH106 - a folder that is not empty stays: that is the wish
    except OSError:
        return
