"""Disk space that is held back while a run is going, for what is in hand when the disk is full."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Self

from batchgen.errors import DiskRefused

if TYPE_CHECKING:
    from pathlib import Path

_STEPS = 8


class Reserve:
    """A file without a name in the output folder: nothing of it is left, however the run ends.

    Raises DiskRefused where the disk has no room for it: a run that began then could not keep what it pays for.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._left = size
        self._step = -(-size // _STEPS)
        try:
            with ExitStack() as stack:
                self._file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
                os.posix_fallocate(self._file.fileno(), 0, size)
                stack.pop_all()  # from here on it is closed with the reserve
        except OSError as error:
            why = "is full" if error.errno in {errno.ENOSPC, errno.EDQUOT} else f"refuses ({error.strerror})"
            raise DiskRefused(
                f"The disk of {folder} {why}: there is no room for the {size // 2**20} MB that a run keeps free for"
                " what it has paid for. Nothing was sent; free disk space, then run again."
            ) from error

    def release(self) -> bool:
        """Give a part of it back to the disk, the last time the file's inode too; False when nothing is left."""
        if self._file.closed:
            return False
        self._left -= self._step
        with suppress(OSError):
            if self._left > 0:
                os.ftruncate(self._file.fileno(), self._left)
            else:
                self._file.close()
        return True

    def __enter__(self) -> Self:
        """It is held already."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Give all of it back."""
        self._file.close()
