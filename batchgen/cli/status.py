"""`batchgen status`: how a run stands, also while one is going; reads only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from batchgen.cli import options as common
from batchgen.cli.found import found_output
from batchgen.jobs import ENDED_SHORT, Status
from batchgen.ledger import lock
from batchgen.ledger.store import FILE_NAME, reading
from batchgen.money import plain

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def configure(parser: ArgumentParser) -> None:
    """Add the command's options."""
    common.add_manifest(parser)
    common.add_json(parser)


def execute(options: Namespace) -> int:
    """1 when there are failed, rejected, unknown, gone or partial jobs, else 0."""
    root = found_output(options)
    state = root / FILE_NAME
    if not state.exists():
        data: dict[str, Any] = {
            "output": str(root),
            "begun": False,
            "running": None,
            "jobs": {},
            "images": 0,
            "cost": "0",
        }
        print(json.dumps(data, indent=2) if options.json else f"Nothing has been run into {root} yet.")
        return 0
    with reading(state) as ledger:
        counts = ledger.counts()
        spent = ledger.spent()
        images = ledger.images_in_index()
    data = {
        "output": str(root),
        "begun": True,
        "running": lock.holder(root),
        "jobs": {status.value: counts[status] for status in Status if status in counts},
        "images": images,
        "cost": plain(spent.cost),
        "unpriced_tasks": spent.unpriced,
    }
    print(json.dumps(data, indent=2) if options.json else _as_text(data))
    return 1 if ENDED_SHORT & counts.keys() else 0


def _as_text(data: dict[str, Any]) -> str:
    going = f"a run is going ({data['running']})" if data["running"] else "no run is going"
    lines = [f"{data['output']}: {going}"]
    for status, number in data["jobs"].items():
        jobs = f"{number} {'job' if number == 1 else 'jobs'}"
        lines.append(f"  {status:<11}{jobs:<12}{_MEANING[status]}".rstrip())
    lines.append(f"  {data['images']} {'image' if data['images'] == 1 else 'images'} in place")
    unpriced = f", and {data['unpriced_tasks']} tasks of unknown price" if data["unpriced_tasks"] else ""
    lines.append(f"  {data['cost']} spent or in flight{unpriced}")
    return "\n".join(lines)


_MEANING = {
    "pending": "not begun yet",
    "intent": "sent, no answer recorded; the next run asks what became of it",
    "submitted": "at the gateway",
    "made": "made, to be fetched",
    "done": "",
    "partial": "fewer images than asked for",
    "failed": "failures.csv says why",
    "rejected": "refused by policy; failures.csv says why",
    "unknown": "may have been paid for; see --retry-unknown",
    "gone": "made, but lost at the gateway; see --retry-failed",
}
