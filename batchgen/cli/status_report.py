"""How an output stands: as data, as text and as an exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchgen.cli.outcome import checked
from batchgen.jobs import INCOMPLETE, Status
from batchgen.ledger import lock
from batchgen.ledger.store import FILE_NAME, reading
from batchgen.money import plain

if TYPE_CHECKING:
    from pathlib import Path


def standing(root: Path, unit: str = "") -> dict[str, Any]:
    """How the output stands just now, as data; `unit` is that of its costs, empty where it is not known."""
    running = lock.holder(root)
    if not (root / FILE_NAME).exists():
        return nothing_begun(root, unit) | {"running": running}
    with reading(root / FILE_NAME) as ledger:
        counts = ledger.counts()
        spent = ledger.spent()
        return {
            "output": str(root),
            "started": True,
            "running": running,
            "jobs": {status.value: counts[status] for status in Status if status in counts},
            "images": ledger.images_in_index(),
            "images_to_come": ledger.images_missing()[1],
            "cost": plain(spent.cost),
            "unit": unit,
            "unpriced_tasks": spent.unpriced,
        }


def nothing_begun(root: Path, unit: str = "") -> dict[str, Any]:
    """How an output stands that has no ledger yet."""
    return {"output": str(root), "started": False, "running": None, "jobs": {}, "images": 0, "cost": "0", "unit": unit}


def exit_code(data: dict[str, Any]) -> int:
    """By the contract's table."""
    return 1 if INCOMPLETE & data["jobs"].keys() else 0


def head(data: dict[str, Any]) -> dict[str, Any]:
    """What the JSON result begins with."""
    return checked(ok=exit_code(data) == 0)


def as_text(data: dict[str, Any]) -> str:
    """A line for each status, and what it means."""
    going = f"a run is going ({data['running']})" if data["running"] else "no run is going"
    if not data["started"]:
        nothing = f"Nothing has been run into {data['output']} yet"
        return f"{nothing}; {going}." if data["running"] else f"{nothing}."
    lines = [f"{data['output']}: {going}"]
    for status, number in data["jobs"].items():
        jobs = f"{number} {'job' if number == 1 else 'jobs'}"
        lines.append(f"  {status:<11}{jobs:<12}{_MEANING[status]}".rstrip())
    lines.append(f"  {data['images']} {'image' if data['images'] == 1 else 'images'} in place")
    unpriced = f", and {data['unpriced_tasks']} tasks of unknown price" if data["unpriced_tasks"] else ""
    lines.append(f"  {cost(data)} spent or in flight{unpriced}")
    return "\n".join(lines)


def cost(data: dict[str, Any]) -> str:
    """What was spent, with its unit."""
    return f"{data['cost']} {data['unit'] or 'units'}"


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
