"""Disk space that a run reserves, to record what it has paid for when the disk is full."""

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
    """A file without a name in the output folder: it disappears with the process, however that ends.

    Raises DiskRefused where the disk has no space for it: such a run could not record what it pays for.
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
                f"The disk of {folder} {why}: a run reserves {size // 2**20} MB to record what it has paid for."
                " Nothing was sent; free disk space, then run again."
            ) from error

    def release(self) -> bool:
        """Free a part of it, the last time the file's inode too; False when nothing is left."""
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
        """Nothing to do: the space is reserved already."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Free all of it."""
        self._file.close()
