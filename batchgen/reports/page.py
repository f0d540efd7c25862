"""The figures of `batchgen report` as one HTML page that holds everything it shows: no script, no request."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from batchgen.formatting import duration
from batchgen.reports.charts import drawn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup

_HERE = Path(__file__).parent
_MEANING = {
    "refused": "refused by the gateway, not charged",
    "failed": "failed at the gateway, not charged",
    "unknown": "no clear answer: may be charged",
    "lost": "accepted, later unknown to the gateway",
}


def html(data: Mapping[str, Any], name: str) -> str:
    """The page about the output `name`. Every text of `data` is shown as text, never as markup."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"amounts": _amounts, "number": "{:,}".format, "seconds": _seconds, "moment": _moment}
    template = environment.get_template("report.html")
    return template.render(data, name=name, meaning=_MEANING, charts=_charts(data), most=_most).lstrip()


def _amounts(total: Mapping[str, Any]) -> str:
    parts = [f"{each['amount']} {each['unit']}" for each in total["cost"]]
    if total["unpriced"]:
        parts.append(f"{total['unpriced']:,} tasks of unknown price")
    parts += [f"{each['amount']} {each['unit']} reserved" for each in total["reserved"]]
    return ", ".join(parts) or "0"


def _most(totals: Sequence[Mapping[str, Any]]) -> int:
    return max((total["images"] for total in totals), default=0) or 1


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def _moment(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S}"


def _charts(data: Mapping[str, Any]) -> dict[str, Markup | None]:
    charts: dict[str, Markup | None] = dict.fromkeys(("days", "slots", "latency"))  # None: too little to draw
    days, slots = data["by_day"], data["slots"]
    if len(days) > 1:
        labels = [day["key"] for day in days]
        charts["days"] = drawn("Bar", "Images by day", [day["images"] for day in days], labels, labels)
    if len(slots["used"]) > 1:
        labels = _times(datetime.fromisoformat(data["first"]), slots["seconds"], len(slots["used"]))
        title = "Slots in use over time"
        charts["slots"] = drawn("Line", title, slots["used"], labels, labels, fill=True, show_dots=False)
    if data["latency"]["tasks"]:
        bars = data["latency"]["histogram"]
        labels = [f"{bar['from']:g} s" for bar in bars]
        names = [f"{bar['from']:g} to {bar['to']:g} s" if bar["to"] else f"{bar['from']:g} s or longer" for bar in bars]
        title = "Tasks by their duration"
        charts["latency"] = drawn("Bar", title, [bar["tasks"] for bar in bars], labels, names)
    return charts


def _times(first: datetime, seconds: float, count: int) -> list[str]:
    """When each interval begins: the date where there are several, and the seconds where there are few minutes."""
    span = seconds * count
    form = "%m-%d %H:%M" if span > 86_400 else "%H:%M" if span > 600 else "%H:%M:%S"
    return [f"{first + timedelta(seconds=seconds * i):{form}}" for i in range(count)]
