"""What `audit --adopt` adds to the ledger from the output itself: rescued answers, rows of the index, files."""

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
class Adopted:
    """How much was adopted; `left` names rows of the index that could not be."""

    rescued: int = 0
    rows: int = 0  # images of index.csv
    files: int = 0  # images with the names of jobs to be made
    left: list[str] = field(default_factory=list)

    def as_lines(self) -> list[str]:
        """For people."""
        lines = []
        if self.rescued:
            lines.append(f"  {self.rescued} rescued answers were adopted")
        if self.rows:
            lines.append(f"  {self.rows} images of {INDEX} were adopted")
        if self.files:
            lines.append(f"  {self.files} files were adopted by their names alone: look at them")
        if self.left:
            lines.append(
                f"  {len(self.left)} rows of {INDEX} belong to no job that the ledger or the manifest knows, such as"
                f" {', '.join(self.left[:_SHOWN])}. To go on without them, move {INDEX} away; the files stay."
            )
        return lines


def adopt_rows(ledger: Ledger, manifest: Manifest, root: Path, rescue: Path | None) -> Adopted:
    """Adopt the rescued answers and the rows of index.csv; a file counts where its hash is that of its row."""
    adopted = Adopted()
    if rescue is not None:
        adopted.rescued = adopt_rescued(ledger, rescue)
    found = unrecorded.deliveries_of_index(
        ledger, root, lambda name: _base_url(manifest, name), lambda: expand(manifest)
    )
    for each in found:
        if isinstance(each, dict):
            adopted.left.append(each["file_name"])
            continue
        events = events_of_delivery(ledger, each)
        if events:
            ledger.record(events)
            adopted.rows += len(each.indexes)
        else:
            adopted.left.append(each.job.id)
    return adopted


def adopt_files(ledger: Ledger, manifest: Manifest, root: Path, at: int) -> int:
    """Adopt image files that have the names of jobs which are still to be made."""
    number = 0
    name = manifest.account.name
    unknown = unrecorded.files_of_pending(ledger, root, manifest.output_path, lambda: expand(manifest))
    for job, files in list(unknown):
        found = unrecorded.delivery_of_files(job, files, root, name, _base_url(manifest, name), at)
        if found.files:
            ledger.record(events_of_delivery(ledger, found))
            number += len(found.files)
    return number


def _base_url(manifest: Manifest, name: str) -> str:
    """The address of an account; empty for a sandbox in the process, which has none that lasts."""
    account = manifest.accounts.get(name, manifest.account)
    return "" if account.is_local_sandbox else account.base_url
