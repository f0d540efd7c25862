"""How close the engine comes to what can be reached; by hand:

    python tests/benchmarks/bench_engine.py [ROW …] [--repeat 3] [--profile]

Every row runs the real `batchgen run` against `batchgen sandbox` in a process of its own. Its figure is a ratio
against an optimum or a bare loop in the same run, the median of the repetitions, beside the figure that is
aimed at. Without a row, all are measured (about twenty minutes). --profile says where the time of the row
`throughput` goes.
"""

from __future__ import annotations

import argparse
import os
import platform
import pstats
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

import rig
from accounts import MINUTE
from measured import Usage, start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rig import Seen

HERE = Path(__file__).parent
UNITS = 24
_PACE = 600  # creates a minute


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table. `reached` is None where nothing is aimed at."""

    figure: str
    aim: str = ""
    reached: bool | None = None
    note: str = ""


# --- slots, refusals, queries ---------------------------------------------------------------------------------


@cache
def slots_run(repetition: int, *, lists: bool) -> Seen:
    """240 tasks of 1 to 4 units on 24 units, latencies of about a second: one run for three rows."""
    option = "--lists" if lists else "--no-lists"
    with rig.folder() as place, rig.gateway(option, units=UNITS, latency=1.0 + repetition / 1000, spread=0.5) as server:
        path = rig.manifest(place, server.base_url, rig.mixed(240), limits=f"concurrency: {UNITS}")
        return rig.whole_run(place, server, path)


def slots(repeat: int) -> Iterator[Line]:
    """Busy unit-seconds against greedy list scheduling of the same tasks, which notices at once."""
    for lists in (True, False):
        accounts = [slots_run(number, lists=lists).account for number in range(repeat)]
        reached = median(account.against_list_scheduling(UNITS) for account in accounts)
        full = median(account.full(UNITS) for account in accounts)
        yield Line(
            figure=f"{reached:.1%} of list scheduling's",
            aim="≥ 97 %",
            reached=reached >= 0.97,
            note=f"{_how(lists)}: {full:.1%} of 24 units busy, {accounts[0].makespan:.1f} s",
        )


def refusals(repeat: int) -> Iterator[Line]:
    """Creates answered 1302 or 1303 although the manifest's limits are the account's."""
    refused = [slots_run(number, lists=True).account.refusals for number in range(repeat)]
    yield Line(figure=f"{max(refused)} of 240", aim="0", reached=max(refused) == 0, note="true concurrency; the worst")
    with rig.folder() as place, rig.gateway("--creates-per-minute", _PACE, units=200, latency=0.5) as server:
        limits = f"concurrency: 200, creates_per_minute: {_PACE}"
        path = rig.manifest(place, server.base_url, rig.plain(place, _PACE + _PACE // 4), limits=limits)
        account = rig.whole_run(place, server, path).account
    pace = (len(account.tasks) - 1) / (account.last_create - account.first_create) * MINUTE
    yield Line(
        figure=f"{account.refusals} of {account.asked('create')}",
        aim="0",
        reached=account.refusals == 0,
        note=f"true creates_per_minute of {_PACE}: {pace / _PACE:.1%} of it reached; one run",
    )


def queries(repeat: int) -> Iterator[Line]:
    """Questions for each task, and how late an end is noticed."""
    for lists in (True, False):
        accounts = [slots_run(number, lists=lists).account for number in range(repeat)]
        kind, most = ("list", 1.0) if lists else ("query", 2.5)
        yield _asked(accounts, kind, most, _how(lists))
        late = median(account.noticed_late() for account in accounts)
        yield Line(
            figure=f"noticed {late:.1%} late",
            aim="≤ 6 % of its latency",
            reached=late <= 0.06,
            note=f"{_how(lists)}: the median task",
        )
    wide = [wide_run(number) for number in range(repeat)]
    yield _asked(wide, "list", 0.1, "500 in flight")


def _asked(accounts: list[rig.Account], kind: str, most: float, what: str) -> Line:
    share = median(account.asked(kind) / len(account.tasks) for account in accounts)
    other = "query" if kind == "list" else "list"
    others = median(account.asked(other) / len(account.tasks) for account in accounts)
    names = {"list": "list queries", "query": "single queries"}
    return Line(
        figure=f"{share:.2f} {names[kind]} a task",
        aim=f"≤ {most}",
        reached=share <= most,
        note=f"{what}: and {others:.2f} {names[other]} a task",
    )


def wide_run(repetition: int) -> rig.Account:
    """2,000 tasks, 500 at a time, about four seconds each."""
    with rig.folder() as place, rig.gateway(units=500, latency=4.0 + repetition / 1000, spread=0.5) as server:
        path = rig.manifest(place, server.base_url, rig.plain(place, 2000), limits="concurrency: 500")
        return rig.whole_run(place, server, path).account


def _how(lists: bool) -> str:  # noqa: FBT001 - a word for it
    return "with lists" if lists else "without lists"


# --- capacity -------------------------------------------------------------------------------------------------


def capacity(_repeat: int) -> Iterator[Line]:
    """Limits that are wrong: too high, or not given while the account allows more than is built in."""
    for limits, what in ((f"concurrency: {100}", "100 given"), ("", "none given, 9 built in")):
        with rig.folder() as place, rig.gateway(units=UNITS, latency=2.0, spread=0.5) as server:
            path = rig.manifest(place, server.base_url, rig.mixed(1500), limits=limits)
            seen = rig.whole_run(place, server, path, "--deadline", "125s", codes="03")
        account = seen.account
        since = account.first_create + MINUTE
        full = account.full_between(UNITS, since, account.last_create)
        first = account.full_between(UNITS, account.first_create, since)
        late = sum(task.created > since for task in account.tasks)
        refused = account.refusals - seen.refused_early
        share = refused / max(1, refused + late)
        yield Line(
            figure=f"{full:.1%} full",
            aim="≥ 90 %",
            reached=full >= 0.9,
            note=f"{what}, 24 there: after the first minute; in it {first:.1%}; one run of two minutes",
        )
        yield Line(
            figure=f"{share:.1%} creates refused",
            aim="< 2 %",
            reached=share < 0.02,
            note=f"{what}: {refused} of {refused + late}; in the first minute {seen.refused_early}",
        )


# --- throughput, cpu ------------------------------------------------------------------------------------------

SLOTS, LATENCY, JOBS = 200, 0.15, 3000
_FOR_A_LIST = 50  # with fewer lists the bare loop's slots wait for them: it is to be a bound, so it gets as many


@dataclass(frozen=True, slots=True, kw_only=True)
class Bare:
    """The bare loop's run."""

    usage: Usage
    account: rig.Account
    making: float  # seconds from the first create to the last file


