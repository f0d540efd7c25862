"""Measures the engine; run it by hand:

    python tests/benchmarks/bench_engine.py [ROW …] [--repeat 3] [--profile]

Every row runs the real `batchgen run` against `batchgen sandbox` in another process. A figure is the ratio to an
optimum or to a bare loop measured at the same time, the median of the repetitions. Without a row, all are measured
(half an hour). The result is a Markdown table for docs/benchmarks.md. --profile shows where the time of the row
`throughput` goes. The machine's load is printed too: on a busy machine only the ratios count.
"""

from __future__ import annotations

import argparse
import os
import platform
from typing import TYPE_CHECKING

import declared
import scale
import slots
import throughput
from table import Line, show, show_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROWS: dict[str, Callable[[argparse.Namespace], Iterator[Line]]] = {
    "slots": slots.slots,
    "refusals": slots.refusals,
    "queries": slots.queries,
    "capacity": slots.capacity,
    "throughput": throughput.throughput,
    "cpu": throughput.cpu,
    "declared": declared.declared,
    "tools": throughput.tools,
    "memory": scale.memory,
    "resume": scale.resume,
    "start": scale.start,
    "shutdown": scale.shutdown,
}


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"one of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions (default: 3); long rows take one")
    parser.add_argument(
        "--profile", action="store_true", help="show where the time of `throughput` goes without a table"
    )
    parser.add_argument("--scrapy", metavar="PYTHON", default="python3", help="a Python that has Scrapy, for `tools`")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"unknown row: {', '.join(sorted(unknown))}; the rows are {', '.join(ROWS)}")
    if options.repeat < 1:
        parser.error("--repeat must be 1 or more")
    _machine()
    if options.profile:
        throughput.profile()
        return
    show_head()
    for name in options.rows or ROWS:
        for line in ROWS[name](options):
            show(name, line)
    print()
    _machine()


def _machine() -> None:
    load = ", ".join(f"{part:.2f}" for part in os.getloadavg())
    print(f"Python {platform.python_version()}, {os.cpu_count()} processors, load {load}\n", flush=True)


if __name__ == "__main__":
    main()
