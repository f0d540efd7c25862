"""Runs a process and measures it: wall-clock and CPU seconds, peak memory, exit code."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process used, with the children that it waited for. Times are Unix seconds."""

    started: float
    ended: float
    cpu: float  # seconds, user and system
    peak_mb: float
    exit_code: int
    log: Path  # what it printed on stdout and stderr
    printed: str

    @property
    def seconds(self) -> float:
        """From start to end."""
        return self.ended - self.started


@dataclass(slots=True, kw_only=True)
class Running:
    """A running process."""

    process: subprocess.Popen[bytes]
    log: Path
    started: float

    def wait(self) -> Usage:
        """Wait until it ends; what it used."""
        _, status, used = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return Usage(
            started=self.started,
            ended=time.time(),
            cpu=used.ru_utime + used.ru_stime,
            peak_mb=used.ru_maxrss / 1024,
            exit_code=self.process.returncode,
            log=self.log,
            printed=self.log.read_text(encoding="utf-8", errors="replace"),
        )


def start(command: Sequence[str | Path], folder: Path, env: Mapping[str, str] | None = None) -> Running:
    """Start a command in a folder; its output goes into a file there, so that no pipe blocks it."""
    log = folder / f"printed-{time.time_ns()}.txt"
    with log.open("wb") as file:
        started = time.time()
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=folder,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    return Running(process=process, log=log, started=started)


def cpu_of(pid: int) -> float:
    """CPU seconds that a running process has used."""
    return _ticks(Path(f"/proc/{pid}/stat")) / _TICKS


def _ticks(stat: Path) -> int:
    fields = stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@dataclass(slots=True)
class Threads:
    """Samples the CPU seconds of each thread of a process until it ends. Linux only."""

    pid: int
    used: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # by thread id, seconds

    def follow(self) -> None:
        """Start sampling in a thread."""
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while True:
            try:
                for thread in Path(f"/proc/{self.pid}/task").iterdir():
                    self.used[thread.name] = _ticks(thread / "stat") / _TICKS
            except (OSError, IndexError):
                return
            time.sleep(0.05)

    @property
    def main(self) -> float:
        """Seconds of the thread in which the event loop runs."""
        return self.used.get(str(self.pid), 0.0)

    @property
    def others(self) -> float:
        """Seconds of all other threads: the ledger's writer, the files' threads."""
        return sum(self.used.values()) - self.main
