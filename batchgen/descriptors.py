"""File descriptors: how many this process may have, and which errors mean that there are too few.

Each connection and each open file takes one. Many systems start with 256 or 1,024, and let a process ask for more.
"""

from __future__ import annotations

import errno
import resource
from contextlib import suppress

_WANTED = 16_384
_OTHER = 64  # for the ledger, the log, the event loop, DNS, and what Python opens by itself


def raise_limit() -> int:
    """Raise the limit to as many as are useful and allowed; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    now, most = (_WANTED if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))
    most = min(_WANTED, most)
    if now < most:
        with suppress(OSError, ValueError):  # some systems allow less than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return most
    return now


def connections(wanted: int, downloads: int) -> int:
    """How many connections to a gateway to open beside so many downloads, each with a connection and files."""
    return max(4, min(wanted, raise_limit() - _OTHER - 3 * downloads))


def is_short_of_descriptors(error: BaseException) -> bool:
    """Whether an error, or its cause, says that this process or the system may open no more."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in {errno.EMFILE, errno.ENFILE}:
            return True
        seen = getattr(seen, "os_error", None) or seen.__cause__
    return False
