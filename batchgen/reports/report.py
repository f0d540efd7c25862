"""The figures of `batchgen report`, as data: what was made, what it cost, how long it took and what went wrong."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from batchgen.formatting import utc
from batchgen.ledger.report_reader import ReportReader
from batchgen.money import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchgen.ledger.report_reader import Causes, Total
    from batchgen.ledger.store import Ledger

_DAYS = 62  # more are shown by month
_VALUES = 20  # of a label
_CAUSES = 50
_INTERVALS = 240  # of the time line
_BARS = 24  # of the latencies
_WIDTHS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 86_400)  # of a bar, in seconds


def report_data(ledger: Ledger, unit_of: Callable[[str], str], since: datetime | None = None) -> dict[str, Any]:
    """The figures of all attempts since a moment, else of the whole output. `unit_of` an account's costs."""
    reader = ReportReader(ledger.db, 0 if since is None else int(since.timestamp() * 1000))
    first, last = reader.span()
    models = reader.by_model()
    return {
        "since": None if since is None else utc(since.astimezone(UTC), timespec="seconds"),
        "first": _moment(first),
        "last": _moment(last),
        "jobs": {status.value: number for status, number in ledger.counts().items()},
        "images": ledger.images_in_index(),
        "total": _total("", models, unit_of),
        "by_model": _grouped(models, unit_of),
        "by_label": [
            {"label": name, "values": values, "listed": _grouped(totals, unit_of)}
            for name, totals, values in reader.by_label(_VALUES)
        ],
        "by_day": _grouped(reader.by_day(_DAYS), unit_of),
        "slots": _slots(reader, first, last),
        "latency": _latency(reader.latencies()),
        "failures": _causes(reader.failures(_CAUSES)),
        "refusals": _causes(reader.refusals(_CAUSES)),
        "verdicts": [verdicts._asdict() for verdicts in reader.verdicts(_CAUSES)],
    }


def _moment(ms: int) -> str | None:
    return utc(datetime.fromtimestamp(ms / 1000, UTC), timespec="seconds") if ms else None


def _grouped(totals: Sequence[Total], unit_of: Callable[[str], str]) -> list[dict[str, Any]]:
    """One entry for each key; amounts of accounts with the same unit are added up."""
    return [_total(key, list(group), unit_of) for key, group in groupby(totals, key=lambda total: total.key)]


def _total(key: str, totals: Sequence[Total], unit_of: Callable[[str], str]) -> dict[str, Any]:
    cost: dict[str, int] = defaultdict(int)
    reserved: dict[str, int] = defaultdict(int)
    for total in totals:
        unit = unit_of(total.account) or "units"
        cost[unit] += total.cost
        reserved[unit] += total.reserved
    return {
        "key": key,
        "attempts": sum(total.attempts for total in totals),
        "images": sum(total.images for total in totals),
        "cost": _amounts(cost),
        "reserved": _amounts(reserved),
        "unpriced": sum(total.unpriced for total in totals),
    }


def _amounts(by_unit: dict[str, int]) -> list[dict[str, str]]:
    return [{"amount": plain(amount), "unit": unit} for unit, amount in by_unit.items() if amount]


def _slots(reader: ReportReader, first: int, last: int) -> dict[str, Any]:
    width = max(100, (last - first) // _INTERVALS + 1)  # ms
    used = reader.slots(first, width) if first else []
    return {"seconds": width / 1000, "used": [round(each, 3) for each in used]}


def _latency(seconds: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """Percentiles and a histogram; its last bar holds whatever took longer."""
    tasks = sum(count for _, count in seconds)
    if not tasks:
        return {"tasks": 0}
    p50, p90, p99 = (_percentile(seconds, tasks * share) for share in (0.5, 0.9, 0.99))
    width = next((each for each in _WIDTHS if p99 / each < _BARS), p99 / _BARS)
    bars: dict[int, int] = defaultdict(int)
    for each, count in seconds:
        bars[min(int(each / width + 1e-9), _BARS)] += count
    histogram = [
        {"from": round(bar * width, 1), "to": None if bar == _BARS else round((bar + 1) * width, 1), "tasks": bars[bar]}
        for bar in range(min(bars), max(bars) + 1)
    ]
    return {"tasks": tasks, "p50": p50, "p90": p90, "p99": p99, "max": seconds[-1][0], "histogram": histogram}


def _percentile(seconds: Sequence[tuple[float, int]], number: float) -> float:
    seen = 0
    for each, count in seconds:
        seen += count
        if seen >= number:
            return each
    return seconds[-1][0]


def _causes(causes: Causes) -> dict[str, Any]:
    return {"kinds": causes.kinds, "listed": [cause._asdict() for cause in causes.listed]}
