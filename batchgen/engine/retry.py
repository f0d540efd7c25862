"""When to try again, as arithmetic: no clock, no waiting, chance is an argument."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

FIRST_SECONDS = 1.0  # the vendor asks for at least one second after 1303
LONGEST_SECONDS = 60.0


def backoff(times: int, chance: Random, *, asked: float | None = None) -> float:
    """Seconds to wait after the `times`-th refusal in a row (from 1): exponential, with jitter, never under a second.

    `asked` is the gateway's own Retry-After in seconds; it is a lower bound.
    """
    most = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** (times - 1))
    wait = max(FIRST_SECONDS, most * (0.5 + 0.5 * chance.random()))
    return max(wait, asked) if asked is not None else wait


def soon(times: int, chance: Random) -> float:
    """Seconds to wait before the next try of what is free to repeat, a download say: as `backoff`, but sooner."""
    return min(30.0, 0.25 * 2.0 ** (times - 1)) * (0.5 + 0.5 * chance.random())


def query_timeout(times: int) -> float:
    """Seconds to wait for the answer to what is free to repeat, after `times` tries in a row that had none.

    Asking again soon costs nothing; a slot, or a place among the downloads, that waits a minute for nobody does.
    """
    return min(LONGEST_SECONDS, 10.0 * 2.0**times)


def next_query(elapsed: float) -> float:
    """Seconds until a running task is worth asking for again, before anything is known of how long tasks take.

    `elapsed`: since it was accepted. Queries are free, but not for nothing: ever more rarely.
    """
    return min(15.0, max(0.25, 0.12 * elapsed))
