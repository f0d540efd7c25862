"""The state of an output, as data, as text and as an exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchgen.formatting import counted
from batchgen.jobs import INCOMPLETE, Status
from batchgen.ledger import lock
from batchgen.ledger.store import FILE_NAME, SHARD, reading
from batchgen.money import plain

if TYPE_CHECKING:
    from pathlib import Path

MEANING = {
    "pending": "not started yet",
    "intent": "sent, no answer recorded; the next run queries it",
    "submitted": "at the gateway",
    "made": "made, to be downloaded",
    "done": "",
    "partial": "fewer images than asked for; see --retry-failed",
    "failed": "failures.csv says why; see --retry-failed",
    "rejected": "refused by policy; failures.csv says why",
    "unknown": "may have been paid for; see --retry-unknown",
    "gone": "made, but lost at the gateway; see --retry-failed",
}


def status_report(root: Path, unit: str = "") -> dict[str, Any]:
    """The state of the output as data; `unit` is that of its costs, empty where it is not known."""
    data = not_started(root, unit) | {"running": lock.holder(root)}
    if not (root / FILE_NAME).exists():
        return data
    with reading(root / FILE_NAME) as ledger:
        counts = ledger.counts()
        spent = ledger.spent()
        return data | {
            "started": True,
            "shard": ledger.meta(SHARD) or None,
            "jobs": {status.value: counts[status] for status in Status if status in counts},
            "images": ledger.images_in_index(),
            "images_to_come": ledger.images_missing()[1],
            "cost": plain(spent.cost),
            "spent": plain(spent.cost - spent.reserved),
            "reserved": plain(spent.reserved),
            "unpriced_tasks": spent.unpriced,
            "accounts": [
                {"name": name, "images": images, "cost": plain(cost)}
                for name, images, cost in ledger.spent_by_account()
            ],
        }


def not_started(root: Path, unit: str = "") -> dict[str, Any]:
    """The state of an output that has no ledger yet."""
    return {
        "output": str(root),
        "started": False,
        "shard": None,
        "running": None,
        "jobs": {},
        "images": 0,
        "images_to_come": 0,
        "cost": "0",
        "spent": "0",
        "reserved": "0",
        "unit": unit,
        "unpriced_tasks": 0,
        "accounts": [],
    }


def exit_code(data: dict[str, Any]) -> int:
    """1 where jobs ended incomplete, else 0."""
    return 1 if INCOMPLETE & data["jobs"].keys() else 0


def as_text(data: dict[str, Any]) -> str:
    """A line for each status, with its meaning."""
    running = f"a run is going ({data['running']})" if data["running"] else "no run is going"
    if not data["started"]:
        nothing = f"Nothing has been run into {data['output']} yet"
        return f"{nothing}; {running}." if data["running"] else f"{nothing}."
    shard = f", shard {data['shard']}" if data["shard"] else ""
    lines = [f"{data['output']}{shard}: {running}"]
    for status, number in data["jobs"].items():
        lines.append(f"  {status:<11}{counted(number, 'job'):<12}{MEANING[status]}".rstrip())
    lines.append(f"  {counted(data['images'], 'image')} in place")
    unit = data["unit"] or "units"
    for account in data["accounts"] if len(data["accounts"]) > 1 else ():
        made = f"{counted(account['images'], 'image')} made"
        lines.append(f"  {account['name']}: {made}, {account['cost']} {unit} spent or reserved")
    unpriced = f", and {data['unpriced_tasks']} tasks of unknown price" if data["unpriced_tasks"] else ""
    lines.append(f"  {cost(data)}{unpriced}")
    return "\n".join(lines)


def cost(data: dict[str, Any]) -> str:
    """What was spent and what is reserved for jobs in flight, with the unit."""
    return f"{data['spent']} {data['unit'] or 'units'} spent, {data['reserved']} reserved"
