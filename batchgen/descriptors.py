"""File descriptors: how many this process may have, and what a lack of them looks like.

Each connection and each open file takes one. Many systems start with 256 or 1,024, and let a process ask for more.
"""

from __future__ import annotations

import errno
import resource

WANTED = 16_384
_OURS = 64  # for the ledger, the log, the loop, the names of hosts, and what Python opens by itself


def raise_limit() -> int:
    """Ask for as many as are useful and allowed; how many there are then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError):  # some systems allow less than they say
            return soft
        return most
    return WANTED if soft == resource.RLIM_INFINITY else soft


def connections(wanted: int, downloads: int) -> int:
    """How many connections to a gateway leave room for so many downloads, each with its connection and its file."""
    return max(4, min(wanted, raise_limit() - _OURS - 3 * downloads))


def is_short_of_descriptors(error: BaseException) -> bool:
    """Whether an error, or what it comes from, says that this process or the system may open no more."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in {errno.EMFILE, errno.ENFILE}:
            return True
        seen = getattr(seen, "os_error", None) or seen.__cause__
    return False
