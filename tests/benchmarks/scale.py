"""The rows on large runs: memory, resuming, starting, stopping."""

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
_IN_FLIGHT = 500
_TIMEOUT = 300.0  # seconds
_FREE_MB = 100.0  # no limit below it


def memory(_options: Namespace) -> Iterator[Line]:
    """Peak memory of a run that makes 1,000 images of a large manifest."""
    peaks: dict[int, float] = {}
    for jobs in (1_000, 100_000, 1_000_000):
        with rig.folder() as place, rig.gateway(units=SLOTS, latency=0.05) as server:
            path = rig.manifest(place, server.base_url, rig.many(jobs), limits=f"concurrency: {SLOTS}")
            usage = rig.whole_run(place, server, path, "--limit", 1000).usage
        peaks[jobs] = usage.peak_mb
        limit = 1.3 * max(_FREE_MB, peaks[1_000])
        reached = None if jobs == 1_000 else usage.peak_mb <= limit
        aim = "" if jobs == 1_000 else f"≤ {limit:.0f} MB"
        yield Line(
            figure=f"{usage.peak_mb:.0f} MB at {jobs:,} jobs",
            aim=aim,
            reached=reached,
            note=f"1,000 of them made; {usage.seconds:.1f} s",
        )
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if own >= min(peaks.values()):  # a child's peak begins with its parent's memory
        yield Line(figure="not valid", note=f"the benchmark itself took {own:.0f} MB: measure this row alone")


def resume(options: Namespace) -> Iterator[Line]:
    """A run of a million jobs that are all done: until "nothing to do". The first run follows an edit: a new port."""
    place = million.ready()
    with rig.gateway(units=UNITS, latency=1.0) as server:
        path = rig.manifest(place, server.base_url, million.matrix())
        edited, *usages = [rig.launch(place, path).wait() for _ in range(1 + options.repeat)]
        requests = server.usage(tasks=False)["requests"]
    for usage in (edited, *usages):
        usage.log.unlink()
        if usage.exit_code or json.loads(usage.printed)["images"] != million.JOBS:
            raise SystemExit(f"The run did not end with nothing to do:\n{usage.printed[-2000:]}")
    sent = sum(sum(answers.values()) for kind, answers in requests.items() if kind != "usage")
    seconds = median(usage.seconds for usage in usages)
    yield Line(
        figure=f"{seconds:.1f} s, {sent} requests",
        aim="≤ 8 s, none",
        reached=seconds <= 8 and not sent,
        note=f"every folder is checked; {usages[-1].cpu:.1f} s of CPU, {usages[-1].peak_mb:.0f} MB",
    )
    yield Line(
        figure=f"{edited.seconds:.1f} s after an edit",
        note=f"that changes no job: another base_url; {edited.cpu:.1f} s of CPU; one run",
    )


def start(options: Namespace) -> Iterator[Line]:
    """A run of a million new jobs, all checked and listed first: until the gateway has the first create."""
    seen = [first_create() for _ in range(options.repeat)]
    seconds = median(seconds for seconds, _ in seen)
    yield Line(
        figure=f"{seconds:.1f} s to the first create",
        aim="≤ 30 s",
        reached=seconds <= 30,
        note=f"1,000,000 new jobs; {seen[-1][1].peak_mb:.0f} MB at most",
    )


def first_create() -> tuple[float, Usage]:
    """Seconds from the start of the command to its first create, after which it is stopped."""
    with rig.folder() as place, rig.gateway(units=UNITS, latency=600.0) as server:
        path = rig.manifest(place, server.base_url, rig.many(1_000_000), limits=f"concurrency: {UNITS}")
        running = rig.launch(place, path)
        wait_for_usage(server, running, "creates_accepted", 1)
        for _ in range(2):  # the second quits at once
            running.process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        usage = running.wait()
        return rig.GatewayUsage.of(server.usage()).first_create - running.started, usage


def shutdown(options: Namespace) -> Iterator[Line]:
    """Ctrl-C with 500 tasks in flight and 2,000 images on disk: until the command has ended."""
    seconds = median(ended_after() for _ in range(options.repeat))
    yield Line(
        figure=f"{seconds - GRACE:.2f} s beyond the grace period",
        aim="≤ 2 s",
        reached=seconds - GRACE <= 2,
        note=f"{_IN_FLIGHT} in flight, a grace period of {GRACE:g} s, an index of 2,000 rows",
    )


def ended_after() -> float:
    """Seconds from the signal to the end of the command."""
    grace = f"run: {{grace: {GRACE:g}s}}\n"
    limits = f"concurrency: {_IN_FLIGHT}"
    with rig.folder() as place:
        matrix = rig.plain(place, 2000 + 2 * _IN_FLIGHT)
        with rig.gateway(units=_IN_FLIGHT, latency=0.05) as server:
            rig.whole_run(place, server, rig.manifest(place, server.base_url, matrix, limits=limits), "--limit", 2000)
        with rig.gateway(units=_IN_FLIGHT, latency=600.0) as server:
            running = rig.launch(place, rig.manifest(place, server.base_url, matrix, limits=limits, more=grace))
            wait_for_usage(server, running, "units_held", _IN_FLIGHT)
            time.sleep(1)
            signalled = time.time()
            running.process.send_signal(signal.SIGINT)
            usage = running.wait()
        rows = (place / "outputs" / rig.NAME / "index.csv").read_text(encoding="utf-8").count("\n") - 1
        if (usage.exit_code, rows) != (130, 2000):
            raise SystemExit(f"Exit code {usage.exit_code}, {rows} rows in the index:\n{usage.printed[-2000:]}")
        return usage.ended - signalled


def wait_for_usage(server: SandboxProcess, running: Running, name: str, minimum: int) -> None:
    """Wait until a total of the gateway's usage reaches a minimum."""
    while server.usage(tasks=False)[name] < minimum:
        time.sleep(0.1)
        if time.time() - running.started > _TIMEOUT:
            running.process.kill()
            raise SystemExit(f"{name} did not reach {minimum} in {_TIMEOUT} s:\n{running.wait().printed[-2000:]}")
