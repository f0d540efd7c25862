"""Measures a pool of three accounts; run it by hand:

    python tests/benchmarks/pool.py [--jobs 240] [--kills 30]

The first has 12 slots and is away for a while, the second has 8 and runs out of money in the middle, the third has 4.
`filled` is the makespan of greedy list scheduling of the same tasks on the same slots, at the same times, compared with
that of the run. Then a run of the same is killed again and again: what was billed for each job is counted.
"""

from __future__ import annotations

import argparse
import heapq
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from command import batchgen_process, prompts, started
from output_checks import check_invariant
from pool_manifest import billed, pooled
from sandbox_process import SandboxProcess

SLOTS, LATENCY = {"first": 12, "second": 8, "third": 4}, {"first": 1.0, "second": 0.7, "third": 1.4}
AWAY = (3.0, 6.0)  # seconds after the first create, of the first account


class Gateways:
    """The three of them; the first can be taken away."""

    def __init__(self, stack: ExitStack, folder: Path, balance: int, *faults: str) -> None:
        self._stack = stack
        self._options = {
            name: ["--emulate", "kapon", "--blank-images", "--concurrency", str(slots), "--latency", str(LATENCY[name])]
            for name, slots in SLOTS.items()
        }
        self._options["first"] += ["--state", str(folder / "first.jsonl")]
        self._options["second"] += ["--balance", str(balance)]
        self._options["third"] += faults
        self.running = {name: stack.enter_context(SandboxProcess(*each)) for name, each in self._options.items()}

    def manifest(self, folder: Path, jobs: int) -> Path:
        accounts = {
            name: {"base_url": gateway.base_url, "limits": {"concurrency": SLOTS[name]}}
            for name, gateway in self.running.items()
        }
        text = prompts(jobs, "run: {max_attempts: 9}\n")
        return pooled(folder, text, accounts, {"pool": [*SLOTS], "spill": True})

    def take_away(self) -> None:
        self.running["first"].kill()

    def bring_back(self) -> None:
        port = str(urlsplit(self.running["first"].base_url).port)
        again = SandboxProcess(*self._options["first"], "--port", port)
        self.running["first"] = self._stack.enter_context(again)

    def tasks(self) -> list[tuple[int, int]]:
        """When each task was created and ended, in Unix ms."""
        found = [task for each in self.running.values() for task in each.usage()["tasks"]]
        return [(task["created_at"], task["ends_at"]) for task in found]


def list_scheduling(jobs: int, balance: int, away: tuple[float, float] | None) -> float:
    """Seconds that the jobs take where each starts at the first free slot of any account."""
    free = [(0.0, name) for name, slots in SLOTS.items() for _ in range(slots)]
    heapq.heapify(free)
    end, money = 0.0, balance
    while jobs:
        at, name = heapq.heappop(free)
        if name == "first" and away is not None and away[0] <= at < away[1]:
            heapq.heappush(free, (away[1], name))
            continue
        if name == "second":
            if not money:
                continue
            money -= 1
        jobs -= 1
        end = max(end, at + LATENCY[name])
        heapq.heappush(free, (at + LATENCY[name], name))
    return end


def filled(jobs: int, *, is_away: bool) -> str:
    balance = jobs // 5
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        gateways = Gateways(stack, folder, balance)
        run = started("run", gateways.manifest(folder, jobs), "--quiet", cwd=folder)
        if is_away:
            while not gateways.tasks():
                time.sleep(0.01)
            begun = time.monotonic()
            time.sleep(AWAY[0])
            gateways.take_away()
            time.sleep(max(0.0, begun + AWAY[1] - time.monotonic()))
            gateways.bring_back()
        _, errors = run.communicate()
        assert run.returncode == 0, errors
        tasks = gateways.tasks()
        assert set(billed(gateways.running.values()).values()) == {1}
        assert len(tasks) == jobs
    makespan = (max(end for _, end in tasks) - min(begin for begin, _ in tasks)) / 1000
    best = list_scheduling(jobs, balance, AWAY if is_away else None)
    return f"{best / makespan:.1%} of list scheduling's ({best:.1f} s, {makespan:.1f} s)"


def killed(jobs: int, kills: int) -> str:
    chance = random.Random(11)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        gateways = Gateways(stack, folder, jobs // 5, "--faults", "drop_after=0.05,error_after=0.05")
        path = gateways.manifest(folder, jobs)
        for number in range(kills):
            if number == kills // 3:
                gateways.take_away()
            if number == kills // 2:
                gateways.bring_back()
            run = started("run", path, "--quiet", cwd=folder)
            try:
                run.communicate(timeout=chance.uniform(0.6, 1.4))
            except subprocess.TimeoutExpired:
                run.kill()
                run.communicate()
        done = batchgen_process("run", path, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        images = len(check_invariant(folder / "outputs" / "pooled"))
        times = Counter(billed(gateways.running.values()).values())
        assert (images, times) == (jobs, {1: jobs}), (images, times)
    return f"{images} of {jobs} jobs made, each billed once, after {kills} kills"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=240, help="jobs of each run (default: 240)")
    parser.add_argument("--kills", type=int, default=30, help="how often the last run is killed (default: 30)")
    options = parser.parse_args()
    print("filled, one out of money:", filled(options.jobs, is_away=False), flush=True)
    print("filled, one away besides:", filled(options.jobs, is_away=True), flush=True)
    print("killed:", killed(options.jobs * 2, options.kills))


if __name__ == "__main__":
    main()
