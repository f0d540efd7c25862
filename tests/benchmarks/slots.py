"""The rows on slots: how full they are, how many requests are sent and refused, and how wrong limits are corrected."""

from __future__ import annotations

from functools import cache
from statistics import median
from typing import TYPE_CHECKING

import rig
from gateway_usage import MINUTE
from table import Line

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from rig import Seen

UNITS = 24
_PACE = 600  # creates a minute


@cache
def slots_run(repetition: int, *, lists: bool) -> Seen:
    """240 tasks of 1 to 4 units on 24 units, latencies of about a second: one run for three rows."""
    option = "--lists" if lists else "--no-lists"
    with rig.folder() as place, rig.gateway(option, units=UNITS, latency=1.0 + repetition / 1000, sigma=0.5) as server:
        path = rig.manifest(place, server.base_url, rig.mixed(240), limits=f"concurrency: {UNITS}")
        return rig.whole_run(place, server, path)


def slots(options: Namespace) -> Iterator[Line]:
    """The makespan compared with that of greedy list scheduling of the same tasks, which notices each end at once."""
    for lists in (True, False):
        usages = [slots_run(number, lists=lists).gateway for number in range(options.repeat)]
        reached = median(usage.against_list_scheduling(UNITS) for usage in usages)
        full = median(usage.utilization(UNITS) for usage in usages)
        yield Line(
            figure=f"{reached:.1%} of list scheduling's",
            aim="≥ 97 %",
            reached=reached >= 0.97,
            note=f"{_how(lists)}: {full:.1%} of 24 units busy, {usages[0].makespan:.1f} s",
        )


def refusals(options: Namespace) -> Iterator[Line]:
    """Creates answered 1302 or 1303 although the manifest's limits are true."""
    refused = [slots_run(number, lists=True).gateway.refusals for number in range(options.repeat)]
    yield Line(figure=f"{max(refused)} of 240", aim="0", reached=max(refused) == 0, note="true concurrency; worst run")
    with rig.folder() as place, rig.gateway("--creates-per-minute", _PACE, units=200, latency=0.5) as server:
        limits = f"concurrency: 200, creates_per_minute: {_PACE}"
        path = rig.manifest(place, server.base_url, rig.plain(place, _PACE + _PACE // 4), limits=limits)
        usage = rig.whole_run(place, server, path).gateway
    pace = (len(usage.tasks) - 1) / (usage.last_create - usage.first_create) * MINUTE
    yield Line(
        figure=f"{usage.refusals} of {usage.count('create')}",
        aim="0",
        reached=usage.refusals == 0,
        note=f"true creates_per_minute of {_PACE}: {pace / _PACE:.1%} of it reached; one run",
    )


def queries(options: Namespace) -> Iterator[Line]:
    """Queries per task, and how late an end is noticed."""
    for lists in (True, False):
        usages = [slots_run(number, lists=lists).gateway for number in range(options.repeat)]
        kind, limit = ("list", 1.0) if lists else ("query", 2.5)
        yield _queries_per_task(usages, kind, limit, _how(lists))
        late = median(usage.notice_delay() for usage in usages)
        yield Line(
            figure=f"noticed {late:.1%} late",
            aim="≤ 6 % of its latency",
            reached=late <= 0.06,
            note=f"{_how(lists)}: the median task",
        )
    wide = [wide_run(number) for number in range(options.repeat)]
    yield _queries_per_task(wide, "list", 0.1, "500 in flight")


def _queries_per_task(usages: list[rig.GatewayUsage], kind: str, limit: float, what: str) -> Line:
    share = median(usage.count(kind) / len(usage.tasks) for usage in usages)
    other = "query" if kind == "list" else "list"
    others = median(usage.count(other) / len(usage.tasks) for usage in usages)
    names = {"list": "list queries", "query": "single queries"}
    return Line(
        figure=f"{share:.2f} {names[kind]} a task",
        aim=f"≤ {limit}",
        reached=share <= limit,
        note=f"{what}: and {others:.2f} {names[other]} a task",
    )


def wide_run(repetition: int) -> rig.GatewayUsage:
    """2,000 tasks, 500 at a time, about four seconds each."""
    with rig.folder() as place, rig.gateway(units=500, latency=4.0 + repetition / 1000, sigma=0.5) as server:
        path = rig.manifest(place, server.base_url, rig.plain(place, 2000), limits="concurrency: 500")
        return rig.whole_run(place, server, path).gateway


def _how(lists: bool) -> str:  # noqa: FBT001 - private
    return "with lists" if lists else "without lists"


def capacity(_options: Namespace) -> Iterator[Line]:
    """Limits that are wrong: too high, or not given while the account allows more than the built-in ones."""
    for limits, what in ((f"concurrency: {100}", "100 given"), ("", "none given, 9 built in")):
        with rig.folder() as place, rig.gateway(units=UNITS, latency=2.0, sigma=0.5) as server:
            path = rig.manifest(place, server.base_url, rig.mixed(1500), limits=limits)
            seen = rig.whole_run(place, server, path, "--deadline", "125s", codes="03")
        usage = seen.gateway
        since = usage.first_create + MINUTE
        full = usage.utilization_between(UNITS, since, usage.last_create)
        first = usage.utilization_between(UNITS, usage.first_create, since)
        late = sum(task.created > since for task in usage.tasks)
        refused = usage.refusals - seen.refused_early
        share = refused / max(1, refused + late)
        yield Line(
            figure=f"{full:.1%} full",
            aim="≥ 90 %",
            reached=full >= 0.9,
            note=f"{what}, 24 in truth: after the first minute; in it {first:.1%}; one run of two minutes",
        )
        yield Line(
            figure=f"{share:.1%} creates refused",
            aim="< 2 %",
            reached=share < 0.02,
            note=f"{what}: {refused} of {refused + late}; in the first minute {seen.refused_early}",
        )
