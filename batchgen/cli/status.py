"""`batchgen status`: how a run stands, also while one is going; reads only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from batchgen.cli import options as common
from batchgen.cli.found import found_output
from batchgen.jobs import ENDED_SHORT, Status
from batchgen.ledger.store import FILE_NAME, Ledger
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
        data: dict[str, Any] = {"output": str(root), "begun": False, "jobs": {}, "images": 0, "cost": "0"}
        print(json.dumps(data, indent=2) if options.json else f"Nothing has been run into {root} yet.")
        return 0
    ledger = Ledger.read(state)
    counts = ledger.counts()
    spent = ledger.spent()
    data = {
        "output": str(root),
        "begun": True,
        "jobs": {status.value: counts[status] for status in Status if status in counts},
        "images": ledger.images_in_index(),
        "cost": plain(spent.cost),
        "unpriced_tasks": spent.unpriced,
    }
    ledger.close()
    print(json.dumps(data, indent=2) if options.json else _as_text(data))
    return 1 if ENDED_SHORT & counts.keys() else 0


def _as_text(data: dict[str, Any]) -> str:
    lines = [str(data["output"])]
    lines += [f"  {status:<11}{number} {'job' if number == 1 else 'jobs'}" for status, number in data["jobs"].items()]
    lines.append(f"  {data['images']} {'image' if data['images'] == 1 else 'images'} in place")
    unpriced = f", and {data['unpriced_tasks']} tasks of unknown price" if data["unpriced_tasks"] else ""
    lines.append(f"  {data['cost']} spent or in flight{unpriced}")
    return "\n".join(lines)
