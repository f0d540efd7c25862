"""`batchgen` under cProfile, with the threads of files and ledger: python profiled_run.py FIGURES run MANIFEST …

Writes FIGURES.loop (the main thread) and FIGURES.threads (all others) for `pstats`. Since Python 3.12 only one
profiler can be active in a process, so the threads are skipped there.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
import threading

from batchgen.cli.main import main


def run() -> int:
    """Run the command and write the figures; its exit code."""
    figures = sys.argv[1]
    own = cProfile.Profile()
    others: list[cProfile.Profile] = []

    def begin(*_event: object) -> None:
        """At the first event of a new thread: profile it."""
        profile = cProfile.Profile()
        others.append(profile)
        profile.enable()

    if sys.version_info < (3, 12):
        threading.setprofile(begin)
    try:
        return own.runcall(main, sys.argv[2:])
    finally:
        threading.setprofile(None)
        own.dump_stats(f"{figures}.loop")
        merged = pstats.Stats()
        for profile in others:
            profile.create_stats()
            if profile.stats:
                merged.add(profile)
        merged.dump_stats(f"{figures}.threads")


if __name__ == "__main__":
    sys.exit(run())
