"""How close the engine comes to what can be reached; by hand:

    python tests/benchmarks/bench_engine.py [ROW …] [--repeat 3] [--profile]

Every row runs the real `batchgen run` against `batchgen sandbox` in a process of its own. Its figure is a ratio
against an optimum or a bare loop in the same run, the median of the repetitions, beside the figure that is
aimed at. Without a row, all are measured (half an hour). --profile says where the time of the row `throughput`
goes. Figures are told with the machine's load: of a busy machine only the ratios count.
"""

from __future__ import annotations

import argparse
import os
import platform
from typing import TYPE_CHECKING

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
    "tools": throughput.tools,
    "memory": scale.memory,
    "go_on": scale.go_on,
    "start": scale.start,
    "shutdown": scale.shutdown,
}


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all by default")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions (default: 3); long rows take one")
    parser.add_argument("--profile", action="store_true", help="say where the time of `throughput` goes, and no table")
    parser.add_argument("--scrapy", metavar="PYTHON", default="python3", help="a Python that has Scrapy, for `tools`")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    if options.repeat < 1:
        parser.error("--repeat takes a number from 1 on")
    _machine()
    if options.profile:
        throughput.profile()
        return
    show_head()
    for name in options.rows or ROWS:
        for line in ROWS[name](options):
            show(name, line)
    _machine()


def _machine() -> None:
    load = ", ".join(f"{part:.2f}" for part in os.getloadavg())
    print(f"Python {platform.python_version()}, {os.cpu_count()} processors; the machine's load: {load}", flush=True)


if __name__ == "__main__":
    main()
