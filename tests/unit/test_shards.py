"""Shards of a manifest: every job is in exactly one, and all are of one size."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest

from batchgen.errors import CommandError
from batchgen.jobs import ID_LENGTH, job_id
from batchgen.shards import Shard

IDS = [job_id(f"prompt {number}", b"") for number in range(20_000)]


@pytest.mark.parametrize("of", [1, 2, 3, 7, 8, 36, 100])
def test_every_job_is_in_exactly_one_shard_and_shards_are_even(of):
    sizes = Counter()
    for id_ in IDS[:4000] if of > 8 else IDS:
        (number,) = (number for number in range(1, of + 1) if Shard(number, of).has(id_))
        sizes[number] += 1
    mean = sum(sizes.values()) / of
    assert sum((sizes[number] - mean) ** 2 / mean for number in range(1, of + 1)) < of + 5 * (2 * of) ** 0.5 + 5  # chi²


def test_the_number_of_an_id_is_its_125_bits():
    for id_ in IDS[:100]:
        assert len(id_) == ID_LENGTH
        number = sum("abcdefghijklmnopqrstuvwxyz234567".index(c) << 5 * at for at, c in enumerate(reversed(id_[1:])))
        assert Shard(1 + number % 7, 7).has(id_)


def test_which_shard_a_job_is_in_never_changes():
    """A job that changes its shard is paid for again, as one that changes its id."""
    shards = "".join(str(next(k for k in range(1, 9) if Shard(k, 8).has(id_))) for id_ in sorted(IDS[:1000]))
    assert hashlib.sha256(shards.encode()).hexdigest()[:16] == "978fc6b127090298"


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "a/b", "1 / 3", "½/3", "1/999999"])
def test_what_is_no_shard_is_refused_with_how_to_write_one(text):
    with pytest.raises(CommandError, match="write K/N"):
        Shard.parse(text)


def test_a_shard_is_written_in_one_way():
    assert str(Shard.parse("02/08")) == "2/8"
