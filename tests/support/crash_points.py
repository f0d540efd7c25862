"""Runs batchgen and ends it with SIGKILL at one of its steps: `python crash_points.py COMMAND…`.

A step is whatever leaves a trace outside the process, found where Python hands it to the system: a change of a
file or folder (seen by an audit hook), a sync, an SQL statement that writes (before it, and for a commit also
after), bytes sent to a gateway (before and after) or received from it (before they are read by anyone).
No list of places in batchgen is kept here, so that a new step is a new point by itself.

`CRASH_AT=k` kills at the k-th step; `CRASH_LOG=FILE` notes every step as a line, so that a clean run tells
how many there are.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import sys
import threading
from pathlib import Path

_FILE_EVENTS = frozenset(
    {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink", "os.utime", "os.chmod"}
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_READING_SQL = ("SELECT", "PRAGMA", "ATTACH")


class Steps:
    """Counts steps and dies at the one that is asked for."""

    def __init__(self, last: int, log: str | None) -> None:
        self._last = last
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if log else None
        self._lock = threading.Lock()
        self.count = 0
        self.watching = False

    def step(self, what: str) -> None:
        if not self.watching:
            return
        with self._lock:
            self.count += 1
            if self._log is not None:
                os.write(self._log, f"{what}\n".encode())
            if self.count == self._last:
                os.kill(os.getpid(), signal.SIGKILL)


def watch_files(steps: Steps) -> None:
    def hook(event: str, words: tuple[object, ...]) -> None:
        if event in _FILE_EVENTS:
            steps.step(f"{event} {_name(words[0])}")
        elif event == "open" and isinstance(words[2], int) and words[2] & _WRITING and not isinstance(words[0], int):
            steps.step(f"open for writing {_name(words[0])}")

    sys.addaudithook(hook)
    for name in ("fsync", "fdatasync", "pwrite", "ftruncate"):
        setattr(os, name, _before(steps, name, getattr(os, name)))


def _name(path: object) -> str:
    return f"descriptor {path}" if isinstance(path, int) else Path(os.fsdecode(path)).name


def _before(steps, name, function):
    def counted(*words, **options):
        steps.step(name)
        return function(*words, **options)

    return counted


def watch_ledger(steps: Steps) -> None:
    connect = sqlite3.connect

    def watched(*words, factory=sqlite3.Connection, **options):
        return connect(*words, **options, factory=_watched(steps, factory))

    sqlite3.connect = watched


def _watched(steps: Steps, factory: type[sqlite3.Connection]) -> type[sqlite3.Connection]:
    class Watched(factory):
        def execute(self, sql, *words):
            self._note(sql)
            cursor = super().execute(sql, *words)
            if sql == "COMMIT":
                steps.step("after COMMIT")
            return cursor

        def executemany(self, sql, *words):
            self._note(sql)
            return super().executemany(sql, *words)

        def executescript(self, sql):
            steps.step("a script")
            return super().executescript(sql)

        def close(self):
            steps.step("close the ledger")
            super().close()

        def _note(self, sql):
            if not sql.startswith(_READING_SQL) or "journal_mode" in sql:
                steps.step(" ".join(sql.split()[:3]))

    return Watched


def watch_network(steps: Steps) -> None:
    def is_network(end) -> bool:
        return end.family in {socket.AF_INET, socket.AF_INET6}

    def sending(function):
        def counted(self, data, *words):
            if is_network(self):
                steps.step("send")
            sent = function(self, data, *words)
            if is_network(self):
                steps.step("after send")
            return sent

        return counted

    def receiving(function):
        def counted(self, *words):
            got = function(self, *words)
            if is_network(self) and got:
                steps.step("received")
            return got

        return counted

    for name in ("send", "sendall", "sendmsg"):
        setattr(socket.socket, name, sending(getattr(socket.socket, name)))
    for name in ("recv", "recv_into"):
        setattr(socket.socket, name, receiving(getattr(socket.socket, name)))


def main() -> None:
    steps = Steps(int(os.environ.get("CRASH_AT", "0")), os.environ.get("CRASH_LOG"))
    watch_files(steps)
    watch_ledger(steps)
    watch_network(steps)
    from batchgen.cli.main import main as command

    steps.watching = True
    code = command(sys.argv[1:])
    steps.watching = False
    sys.exit(code)


if __name__ == "__main__":
    sys.dont_write_bytecode = True  # a cache of Python's is no step of ours
    main()
