"""Measures what the coordinator saves when workers download; run it by hand:

    python tests/benchmarks/workers.py [--images 400] [--repeat 3] [--base CHECKOUT]

Every task is made, so a run only downloads, from one server on loopback. `coordinator` is the CPU time of the run's own
process an image, without its workers; `to threads` is its ratio to a run without workers in the same round, the median
of all rounds. `--base` is another checkout of the project, for the ratio of this one's code to that one's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from bench_downloads import ROOT, ours, server

SIZES = (50_000, 500_000, 3_000_000)
WORKERS = 2


def child(origin: str, images: int, at_once: int, folder: Path, words: tuple[str, ...]) -> None:
    figures: dict[str, float] = {}
    ours(origin, images, at_once, folder, figures, words)
    print(json.dumps(figures))


def measured(origin: str, options: argparse.Namespace, checkout: Path, workers: int) -> dict[str, float]:
    folder = Path(tempfile.mkdtemp(prefix="batchgen-bench-"))
    words = [sys.executable, __file__, "--origin", origin, "--images", str(options.images), "--folder", str(folder)]
    words += ["--at-once", str(options.at_once), "--workers", str(workers)]
    env = os.environ | {"BENCH_KEY": "none", "PYTHONPATH": str(checkout)}
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=env)
        return json.loads(done.stdout.splitlines()[-1])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(options: argparse.Namespace) -> None:
    ways = {"threads": (ROOT, 0), f"--workers {WORKERS}": (ROOT, WORKERS)}
    if options.base is not None:
        ways["base, threads"] = (options.base, 0)
    print(f"{options.images} images, {options.at_once} at a time; load {os.getloadavg()[0]:.1f}")
    print(f"{'bytes':>9}  {'':<16}{'coordinator, ms':>16}{'to threads':>12}{'MB/s':>8}")
    for size in SIZES:
        figures: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        with server(size) as origin:
            for number in range(options.repeat):
                for way in list(ways)[
                    :: 1 if number % 2 else -1
                ]:  # the order alternates: the machine is not ours alone
                    figures[way].append(measured(origin, options, *ways[way]))
        for way, found in figures.items():
            cpu = median(each["cpu"] for each in found) / options.images * 1000
            pairs = zip(found, figures["threads"], strict=True)
            ratio = median(each["cpu"] / own["cpu"] for each, own in pairs)
            speed = median(options.images * size / 1e6 / each["seconds"] for each in found)
            print(f"{size:>9}  {way:<16}{cpu:>16.2f}{ratio:>12.2f}{speed:>8.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400, help="how many (default: 400)")
    parser.add_argument("--at-once", type=int, default=16, help="run.downloads (default: 16)")
    parser.add_argument("--repeat", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--base", type=Path, help="another checkout, to compare with")
    for name in ("--origin", "--folder", "--workers"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.origin is None:
        table(options)
    else:
        words = ("--workers", options.workers) if options.workers != "0" else ()
        child(options.origin, options.images, options.at_once, Path(options.folder), words)


if __name__ == "__main__":
    main()
