"""The rows about large and long runs: memory, going on, starting, ending."""

from __future__ import annotations

import json
import resource
import signal
import time
from statistics import median
from typing import TYPE_CHECKING

import million
import rig
from table import Line

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from measured import Running, Usage
    from sandbox_process import SandboxProcess

SLOTS, UNITS = 200, 24
GRACE = 2.0  # seconds
_FLYING = 500
_PATIENCE = 300.0  # seconds
_FREE_MB = 100.0  # below it nobody minds


def memory(_options: Namespace) -> Iterator[Line]:
    """Peak memory of a run that makes 1,000 images out of so many jobs that are wanted."""
    peaks: dict[int, float] = {}
    for jobs in (1_000, 100_000, 1_000_000):
        with rig.folder() as place, rig.gateway(units=SLOTS, latency=0.05) as server:
            path = rig.manifest(place, server.base_url, rig.many(jobs), limits=f"concurrency: {SLOTS}")
            usage = rig.whole_run(place, server, path, "--limit", 1000).usage
        peaks[jobs] = usage.peak_mb
        most = 1.3 * max(_FREE_MB, peaks[1_000])
        reached = None if jobs == 1_000 else usage.peak_mb <= most
        aim = "" if jobs == 1_000 else f"≤ {most:.0f} MB"
        yield Line(
            figure=f"{usage.peak_mb:.0f} MB at {jobs:,} jobs",
            aim=aim,
            reached=reached,
            note=f"1,000 of them made; {usage.seconds:.1f} s",
        )
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if own >= min(peaks.values()):  # a child's peak begins with its parent's memory
        yield Line(figure="not to be trusted", note=f"the benchmark itself took {own:.0f} MB: measure this row alone")


def go_on(options: Namespace) -> Iterator[Line]:
    """A run of a million jobs that are all done: until "nothing to do". The first follows an edit, for ports change."""
    place = million.ready()
    with rig.gateway(units=UNITS, latency=1.0) as server:
        path = rig.manifest(place, server.base_url, million.matrix())
        edited, *usages = [rig.launch(place, path).wait() for _ in range(1 + options.repeat)]
        requests = server.usage(tasks=False)["requests"]
    for usage in (edited, *usages):
        usage.log.unlink()
        if usage.exit_code or json.loads(usage.printed)["images"] != million.JOBS:
            raise SystemExit(f"The run did not end with nothing to do:\n{usage.printed[-2000:]}")
    asked = sum(sum(answers.values()) for kind, answers in requests.items() if kind != "ledger")
    seconds = median(usage.seconds for usage in usages)
    yield Line(
        figure=f"{seconds:.1f} s, {asked} requests",
        aim="≤ 8 s, none",
        reached=seconds <= 8 and not asked,
        note=f"every folder looked at; {usages[-1].cpu:.1f} s of processor, {usages[-1].peak_mb:.0f} MB",
    )
    yield Line(
        figure=f"{edited.seconds:.1f} s after an edit",
        note=f"that changes no job: another base_url; {edited.cpu:.1f} s of processor; once",
    )


def start(options: Namespace) -> Iterator[Line]:
    """A run of a million new jobs, all checked and listed first: until the first create is at the gateway."""
    seen = [first_create() for _ in range(options.repeat)]
    seconds = median(seconds for seconds, _ in seen)
    yield Line(
        figure=f"{seconds:.1f} s to the first create",
        aim="≤ 30 s",
        reached=seconds <= 30,
        note=f"1,000,000 new jobs; {seen[-1][1].peak_mb:.0f} MB at most",
    )


def first_create() -> tuple[float, Usage]:
    """Seconds from the start of the command to its first create, after which it is sent away."""
    with rig.folder() as place, rig.gateway(units=UNITS, latency=600.0) as server:
        path = rig.manifest(place, server.base_url, rig.many(1_000_000), limits=f"concurrency: {UNITS}")
        running = rig.launch(place, path)
        await_ledger(server, running, "creates_accepted", 1)
        for _ in range(2):  # the second leaves at once
            running.process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        usage = running.wait()
        return rig.Account.of(server.usage()).first_create - running.began, usage


def shutdown(options: Namespace) -> Iterator[Line]:
    """Ctrl-C with 500 tasks in flight and 2,000 images there: until the command has ended and the index is written."""
    seconds = median(ended_after() for _ in range(options.repeat))
    yield Line(
        figure=f"{seconds - GRACE:.2f} s beyond the grace",
        aim="≤ 2 s",
        reached=seconds - GRACE <= 2,
        note=f"{_FLYING} in flight, a grace of {GRACE:g} s, an index of 2,000 rows",
    )


def ended_after() -> float:
    """Seconds from the signal to the end of the command."""
    grace = f"run: {{grace: {GRACE:g}s}}\n"
    limits = f"concurrency: {_FLYING}"
    with rig.folder() as place:
        matrix = rig.plain(place, 2000 + 2 * _FLYING)
        with rig.gateway(units=_FLYING, latency=0.05) as server:
            rig.whole_run(place, server, rig.manifest(place, server.base_url, matrix, limits=limits), "--limit", 2000)
        with rig.gateway(units=_FLYING, latency=600.0) as server:
            running = rig.launch(place, rig.manifest(place, server.base_url, matrix, limits=limits, more=grace))
            await_ledger(server, running, "units_held", _FLYING)
            time.sleep(1)
            told = time.time()
            running.process.send_signal(signal.SIGINT)
            usage = running.wait()
        rows = (place / "outputs" / rig.NAME / "index.csv").read_text(encoding="utf-8").count("\n") - 1
        if (usage.exit_code, rows) != (130, 2000):
            raise SystemExit(f"Exit code {usage.exit_code}, {rows} rows in the index:\n{usage.printed[-2000:]}")
        return usage.ended - told


def await_ledger(server: SandboxProcess, running: Running, name: str, least: int) -> None:
    """Wait until a sum of the gateway's account is at least so much."""
    while server.usage(tasks=False)[name] < least:
        time.sleep(0.1)
        if time.time() - running.began > _PATIENCE:
            running.process.kill()
            raise SystemExit(f"{name} did not come to {least} in {_PATIENCE} s:\n{running.wait().printed[-2000:]}")
