"""How a run ended: the sentence, the data and the exit code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchgen.cli.outcome import header
from batchgen.errors import ReasonCode
from batchgen.jobs import INCOMPLETE, LIVE, Status
from batchgen.money import plain
from batchgen.reports.index import FAILURES, INDEX

if TYPE_CHECKING:
    from pathlib import Path

    from batchgen.app.run import Result
    from batchgen.errors import BatchgenError
    from batchgen.ledger.reader import LedgerReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What a run leaves. `jobs`: of those it was about; `cost` in millionths, of this run."""

    root: Path
    images: int  # in the index
    jobs: dict[Status, int]
    begun: int
    fetched: int
    unfinished: tuple[str, ...]
    unfinished_jobs: int
    cost: int
    unit: str  # of the cost
    retired: int
    unmarked: int
    warned: int
    reason: BatchgenError | None

    @property
    def short(self) -> int:
        """Jobs that ended without all their images."""
        return sum(self.jobs.get(status, 0) for status in INCOMPLETE)

    @property
    def nothing_to_do(self) -> bool:
        """Whether everything was there already."""
        idle = not self.begun and not self.fetched and self.reason is None
        return idle and not self.short and not self.unfinished_jobs and not self.jobs.get(Status.PENDING)

    @property
    def reason_code(self) -> ReasonCode:
        """Why it ended so."""
        if self.reason is not None:
            return self.reason.reason_code
        return ReasonCode.INCOMPLETE if self.exit_code else ReasonCode.COMPLETE

    @property
    def sentence(self) -> str:
        """Why the exit code is not 0, in one sentence; empty where it is."""
        if self.reason is not None:
            return str(self.reason)
        if self.short:
            return f"Jobs without all their images: {self._kinds}. {self.root / FAILURES} says why."
        if self.unfinished_jobs:
            return f"Left for the next run: {self.unfinished_jobs}. {_sentence(self.unfinished[0])}"
        if self.to_collect:
            return f"Begun and to be collected by the next run: {_jobs(self.to_collect)}."
        return ""

    @property
    def _kinds(self) -> str:
        return ", ".join(
            f"{self.jobs[status]} {status.value}" for status in Status if status in INCOMPLETE & self.jobs.keys()
        )

    @property
    def exit_code(self) -> int:
        """By the contract's table."""
        if self.reason is not None:
            return self.reason.exit_code
        return 1 if self.short or self.unfinished_jobs or self.to_collect else 0

    @property
    def to_collect(self) -> int:
        """Jobs that were begun and are not at their end: a later run collects them."""
        return sum(self.jobs.get(status, 0) for status in LIVE)

    def as_data(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            **header(self.exit_code, self.reason_code),
            "output": str(self.root),
            "index": str(self.root / INDEX),
            "images": self.images,
            "jobs": {status.value: self.jobs.get(status, 0) for status in Status if self.jobs.get(status)},
            "started": self.begun,
            "unfinished": list(self.unfinished),
            "cost": plain(self.cost),
            "unit": self.unit,
            "retired": self.retired,
            "watermarks_missing": self.unmarked,
            "warnings": self.warned,
            "reason": None if self.reason is None else str(self.reason),
        }

    def as_text(self) -> str:
        """A few sentences: what is where, and what is missing."""
        index = self.root / INDEX
        what = "1 image is" if self.images == 1 else f"{self.images} images are"
        lines = [f"{what} in {self.root / 'images'}; the index is {index}."]
        if self.nothing_to_do:
            lines.insert(0, "Nothing to do: everything asked for is there.")
        if self.short:
            lines.append(f"Jobs without all their images: {self._kinds}. {self.root / FAILURES} says why.")
        if self.unmarked:
            came = "1 image" if self.unmarked == 1 else f"{self.unmarked} images"
            lines.append(f"The gateway gave no watermarked copy of {came}, though it was asked for.")
        if self.warned:
            came = "1 image is" if self.warned == 1 else f"{self.warned} images are"
            lines.append(f"{came} odd, and kept as they came; the column `warning` of the index says why.")
        if self.unfinished_jobs:
            lines.append(f"Left for the next run: {self.unfinished_jobs}. {_sentence(self.unfinished[0])}")
        if live := self.to_collect:
            lines.append(f"Begun and to be collected by the next run: {_jobs(live)}.")
        if pending := self.jobs.get(Status.PENDING):
            lines.append(f"Not begun yet: {_jobs(pending)}.")
        if self.retired:
            lines.append(f"No longer asked for, and moved to {self.root / 'retired'}: {self.retired} files.")
        return "\n".join(lines)


def _jobs(number: int) -> str:
    return "1 job" if number == 1 else f"{number} jobs"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def ending_of(root: Path, result: Result, ledger: LedgerReader, jobs: dict[Status, int], unit: str) -> Ending:
    """Put together what the ledger and the run know."""
    return Ending(
        root=root,
        images=ledger.images_in_index(),
        jobs=jobs,
        begun=result.stats.begun,
        fetched=result.stats.fetched_jobs,
        unfinished=tuple(result.stats.left),
        unfinished_jobs=result.stats.unfinished,
        cost=result.cost,
        unit=unit,
        retired=result.retired,
        unmarked=result.stats.unmarked,
        warned=result.stats.warned,
        reason=result.reason,
    )
