"""The checks within a run: they look when the jobs have ended, and may ask for other images, in rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.app.check import CheckReport, run_checks
from batchgen.errors import ReasonCode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchgen.app.workload import Workload
    from batchgen.errors import BatchgenError
    from batchgen.ledger.reader import LedgerReader
    from batchgen.manifest.model import Manifest, OnReject

_ENOUGH = 20  # images that a check has judged, to say that it rejects too many


class CheckRounds:
    """The rounds of one run; `reports` has the sums of each check."""

    def __init__(self, manifest: Manifest, root: Path, workload: Workload, notify: Callable[[str, str], None]) -> None:
        self.reports: list[CheckReport] = []
        self._manifest = manifest
        self._root = root
        self._workload = workload
        self._notify = notify
        self._started = -1  # creates, when the last round began

    def may_look(self, error: BatchgenError | None) -> bool:
        """Whether there is time and space for it; `error` is why the run stops early."""
        return error is None or error.reason_code not in {ReasonCode.INTERRUPTED, ReasonCode.DISK}

    def look(self, ledger: LedgerReader, started: int) -> bool:
        """Check new images; whether the workload has jobs that are to be made anew now.

        `started`: the creates of this run so far. A round that sends none is the last one.
        """
        reports = run_checks(self._manifest.checks, self._root, self._notify)
        self.reports = [new.after(old) for old, new in zip(self.reports or reports, reports, strict=True)]
        on_reject, is_stuck = self._manifest.on_reject, started == self._started
        self._started = started
        if on_reject is None or is_stuck:
            return False
        names = [each.reviewer for each in self._manifest.checks if self._is_believed(each.reviewer, ledger, on_reject)]
        return self._workload.replace_checked(ledger, names, on_reject)

    def _is_believed(self, reviewer: str, ledger: LedgerReader, on_reject: OnReject) -> bool:
        judged, share = ledger.share_rejected(reviewer)
        if judged < _ENOUGH or share <= on_reject.stop_above:
            return True
        self._notify(
            f"The check {reviewer} rejected {share:.0%} of {judged} images, more than on_reject.stop_above: what it"
            " rejects is not made anew.",
            "warning",
        )
        return False
