"""Plays lives: `python -m tests.simulation --help`. docs/simulation.md is about it."""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from itertools import count, islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets of strings is a part of what a seed repeats
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])

_clock = time.perf_counter

from tests.simulation.life import Life, install  # noqa: E402
from tests.simulation.world import Violation  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CASES = Path(__file__).parent / "cases.txt"
_AT_STEP = ("killed", "power cut", "interrupted", "suspended", "clock set", "disk full")
_BEFALLS = (*(f"{what} at step" for what in _AT_STEP), "killed at point", "power cut at point", "window")


class Outcome(NamedTuple):
    """One life as it was played; `violation` is empty where all rules hold."""

    seed: str
    violation: str
    trace: list[str]
    figures: Counter[str]  # lives, seconds, runs, creates, and faults by name


def play(seed: str, without: frozenset[str] = frozenset()) -> Outcome:
    """Play one life; `without` some faults and steps, by their names."""
    disk = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()  # noqa: S108 - a disk in memory
    folder = Path(disk) / f"batchgen-life-{os.getpid()}"
    violation = ""
    try:
        life = Life(seed, folder, without=without)
        try:
            life.play()
        except Violation as error:
            violation = str(error)
            if error.__cause__ is not None:
                life.world.trace += "".join(traceback.format_exception(error.__cause__)).splitlines()
            life.world.trace.append(f"VIOLATION: {violation}")
        figures = Counter({f"fault {name}": number for name, number in life.world.faults.items()})
        figures.update(lives=1, seconds=int(life.world.true), runs=life.runs, creates=life.creates)
        return Outcome(seed, violation, [str(life.story), *life.world.trace], figures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _collect()


def _collect() -> None:
    """Give back now and then what killed runs have left: their tasks and frames refer to each other."""
    _collect.due = (_collect.due + 1) % 20
    if not _collect.due:
        gc.collect()


_collect.due = 0


def _work(seeds: Iterable[str], outcomes: multiprocessing.SimpleQueue[Outcome | None]) -> None:
    for seed in seeds:
        outcome = play(seed)
        outcomes.put(outcome if outcome.violation else outcome._replace(trace=[]))
    outcomes.put(None)


def played(seeds: Iterator[str], workers: int) -> Iterator[Outcome]:
    """Each life as it ends; several processes share the seeds."""
    if workers == 1:
        yield from map(play, seeds)
        return
    context = multiprocessing.get_context("fork")
    outcomes: multiprocessing.SimpleQueue[Outcome | None] = context.SimpleQueue()
    shares = [islice(seeds, number, None, workers) for number in range(workers)]  # each process has its own copy
    for share in shares:
        context.Process(target=_work, args=(share, outcomes), daemon=True).start()
    while workers:
        if (outcome := outcomes.get()) is None:
            workers -= 1
        else:
            yield outcome


def shrunken(outcome: Outcome) -> tuple[frozenset[str], Outcome]:
    """What can be left out of a life that fails, one thing after the other, and it fails still."""
    without: frozenset[str] = frozenset()
    steps = [line.split("--- ")[1].split(":")[0] for line in outcome.trace if "--- step" in line]
    faults = [name[6:] for name in sorted(outcome.figures) if name.startswith("fault ")]
    for name in [*reversed(steps), *faults, *_BEFALLS]:
        tried = play(outcome.seed, without | {name})
        if tried.violation:
            without, outcome = without | {name}, tried
    return without, outcome


def report(failed: list[Outcome], figures: Counter[str], seconds: float) -> None:
    faults = {name[6:]: number for name, number in sorted(figures.items()) if name.startswith("fault ")}
    print(
        f"{figures['lives']:,} lives in {seconds:,.0f} s ({figures['lives'] / seconds:.1f} a second):"
        f" {figures['seconds'] / 86400:,.0f} simulated days, {figures['runs']:,} runs, {figures['creates']:,} creates,"
        f" {sum(faults.values()):,} faults, {len(failed)} failures.\n{json.dumps(faults)}"
    )
    described = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    for outcome in failed[:3]:
        without, least = shrunken(outcome)
        print(f"\nseed {outcome.seed} at {described.stdout.strip()}, which fails as well without: {sorted(without)}")
        print("\n".join(least.trace))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Lives of batchgen, from seeds.")
    parser.add_argument("--seed", help="replay one life and print its trace")
    parser.add_argument(
        "--without", action="append", default=[], help="with --seed: leave out a fault or a step by name"
    )
    parser.add_argument("--lives", type=int, help="play so many lives")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="play for so long")
    parser.add_argument("--start", type=int, default=1, help="the first seed")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--first-failure", action="store_true", help="stop at the first failure")
    parser.add_argument("--cases", action="store_true", help="play the seeds that have failed once")
    parser.add_argument("--digests", action="store_true", help="print a digest of each trace")
    arguments = parser.parse_args()
    install()
    gc.freeze()  # what is loaded stays
    if arguments.seed is not None:
        outcome = play(arguments.seed, frozenset(arguments.without))
        print("\n".join(outcome.trace))
        return int(bool(outcome.violation))
    began = _clock()
    seeds = iter(_CASES.read_text().split()) if arguments.cases else map(str, count(arguments.start))
    seeds = islice(seeds, arguments.lives)
    in_time = takewhile(lambda _: _clock() - began < 60 * arguments.minutes, seeds)
    failed: list[Outcome] = []
    figures: Counter[str] = Counter()
    for outcome in played(in_time, arguments.workers):
        figures += outcome.figures
        if arguments.digests:
            print(outcome.seed, hashlib.sha256("\n".join(outcome.trace).encode()).hexdigest()[:16])
        if outcome.violation:
            failed.append(outcome)
            print(f"seed {outcome.seed}: {outcome.violation}", flush=True)
            if arguments.first_failure:
                break
    if not arguments.digests:
        report(failed, figures, _clock() - began)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
