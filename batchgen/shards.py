"""`--shard K/N`: which of a manifest's jobs one of several coordinators makes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from batchgen.errors import CommandError

_WRITTEN = re.compile(r"([0-9]{1,5})/([0-9]{1,5})")
# The letters of an id are base32 as RFC 4648 has it; `int` has other ones. Its first character is a version.
_DIGITS = str.maketrans("abcdefghijklmnopqrstuvwxyz234567", "0123456789abcdefghijklmnopqrstuv")


@dataclass(frozen=True, slots=True)
class Shard:
    """The jobs whose id, read as a number, is `number - 1` modulo `of`: each job is in exactly one shard.

    Base32, so that the remainders are even: an id is a hash of 125 bits.
    """

    number: int  # from 1
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `K/N`. Raises CommandError."""
        match = _WRITTEN.fullmatch(text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise CommandError(
                f"{text!r} is no shard; write K/N, the number of this shard and how many there are: 1/3, 2/3 and 3/3"
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        """As on the command line."""
        return f"{self.number}/{self.of}"

    def has(self, job_id: str) -> bool:
        """Whether the job with this id is in the shard."""
        return int(job_id[1:].translate(_DIGITS), 32) % self.of == self.number - 1


def shard_of(text: str | None) -> Shard | None:
    """The shard that an option names; None: all jobs. Raises CommandError."""
    return None if text is None else Shard.parse(text)
