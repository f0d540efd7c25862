"""Plays lives: `python -m tests.simulation --help`. docs/simulation.md is about it."""

from __future__ import annotations

import argparse
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets of strings is a part of what a seed repeats
    os.execve(
        sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"}
    )

_clock = time.perf_counter

from tests.simulation.life import Life, install  # noqa: E402
from tests.simulation.world import Violation  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CHUNK = 25
_CASES = Path(__file__).parent / "cases.txt"


@dataclass(slots=True, kw_only=True)
class Outcome:
    """One life as it was played. `digest` is of the whole trace."""

    seed: str
    violation: str = ""
    digest: str = ""
    days: float = 0.0
    creates: int = 0
    runs: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    trace: list[str] = field(default_factory=list)


def play(seed: str, without: frozenset[str] = frozenset(), *, with_trace: bool = False) -> Outcome:
    """Play one life. A violation is in the outcome."""
    disk = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())
    folder = disk / f"batchgen-life-{os.getpid()}"
    try:
        life = Life(seed, folder, without=without)
        violation = ""
        try:
            life.play()
        except Violation as error:
            violation = str(error)
            life.world.trace += ["", *_defect(error), f"VIOLATION: {violation}"]
        trace = life.world.trace
        return Outcome(
            seed=seed,
            violation=violation,
            digest=hashlib.sha256("\n".join(trace).encode()).hexdigest()[:16],
            days=life.world.true / 86400,
            creates=life.jobs,
            runs=life.runs,
            faults=life.world.faults,
            trace=[str(life.story), *trace] if with_trace else [],
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _defect(error: Violation) -> Iterator[str]:
    if error.__cause__ is not None:
        yield from "".join(traceback.format_exception(error.__cause__)).splitlines()


def _chunk(seeds: Iterable[str]) -> list[Outcome]:
    return [play(seed) for seed in seeds]


def search(
    seeds: Iterator[str], workers: int, *, until: float, first_only: bool
) -> tuple[int, list[Outcome], Counter[str]]:
    """Play until the seeds or the time are used up: how many lives, those that failed, and what happened in all."""
    failed: list[Outcome] = []
    totals: Counter[str] = Counter()
    lives = 0

    def chunks() -> Iterator[list[str]]:
        while _clock() < until and not (first_only and failed):
            chunk = [seed for _, seed in zip(range(_CHUNK), seeds, strict=False)]
            if not chunk:
                return
            yield chunk

    def note(outcomes: list[Outcome]) -> None:
        nonlocal lives
        for outcome in outcomes:
            lives += 1
            totals.update({f"fault: {fault}": number for fault, number in outcome.faults.items()})
            totals.update(creates=outcome.creates, runs=outcome.runs, milliseconds=int(86_400_000 * outcome.days))
            if outcome.violation:
                failed.append(outcome)
                print(f"seed {outcome.seed}: {outcome.violation}", flush=True)

    if workers == 1:
        for chunk in chunks():
            note(_chunk(chunk))
        return lives, failed, totals
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        waiting = []
        source = chunks()
        while True:
            while len(waiting) < 2 * workers and (chunk := next(source, None)) is not None:
                waiting.append(pool.apply_async(_chunk, (chunk,)))
            if not waiting:
                return lives, failed, totals
            note(waiting.pop(0).get())


def shrunken(seed: str) -> tuple[frozenset[str], Outcome]:
    """What can be left out of a life that fails, one thing after the other, and it fails still."""
    outcome = play(seed, with_trace=True)
    without: frozenset[str] = frozenset()
    steps = [line.split("--- ")[1].split(":")[0] for line in outcome.trace if "--- step" in line]
    befallen = ["killed at step", "killed at point", "power cut at step", "interrupted at step", "suspended at step"]
    befallen += ["clock set at step", "disk full at step", "window"]
    for name in [*reversed(steps), *sorted(outcome.faults), *befallen]:
        tried = play(seed, without | {name}, with_trace=True)
        if tried.violation:
            without, outcome = without | {name}, tried
    return without, outcome


def _commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _report(lives: int, failed: list[Outcome], totals: Counter[str], seconds: float) -> None:
    faults = {name[7:]: number for name, number in sorted(totals.items()) if name.startswith("fault: ")}
    days = totals["milliseconds"] / 86_400_000
    print(
        f"{lives:,} lives in {seconds:,.0f} s ({lives / seconds:.1f} a second): {days:,.0f} simulated days,"
        f" {totals['runs']:,} runs, {totals['creates']:,} creates, {sum(faults.values()):,} faults, {len(failed)} failures."
    )
    print(json.dumps(faults))
    for outcome in failed[:3]:
        without, least = shrunken(outcome.seed)
        print(
            f"\nseed {outcome.seed} at {_commit()}, which fails without {', '.join(sorted(without)) or 'nothing'} too:"
        )
        print("\n".join(least.trace))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Lives of batchgen, from seeds.")
    parser.add_argument("--seed", help="replay one life and print its trace")
    parser.add_argument(
        "--without", action="append", default=[], help="with --seed: leave out a fault or a step by name"
    )
    parser.add_argument("--lives", type=int, help="play so many lives")
    parser.add_argument("--minutes", type=float, help="play for so long")
    parser.add_argument("--start", type=int, default=1, help="the first seed")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--first-failure", action="store_true", help="stop at the first failure")
    parser.add_argument("--cases", action="store_true", help="play the seeds that have failed once")
    parser.add_argument("--digests", action="store_true", help="print what is the same for the same seed and commit")
    arguments = parser.parse_args()
    install()
    if arguments.seed is not None:
        outcome = play(arguments.seed, frozenset(arguments.without), with_trace=True)
        print("\n".join(outcome.trace))
        return int(bool(outcome.violation))
    if arguments.digests:
        for seed in range(arguments.start, arguments.start + (arguments.lives or 10)):
            print(seed, play(str(seed)).digest)
        return 0
    seeds = iter(_CASES.read_text().split()) if arguments.cases else map(str, range(arguments.start, 10**12))
    if arguments.lives is not None:
        seeds = (seed for _, seed in zip(range(arguments.lives), seeds, strict=False))
    began = _clock()
    until = began + 60 * arguments.minutes if arguments.minutes else float("inf")
    lives, failed, totals = search(seeds, arguments.workers, until=until, first_only=arguments.first_failure)
    _report(lives, failed, totals, _clock() - began)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
