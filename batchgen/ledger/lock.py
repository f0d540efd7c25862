"""One run at a time: a lock on the output folder that dies with its owner."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from batchgen.errors import CommandError, OutputBusy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE_NAME = ".lock"
_TRIES = 5
_BETWEEN_SECONDS = 0.02


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """SlotPermit the output folder's lock, or raise OutputBusy with the owner's own words.

    The kernel releases the lock when its owner ends, however it ends: a dead owner is never in the way,
    also after a restart with the same process id in use. The folder itself is held too: one that is moved away
    keeps its lock, and whatever stands at its path then is left alone.
    """
    path = folder / FILE_NAME
    within = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while True:
            descriptor = _opened(path, within)
            try:
                if not _taken(descriptor):
                    raise OutputBusy(_busy(folder, _words(path)))
                if not _is_still(within, descriptor):
                    continue  # the last owner removed the file between our opening and our locking it
                _sign(descriptor)
                try:
                    yield
                finally:
                    if _is_still(within, descriptor):
                        os.unlink(FILE_NAME, dir_fd=within)
                return
            finally:
                os.close(descriptor)
    finally:
        os.close(within)


def _opened(path: Path, within: int) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(FILE_NAME, flags, 0o644, dir_fd=within)
    except OSError as error:
        if error.errno != errno.ELOOP:
            error.filename = str(path)
            raise
        raise CommandError(
            f"{path} is a symbolic link, and batchgen writes into no other folder. Remove it."
        ) from error


def _taken(descriptor: int) -> bool:
    """Take the lock; tried a few times, for `holder` has it for a moment when it looks."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(_BETWEEN_SECONDS)
        else:
            return True
    return False


def holder(folder: Path) -> str | None:
    """Who is running this output just now, in a few words, or None."""
    try:
        descriptor = os.open(folder / FILE_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _words(folder / FILE_NAME)
    finally:
        os.close(descriptor)
    return None


def check_free(folder: Path) -> None:
    """Raise OutputBusy where another run has the output just now; nothing is written."""
    if words := holder(folder):
        raise OutputBusy(_busy(folder, words))


def _is_still(within: int, descriptor: int) -> bool:
    try:
        return os.stat(FILE_NAME, dir_fd=within, follow_symlinks=False).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    owner = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(owner).encode(), 0)


def _busy(folder: Path, words: str) -> str:
    advice = "Wait for it, or give this run another folder with --output."
    return f"Another run of {folder} is going ({words}). {advice}"


def _words(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