@cache
def throughput_run(repetition: int) -> tuple[Seen, Bare]:
    """The engine, and right after it the bare loop with the same requests at a gateway of its own."""
    del repetition  # each is a run of its own
    with rig.folder() as place, rig.gateway(units=SLOTS, latency=LATENCY) as server:
        path = rig.manifest(place, server.base_url, rig.plain(place, JOBS), limits=f"concurrency: {SLOTS}")
        seen = rig.whole_run(place, server, path)
    with rig.folder() as place, rig.gateway(units=SLOTS, latency=LATENCY) as server:
        rig.plain(place, JOBS)
        lists = max(seen.account.asked("list"), JOBS // _FOR_A_LIST if seen.account.asked("list") else 0)
        asked = ("--lists", lists, "--queries", seen.account.asked("query"))
        bounds = ("--slots", SLOTS, "--latency", LATENCY)
        loop = [sys.executable, HERE / "bare_loop.py", server.base_url, "prompts.txt", "bare", *bounds, *asked]
        usage = start(list(map(str, loop)), place).wait()
        if usage.exit_code:
            raise SystemExit(f"The bare loop failed:\n{usage.printed[-2000:]}")
        account = rig.Account.of(server.ledger())
        making = rig.last_file(place / "bare") - account.first_create
    return seen, Bare(usage=usage, account=account, making=making)


def throughput(repeat: int) -> Iterator[Line]:
    """200 slots of 150 ms, 3,000 jobs: jobs a second against the bare loop, other tools, and the slots' own bound."""
    pairs = [throughput_run(number) for number in range(repeat)]
    ratio = median(bare.making / seen.making for seen, bare in pairs)
    rate = JOBS / median(seen.making for seen, _ in pairs)
    bare_rate = JOBS / median(bare.making for _, bare in pairs)
    yield Line(
        figure=f"{ratio:.2f} of the bare loop's rate",
        aim="≥ 0.95",
        reached=ratio >= 0.95,
        note=f"first create to last file: {rate:.0f} jobs/s, bare {bare_rate:.0f}; slots allow {SLOTS / LATENCY:.0f}",
    )
    whole = median(bare.usage.seconds / seen.usage.seconds for seen, bare in pairs)
    seconds = median(seen.usage.seconds for seen, _ in pairs)
    yield Line(figure=f"{whole:.2f} for the whole command", note=f"{seconds:.2f} s with start, index and end")
    seen, bare = pairs[-1]
    yield Line(figure=f"asked: {_requests(seen.account)}", note=f"bare: {_requests(bare.account)}")


def cpu(repeat: int) -> Iterator[Line]:
    """Processor seconds of the whole command against the bare loop's whole command."""
    pairs = [throughput_run(number) for number in range(repeat)]
    ratio = median(seen.usage.cpu / bare.usage.cpu for seen, bare in pairs)
    ours, bares = (median(figures) for figures in zip(*((s.usage.cpu, b.usage.cpu) for s, b in pairs), strict=True))
    yield Line(
        figure=f"{ratio:.2f} × the bare loop's",
        aim="≤ 1.35",
        reached=ratio <= 1.35,
        note=f"{ours:.2f} s, {ours / JOBS * 1000:.2f} ms a job; bare {bares:.2f} s",
    )
    seen, _ = pairs[-1]
    yield Line(
        figure=f"event loop's thread {seen.main_cpu:.2f} s, others {seen.other_cpu:.2f} s",
        note=f"the gateway beside it used {seen.gateway_cpu:.2f} s in {seen.usage.seconds:.2f} s",
    )


def _requests(account: rig.Account) -> str:
    return ", ".join(f"{account.asked(kind)} {kind}" for kind in ("create", "list", "query", "image"))


def profile() -> None:
    """Where the time of `run` goes in the row `throughput`: the thread with the event loop, by cProfile."""
    with rig.folder() as place, rig.gateway(units=SLOTS, latency=LATENCY) as server:
        path = rig.manifest(place, server.base_url, rig.plain(place, JOBS), limits=f"concurrency: {SLOTS}")
        figures = place / "profile"
        seen = rig.whole_run(place, server, path, python=("-m", "cProfile", "-o", str(figures), "-m", "batchgen"))
        print(f"profiled: {seen.usage.seconds:.2f} s, {seen.usage.cpu:.2f} s of processor (cProfile slows it down).")
        print(f"event loop's thread {seen.main_cpu:.2f} s, other threads (not in the list) {seen.other_cpu:.2f} s.")
        for order in ("tottime", "cumulative"):
            pstats.Stats(str(figures)).sort_stats(order).print_stats(45)


# --- the table ------------------------------------------------------------------------------------------------

ROWS: dict[str, Callable[[int], Iterator[Line]]] = {
    row.__name__: row for row in (slots, refusals, queries, capacity, throughput, cpu)
}


def show(name: str, line: Line) -> None:
    """Print one line."""
    verdict = {True: "reached", False: "MISSED", None: ""}[line.reached]
    print(f"{name:<11}{line.figure:<34}{line.aim:<23}{verdict:<9}{line.note}", flush=True)


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all by default")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions of each row that can be repeated")
    parser.add_argument("--profile", action="store_true", help="say where the time of `throughput` goes, and no table")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    _machine()
    if options.profile:
        profile()
        return
    print(f"{'row':<11}{'figure':<34}{'aim':<23}{'':<9}note")
    for name in options.rows or ROWS:
        for line in ROWS[name](options.repeat):
            show(name, line)
    _machine()


def _machine() -> None:
    load = ", ".join(f"{part:.2f}" for part in os.getloadavg())
    print(f"Python {platform.python_version()}, {os.cpu_count()} processors; the machine's load: {load}", flush=True)


if __name__ == "__main__":
    main()
