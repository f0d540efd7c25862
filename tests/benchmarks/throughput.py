"""The rows on throughput: jobs per second and CPU seconds, compared with a bare loop and other tools."""

from __future__ import annotations

import pstats
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import rig
from measured import Usage, start
from table import Line

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator

    from rig import Seen

HERE = Path(__file__).parent
SLOTS, LATENCY, JOBS = 200, 0.15, 3000
USUAL_BYTES, USUAL_JOBS = 500_000, 1000  # an image as gateways deliver it; other images here have a few bytes
_JOBS_PER_LIST = 50  # with fewer lists the slots of the bare loop wait for them, and it is no upper bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Bare:
    """The bare loop's run."""

    usage: Usage
    gateway: rig.GatewayUsage
    making: float  # seconds from the first create to the last file


def engine_run(jobs: int = JOBS, *more: object) -> Seen:
    """The engine alone; `more` are options of the gateway."""
    with rig.folder() as place, rig.gateway(*more, units=SLOTS, latency=LATENCY) as server:
        path = rig.manifest(place, server.base_url, rig.plain(place, jobs), limits=f"concurrency: {SLOTS}")
        return rig.whole_run(place, server, path)


@cache
def throughput_run(repetition: int) -> tuple[Seen, Bare]:
    """The engine, then the bare loop with the same requests at another gateway."""
    del repetition  # each is a run of its own
    return _pair(JOBS)


@cache
def usual_run(repetition: int) -> tuple[Seen, Bare]:
    """The same with images of a usual size."""
    del repetition
    return _pair(USUAL_JOBS, "--image-bytes", USUAL_BYTES)


