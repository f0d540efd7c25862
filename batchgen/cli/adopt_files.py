"""What `audit --adopt` takes into the ledger from the output itself: rescued answers, rows of the index, files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchgen.ledger.adoption import events_of_delivery
from batchgen.ledger.rescue import adopt_rescued
from batchgen.matrix.expand import expand
from batchgen.reconcile import unrecorded
from batchgen.reports.index import INDEX

if TYPE_CHECKING:
    from pathlib import Path

    from batchgen.ledger.store import Ledger
    from batchgen.manifest.model import Manifest

_SHOWN = 5


@dataclass(slots=True, kw_only=True)
class Taken:
    """What was taken in; `left` names rows of the index that could not be."""

    rescued: int = 0
    rows: int = 0  # images of index.csv
    files: int = 0  # images that stood at the names of jobs to be made
    left: list[str] = field(default_factory=list)

    def as_lines(self) -> list[str]:
        """For people."""
        lines = []
        if self.rescued:
            lines.append(f"  {self.rescued} rescued answers were taken in")
        if self.rows:
            lines.append(f"  {self.rows} images of {INDEX} were taken in")
        if self.files:
            lines.append(f"  {self.files} files were taken in by their names alone: look at them")
        if self.left:
            lines.append(
                f"  {len(self.left)} rows of {INDEX} are of no job that the ledger can place, as"
                f" {', '.join(self.left[:_SHOWN])}. To go on without them, move {INDEX} away; the files stay."
            )
        return lines


def take_in_rows(ledger: Ledger, manifest: Manifest, root: Path, rescue: Path | None) -> Taken:
    """What was rescued, and what index.csv knows; files count where their hash is that of their row."""
    taken = Taken()
    if rescue is not None:
        taken.rescued, _ = adopt_rescued(ledger, rescue)
    found = unrecorded.deliveries_of_index(
        ledger, root, lambda name: _base_url(manifest, name), lambda: expand(manifest)
    )
    for each in found:
        if isinstance(each, dict):
            taken.left.append(each["file_name"])
            continue
        events = events_of_delivery(ledger, each)
        if events:
            ledger.record(events)
            taken.rows += len(each.indexes)
        else:
            taken.left.append(each.job.id)
    return taken


def take_in_files(ledger: Ledger, manifest: Manifest, root: Path, at: int) -> int:
    """Images that stand where those of jobs belong which nobody else knows to have been made."""
    number = 0
    name = manifest.account.name
    standing = unrecorded.files_of_pending(ledger, root, manifest.output_path, lambda: expand(manifest))
    for job, files in list(standing):
        found = unrecorded.delivery_of_files(job, files, root, name, _base_url(manifest, name), at)
        if found.files:
            ledger.record(events_of_delivery(ledger, found))
            number += len(found.files)
    return number


def _base_url(manifest: Manifest, name: str) -> str:
    """Where an account is; a sandbox in the process has no address that lasts."""
    account = manifest.accounts.get(name, manifest.account)
    return "" if account.is_local_sandbox else account.base_url
