"""The system calls of a command in the order in which they took effect, as `strace` tells them."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

WATCHED = "write,writev,pwrite64,fsync,fdatasync,sendto,sendmsg,mkdir,mkdirat,rename,renameat,renameat2"
_LONGEST = 20_000  # characters of an argument: a page of SQLite, every byte escaped
_LINE = re.compile(r"^(?P<pid>\d+) +(?P<call>.*)$", re.DOTALL)
_RESUMED = re.compile(r"^<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)$", re.DOTALL)
_UNFINISHED = " <unfinished ...>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that has returned; `begun` and `ended` number the trace's lines."""

    name: str
    text: str  # its arguments and result
    begun: int
    ended: int

    @property
    def path(self) -> str:
        """Of the descriptor that is its first argument, or its first path."""
        found = re.match(r"\d+<([^>]*)>", self.text) or re.match(r'(?:AT_FDCWD<[^>]*>, )?"([^"]*)"', self.text)
        return found[1] if found else ""


def can_be_traced() -> bool:
    """Whether `strace` is here and may look into a process (a container can forbid it)."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


def traced(
    command: Sequence[object], trace: Path, *, cwd: Path, env: Mapping[str, str]
) -> tuple[subprocess.CompletedProcess[str], list[Call]]:
    """Run a command to its end, and read what it asked of the system."""
    strace = ["strace", "-f", "-y", "-s", str(_LONGEST), "-e", f"trace={WATCHED}", "-o", str(trace)]
    done = subprocess.run(
        [*strace, *map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    return done, list(read(trace.read_text(encoding="latin-1").splitlines()))


def read(lines: Iterable[str]) -> Iterable[Call]:
    """Calls in the order of their ends; those that another thread interrupted are put together."""
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        found = _LINE.match(line)
        if found is None:
            continue
        pid, text = found["pid"], found["call"]
        start = number
        if text.endswith(_UNFINISHED):
            begun[pid] = (number, text.removesuffix(_UNFINISHED))
            continue
        if resumed := _RESUMED.match(text):
            start, head = begun.pop(pid)
            text = head + resumed["rest"]
        name, opened, rest = text.partition("(")
        if opened and name.isidentifier():
            yield Call(name=name, text=rest, begun=start, ended=number)