def _pair(jobs: int, *more: object) -> tuple[Seen, Bare]:
    seen = engine_run(jobs, *more)
    lists, queries = seen.gateway.count("list"), seen.gateway.count("query")
    queries_sent = ("--lists", max(lists, jobs // _JOBS_PER_LIST if lists else 0), "--queries", queries)
    return seen, bare_run(*queries_sent, jobs=jobs, more=more)


def bare_run(*options: object, jobs: int = JOBS, more: tuple[object, ...] = ()) -> Bare:
    """The bare loop alone."""
    with rig.folder() as place, rig.gateway(*more, units=SLOTS, latency=LATENCY) as server:
        rig.plain(place, jobs)
        loop = [sys.executable, HERE / "bare_loop.py", server.base_url, "prompts.txt", "bare"]
        bounds = ("--slots", SLOTS, "--latency", LATENCY)
        usage = start(list(map(str, [*loop, *bounds, *options])), place).wait()
        if usage.exit_code:
            raise SystemExit(f"The bare loop failed:\n{usage.printed[-2000:]}")
        gateway = rig.GatewayUsage.of(server.usage())
        return Bare(usage=usage, gateway=gateway, making=rig.last_file(place / "bare") - gateway.first_create)


def throughput(options: Namespace) -> Iterator[Line]:
    """200 slots of 150 ms, 3,000 jobs: jobs a second against the bare loop, other tools, and the slots' own bound."""
    pairs = [throughput_run(number) for number in range(options.repeat)]
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
    synced = bare_run("--lists", JOBS // _JOBS_PER_LIST, "--synced")
    seen, bare = pairs[-1]
    yield Line(
        figure=f"{synced.making / seen.making:.2f} of one that syncs",
        note=f"{JOBS / synced.making:.0f} jobs/s where the bare loop syncs each file, as a run does; one run",
    )
    yield Line(figure="", note=f"requests: {_requests(seen.gateway)}; bare: {_requests(bare.gateway)}")


def tools(options: Namespace) -> Iterator[Line]:
    """The same work in other tools, one run each."""
    if not _has_scrapy(options.scrapy):
        yield Line(figure="Scrapy is not installed", note="install it in a venv; --scrapy VENV/bin/python")
    else:
        spider, bounds = HERE / "scrapy_spider.py", ("--slots", SLOTS, "--latency", LATENCY)
        made = other_tool(lambda url: [options.scrapy, spider, url, "prompts.txt", "other", *bounds], 1500)
        yield _compared(made, "Scrapy's", 10)
    if not (shutil.which("parallel") and shutil.which("curl")):
        yield Line(figure="GNU parallel or curl is not installed", note="apt install parallel curl")
    else:
        script = HERE / "parallel_curl.sh"
        made = other_tool(lambda url: ["bash", script, url, "prompts.txt", "other", SLOTS, LATENCY], 400)
        yield _compared(made, "GNU parallel's with curl", 30)


def other_tool(command: Callable[[str], list[object]], jobs: int) -> tuple[float, float]:
    """Run another tool; its jobs a second, and its processor seconds for a job."""
    with rig.folder() as place, rig.gateway(units=SLOTS, latency=LATENCY) as server:
        rig.plain(place, jobs)
        usage = start(list(map(str, command(server.base_url))), place).wait()
        files = len(list((place / "other" / "images").glob("*.png")))
        if usage.exit_code or files != jobs:
            raise SystemExit(f"It wrote {files} of {jobs} files:\n{usage.printed[-2000:]}")
        making = rig.last_file(place / "other") - rig.GatewayUsage.of(server.usage()).first_create
        return jobs / making, usage.cpu / jobs


def _compared(made: tuple[float, float], whose: str, aim: float) -> Line:
    theirs, cpu_of_job = made
    rate = JOBS / engine_run().making  # right after it, since the machine's load changes
    return Line(
        figure=f"{rate / theirs:.1f} × {whose} rate",
        aim=f"≥ {aim}",
        reached=rate / theirs >= aim,
        note=f"{rate:.0f} jobs/s, {theirs:.0f} there with {cpu_of_job * 1000:.1f} ms of CPU a job",
    )


def _has_scrapy(python: str) -> bool:
    asking = [python, "-c", "import scrapy"]
    return shutil.which(python) is not None and not subprocess.run(asking, capture_output=True, check=False).returncode


def cpu(options: Namespace) -> Iterator[Line]:
    """CPU seconds of the whole command, compared with the bare loop's whole command."""
    pairs = [throughput_run(number) for number in range(options.repeat)]
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
        note=f"the gateway used {seen.gateway_cpu:.2f} s in {seen.usage.seconds:.2f} s",
    )
    usual = [usual_run(number) for number in range(options.repeat)]
    ours, bares = (median(figures) for figures in zip(*((s.usage.cpu, b.usage.cpu) for s, b in usual), strict=True))
    rates = (median(USUAL_JOBS / one.making for one in ones) for ones in zip(*usual, strict=True))
    yield Line(
        figure=f"{median(s.usage.cpu / b.usage.cpu for s, b in usual):.2f} × with images of 500 KB",
        note=f"{ours / USUAL_JOBS * 1000:.2f} ms a job, bare {bares / USUAL_JOBS * 1000:.2f};"
        f" {next(rates):.0f} jobs/s, bare {next(rates):.0f}",
    )


def _requests(usage: rig.GatewayUsage) -> str:
    return ", ".join(f"{usage.count(kind)} {kind}" for kind in ("create", "list", "query", "image"))


def profile() -> None:
    """Where the time of `run` goes in the row `throughput`, by cProfile."""
    with rig.folder() as place, rig.gateway(units=SLOTS, latency=LATENCY) as server:
        path = rig.manifest(place, server.base_url, rig.plain(place, JOBS), limits=f"concurrency: {SLOTS}")
        figures = place / "profile"
        seen = rig.whole_run(place, server, path, python=(str(HERE / "profiled_run.py"), str(figures)))
        print(f"profiled: {seen.usage.seconds:.2f} s, {seen.usage.cpu:.2f} s of CPU (cProfile slows it down).")
        print("Times below are wall-clock times: they include waiting for the disk, a lock or other processes.")
        print(f"event loop's thread {seen.main_cpu:.2f} s, other threads {seen.other_cpu:.2f} s.")
        for threads, most in (("loop", 45), ("threads", 25)):
            for order in ("tottime", "cumulative"):
                print(f"--- {threads}, by {order} ---")
                pstats.Stats(f"{figures}.{threads}").strip_dirs().sort_stats(order).print_stats(most)
