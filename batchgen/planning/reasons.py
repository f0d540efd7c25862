"""Why a job is still to be made: what is new about it, compared with the jobs in the ledger."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import TYPE_CHECKING

from batchgen.manifest.diagnostics import cut

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from batchgen.jobs import Job
    from batchgen.ledger.reader import LedgerReader
    from batchgen.ledger.records import JobState

NOTHING_YET = "nothing is there yet"
UNICODE_FORM = "changed: the prompt's Unicode form; it looks the same, and its bytes are sent as written"
PAINTED = "painted by a sandbox, which does not count: the painted image moves to retired/"
_MOST_DROPPED = 10_000  # jobs no longer wanted whose parameters are compared


class Reasons:
    """What the ledger knows, small enough for memory: prompts by a hash, and jobs that are no longer wanted."""

    def __init__(self, ledger: LedgerReader, painted: Collection[str] = ()) -> None:
        self._painted = painted
        self._prompts = {_digest(prompt) for prompt in ledger.known_prompts()}
        self._dropped: dict[bytes, list[Mapping[str, object]]] = {}
        for job in ledger.unwanted_jobs(_MOST_DROPPED):
            self._dropped.setdefault(_digest(job.prompt), []).append(_parameters(job))

    def of(self, job: Job, state: JobState) -> str:
        """Why this pending job is pending, in a few words that many jobs share."""
        if job.id in self._painted:
            return PAINTED
        if state.attempt:
            return "made nothing before: another attempt"
        if not self._prompts:
            return NOTHING_YET
        digest = _digest(job.prompt)
        if digest not in self._prompts:
            return "new prompt"
        change = self._nearest_change(digest, _parameters(job))
        if change:
            return f"changed: {change}"
        return "one more repeat" if job.repeat else "new combination of a known prompt"

    def _nearest_change(self, digest: bytes, wanted: Mapping[str, object]) -> str:
        """The one parameter in which this job differs from a job of the same prompt that is no longer wanted."""
        for before in self._dropped.get(digest, ()):
            differing = sorted(name for name in before.keys() | wanted.keys() if before.get(name) != wanted.get(name))
            if not differing:
                return UNICODE_FORM
            if len(differing) == 1:
                (name,) = differing
                return f"{name} {cut(before.get(name, 'none'), 40)} → {cut(wanted.get(name, 'none'), 40)}"
        return ""


def _parameters(job: Job) -> dict[str, object]:
    return {**job.parameters.canonical(), "repeat": job.repeat}


def _digest(prompt: str) -> bytes:
    if not prompt.isascii():
        prompt = unicodedata.normalize("NFC", prompt)
    return hashlib.blake2b(prompt.encode(), digest_size=8).digest()
