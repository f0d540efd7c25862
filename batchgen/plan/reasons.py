"""Why a job is still to be made: what is new about it, against what the ledger has seen."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from batchgen.jobs import Job
    from batchgen.ledger.reader import LedgerReader
    from batchgen.ledger.records import JobState

NOTHING_YET = "nothing is there yet"
PAINTED = "painted by a sandbox, which does not count: the painted image moves to retired/"
NEW_PROMPT = "new prompt"
NEW_COMBINATION = "new combination of a known prompt"
ONE_MORE = "one more repeat"
_REMEMBERED = 10_000  # jobs no longer asked for whose parameters are compared


class Reasons:
    """What the ledger has seen, small enough to be held: prompts by a hash, and what is no longer asked for."""

    def __init__(self, ledger: LedgerReader, painted: Collection[str] = ()) -> None:
        self._painted = painted
        self._prompts = {_mark(prompt) for prompt in ledger.known_prompts()}
        self._dropped: dict[bytes, list[Mapping[str, object]]] = {}
        for job in ledger.unwanted_jobs(_REMEMBERED):
            self._dropped.setdefault(_mark(job.prompt), []).append(_asked(job))

    def of(self, job: Job, standing: JobState) -> str:
        """Why this pending job is pending, in a few words that many jobs share."""
        if job.id in self._painted:
            return PAINTED
        if standing.attempt:
            return "made nothing before: another attempt"
        if not self._prompts:
            return NOTHING_YET
        mark = _mark(job.prompt)
        if mark not in self._prompts:
            return NEW_PROMPT
        change = self._nearest_change(mark, _asked(job))
        if change:
            return f"changed: {change}"
        return ONE_MORE if job.repeat else NEW_COMBINATION

    def _nearest_change(self, mark: bytes, asked: Mapping[str, object]) -> str:
        """The one parameter in which this job differs from a job of the same prompt that is no longer asked for."""
        for before in self._dropped.get(mark, ()):
            differing = sorted(name for name in before.keys() | asked.keys() if before.get(name) != asked.get(name))
            if len(differing) == 1:
                (name,) = differing
                return f"{name} {_shown(before.get(name))} → {_shown(asked.get(name))}"
        return ""


def _asked(job: Job) -> dict[str, object]:
    return {**job.parameters.canonical(), "repeat": job.repeat}


def _shown(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _mark(prompt: str) -> bytes:
    return hashlib.blake2b(prompt.encode(), digest_size=8).digest()
