"""Detects network file systems, on which SQLite's WAL is not safe.

WAL needs memory that all processes share, so all must be on one machine (SQLite's documentation, "Write-Ahead
Logging"). On a network file system the ledger keeps a rollback journal instead.
"""

from __future__ import annotations

import re
from pathlib import Path

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
            table = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return None
    path, nearest, kind = f"{folder.resolve()}/", "", ""
    for mount in (line.split(" ") for line in table.splitlines()):
        if len(mount) > 2 and path.startswith(point := _unescaped(mount[1]).rstrip("/") + "/"):
            # Of two at one point, the later hides the earlier.
            nearest, kind = (point, mount[2]) if len(point) >= len(nearest) else (nearest, kind)
    return kind if _SHARED.fullmatch(kind) else None


def _unescaped(name: str) -> str:
    r"""The kernel writes blanks in names as octal, `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name)
