"""The choice of a sample: the jobs that rank lowest, each ranked by itself.

A job's rank is a hash of the seed and of its id (of its first repeat), so the choice is the same on every machine and
in every order, a larger count keeps all jobs of a smaller one, and a job that is added to the block displaces at most
one. Only the `count` lowest ranks are held during the search.
"""

from __future__ import annotations

import hashlib
import heapq
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_RANKED = 10_000_000  # combinations; about a minute


def rank(job_id: str, seed: int) -> int:
    """A job's rank among those that a sample chooses from. Never change it: users would pay again."""
    return int.from_bytes(hashlib.sha256(f"batchgen sample 1\0{seed}\0{job_id}".encode()).digest()[:16], "big")


def bound(ids: Iterable[str], count: int, seed: int) -> int | None:
    """The highest rank that is in the sample; None when all jobs are. Equal jobs count once."""
    lowest: list[int] = []  # a heap of negated ranks: the highest of them first
    held: set[int] = set()
    left_out = False
    for job_id in ids:
        place = rank(job_id, seed)
        if place in held:
            continue
        if len(lowest) < count:
            heapq.heappush(lowest, -place)
            held.add(place)
            continue
        left_out = True
        if place < -lowest[0]:
            held.add(place)
            held.discard(-heapq.heapreplace(lowest, -place))
    return -lowest[0] if left_out else None


def bounds(jobs: Iterable[tuple[str, str]], count: int, seed: int) -> dict[str, int]:
    """By value, the highest rank that is in a sample of the same number of each; `jobs` are ids, each with its value.

    Every value gives its lowest rank, then every value its second, and so on, until there are enough: a value with few
    jobs leaves its part to the others. A larger count keeps all of a smaller one here too.
    """
    held: dict[str, set[int]] = {}
    for job_id, value in jobs:
        ranks = held.setdefault(value, set())
        ranks.add(rank(job_id, seed))
        if len(ranks) >= 2 * count + 1000:
            held[value] = set(heapq.nsmallest(count, ranks))
    turns = ([(turn, each, value) for turn, each in enumerate(sorted(ranks))] for value, ranks in held.items())
    return {value: each for _, each, value in islice(heapq.merge(*turns), count)}
