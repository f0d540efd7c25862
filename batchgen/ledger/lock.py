"""One run at a time: a lock on the output folder that ends with the process that holds it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from batchgen.errors import OutputBusy
from batchgen.storage.tree import check_own_names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE_NAME = ".lock"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_TRIES = 5
_RETRY_SECONDS = 0.02


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock of the output folder. Raises OutputBusy with the process that has it.

    The kernel releases the lock when its owner ends, however it ends, so a dead owner never blocks a run. The lock is
    taken through a descriptor of the folder: a folder that is moved keeps its lock, and a new one at its path is left
    alone.
    """
    check_own_names(folder)
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while True:
            descriptor = os.open(FILE_NAME, _FLAGS, 0o644, dir_fd=folder_fd)
            try:
                if not _try_lock(descriptor):
                    raise OutputBusy(_busy(folder, _owner(folder / FILE_NAME)))
                if not _is_still(folder_fd, descriptor):
                    continue  # the last owner removed the file between our opening and our locking it
                _write_owner(descriptor)
                try:
                    yield
                finally:
                    if _is_still(folder_fd, descriptor):
                        os.unlink(FILE_NAME, dir_fd=folder_fd)
                return
            finally:
                os.close(descriptor)
    finally:
        os.close(folder_fd)


def _try_lock(descriptor: int) -> bool:
    """Take the lock; tried a few times, because `holder` takes it for a moment."""
    for _ in range(_TRIES):
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_RETRY_SECONDS)
    return False


def holder(folder: Path) -> str | None:
    """The process that is running this output now, in a few words, or None."""
    try:
        descriptor = os.open(folder / FILE_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _owner(folder / FILE_NAME)
    finally:
        os.close(descriptor)
    return None


def check_free(folder: Path) -> None:
    """Raise OutputBusy where another run has the output now; nothing is written."""
    if owner := holder(folder):
        raise OutputBusy(_busy(folder, owner))


def _is_still(folder_fd: int, descriptor: int) -> bool:
    try:
        return os.stat(FILE_NAME, dir_fd=folder_fd, follow_symlinks=False).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _write_owner(descriptor: int) -> None:
    owner = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(owner).encode(), 0)


def _busy(folder: Path, owner: str) -> str:
    advice = "Wait for it, or give this run another folder with --output."
    return f"Another run of {folder} is going ({owner}). {advice}"


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
