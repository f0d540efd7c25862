"""Detects network file systems, on which SQLite's WAL is not safe.

WAL needs memory that all processes share, so all must be on one machine (SQLite's documentation, "Write-Ahead
Logging"). On a network file system the ledger keeps a rollback journal instead.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_TABLE = "/proc/self/mounts"
_SHARED = re.compile(
    r"nfs\d?|cifs|smb\w*|ncpfs|9p|virtiofs|afs|coda|lustre|ceph|glusterfs|gpfs|beegfs|ocfs2|gfs2?|davfs"
    r"|fuse\.(sshfs|ceph\S*|gluster\S*|rclone|s3fs|gcsfuse|goofys|davfs2?|smb\S*|juicefs|mergerfs)"
)


def shared_kind(folder: Path, table: str | None = None) -> str | None:
    """The type of the network file system that the folder is on, or None.

    `table` is the text of /proc/self/mounts; where a system has no such file, the answer is None.
    """
    if table is None:
        try:
            with open(_TABLE, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123 - a kernel's file
                table = file.read()
        except OSError:
            return None
    kind = _kind_at(str(folder.resolve()), table)
    return kind if _SHARED.fullmatch(kind) else None


def _kind_at(path: str, table: str) -> str:
    """The type of the nearest mount above the path; of two at one point, the later hides the earlier."""
    nearest, kind = "", ""
    for line in table.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = _unescaped(fields[1])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(nearest):
            nearest, kind = point, fields[2]
    return kind


def _unescaped(name: str) -> str:
    r"""The kernel writes blanks in names as octal, `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name)
