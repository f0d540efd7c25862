"""Lets the checks of a manifest look at the images of its output that they have not seen, and keeps their verdicts.

It changes nothing but marks. What a check does wrong is reported; the images concerned stay unchecked, for later.
"""

from __future__ import annotations

import queue
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from batchgen.formatting import counted
from batchgen.image_checks.process import CheckFailed, CheckProcess, Verdict
from batchgen.ledger.marks import write_marks
from batchgen.ledger.records import Mark, NewMark
from batchgen.ledger.store import FILE_NAME, reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from batchgen.ledger.records import UncheckedImage
    from batchgen.manifest.model import ImageCheck

_PAGE = 16  # images for each process of a check, until their verdicts are kept
_GIVE_UP = 3  # failures in a row


@dataclass(slots=True, kw_only=True)
class CheckReport:
    """What one check has done: numbers of images, and its first failure."""

    reviewer: str
    checked: int = 0
    rejected: int = 0
    failed: int = 0
    error: str = ""
    given_up: bool = False  # it failed several times in a row

    @property
    def sentence(self) -> str:
        """For people; empty where there was nothing to look at."""
        if not self.checked and not self.error:
            return ""
        text = f"The check {self.reviewer} rejected {self.rejected} of {counted(self.checked, 'image')}."
        if self.error:
            text += f" It failed for {counted(self.failed, 'image')}, which stay unchecked: it {self.error}."
        if self.given_up:
            text += " It is not tried on the others: fix it, then use `batchgen check`."
        return text

    def after(self, earlier: CheckReport) -> CheckReport:
        """With the numbers of an earlier round."""
        if earlier is self:
            return self
        checked, rejected = earlier.checked + self.checked, earlier.rejected + self.rejected
        return replace(self, checked=checked, rejected=rejected)

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


def run_checks(checks: Sequence[ImageCheck], root: Path, notify: Callable[[str, str], None]) -> list[CheckReport]:
    """Check every image of the index once by each check and version, one check after the other.

    `notify(sentence, level)` is called as each ends. Raises RunStopped where the disk refuses.
    """
    reports = []
    for check in checks:
        report = CheckReport(reviewer=check.reviewer)
        with _Inspection(check, root, report) as inspection:
            inspection.run()
        if report.sentence:
            notify(report.sentence, "warning" if report.error else "info")
        reports.append(report)
    return reports


class _Inspection:
    """One check at work, in as many processes as it may have."""

    def __init__(self, check: ImageCheck, root: Path, report: CheckReport) -> None:
        self._check = check
        self._root = root
        self._report = report
        self._stack = ExitStack()
        self._free: queue.SimpleQueue[CheckProcess] = queue.SimpleQueue()
        self._in_a_row = 0  # failures

    def __enter__(self) -> Self:
        self._threads = self._stack.enter_context(ThreadPoolExecutor(self._check.processes))
        for _ in range(self._check.processes):
            process = CheckProcess(self._check.command, self._check.folder, self._check.timeout)
            self._free.put(self._stack.enter_context(process))
        return self

    def __exit__(self, *_error: object) -> None:
        self._in_a_row = _GIVE_UP  # an interrupted thread starts no process again
        self._stack.close()

    def run(self) -> None:
        reviewer = self._check.reviewer
        for page in self._pages():
            marks = []
            for image, verdict in zip(page, self._threads.map(self._look, page), strict=True):
                if verdict is not None:
                    mark = Mark(verdict.mark)
                    self._report.rejected += mark is Mark.REJECT
                    marks.append(
                        NewMark(
                            sha256=image.sha256, mark=mark, note=verdict.why, reviewer=reviewer, scores=verdict.scores
                        )
                    )
            self._report.checked += len(marks)
            write_marks(self._root / FILE_NAME, marks)
            self._report.given_up = self._in_a_row >= _GIVE_UP
            if self._report.given_up:
                return

    def _pages(self) -> Iterator[list[UncheckedImage]]:
        """The images without a verdict, a few at a time: an open query would keep marks from being written."""
        after = (-1, -1)
        while True:
            with reading(self._root / FILE_NAME) as ledger:
                page = ledger.unchecked_images(self._check.reviewer, after, _PAGE * self._check.processes)
            if not page:
                return
            after = (page[-1].seq, page[-1].index)
            yield list({image.sha256: image for image in page}.values())

    def _look(self, image: UncheckedImage) -> Verdict | None:
        path = self._root.absolute() / image.path
        if self._in_a_row >= _GIVE_UP or not path.exists():
            return None
        process = self._free.get()
        try:
            verdict = process.check(
                {
                    "path": str(path),
                    "job_id": image.job.id,
                    "index": image.index,
                    "prompt": image.job.prompt,
                    "parameters": image.job.parameters.canonical(),
                    "labels": dict(image.job.labels),
                    "sha256": image.sha256,
                }
            )
        except CheckFailed as failure:
            self._in_a_row += 1
            self._report.failed += 1
            self._report.error = self._report.error or str(failure)
            return None
        finally:
            self._free.put(process)
        self._in_a_row = 0
        return verdict
