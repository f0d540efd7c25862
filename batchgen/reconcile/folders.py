"""Tells whether the folders of a large output are as they were when every file in them was last looked at.

A file that is added, removed, renamed or replaced changes its folder's time; it is the ctime, for a copy or a restore
may set the other. One whose bytes are changed in place does not: a run of a large output leaves that to `verify`, for
to look at a million files takes minutes on a cold disk.
"""

from __future__ import annotations

import os
from time import time_ns
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGE = 50_000  # images from which on folders stand for their files
_MOST = 5_000  # folders that are worth it
_SETTLED_NS = 3_000_000_000  # a younger time may be of a change that came after we looked: clocks of disks are coarse


class Folders:
    """Folders of one output, and the times they had before their files were looked at."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._times: dict[str, int | None] = {}

    def note(self, path: str) -> None:
        """The file at this path, relative to the root, is about to be looked at."""
        folder = path.rpartition("/")[0]
        if folder not in self._times and len(self._times) <= _MOST:
            self._times[folder] = _time_of(self._root, folder)

    def as_stamps(self) -> dict[str, int]:
        """What is to be kept; empty where the folders cannot stand for their files."""
        latest = time_ns() - _SETTLED_NS
        stamps = {folder: time for folder, time in self._times.items() if time is not None and time < latest}
        return stamps if len(stamps) == len(self._times) <= _MOST else {}


def are_as_stamped(root: str, stamps: Mapping[str, int]) -> bool:
    """Whether each folder has the time that was noted."""
    return bool(stamps) and all(_time_of(root, folder) == time for folder, time in stamps.items())


def _time_of(root: str, folder: str) -> int | None:
    try:
        return os.stat(f"{root}/{folder}").st_ctime_ns  # noqa: PTH116 - names in the tree are text, as in the ledger
    except OSError:
        return None
