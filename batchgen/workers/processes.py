"""Worker processes of this machine, which end with this process however it ends, and never have a key."""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

_WARNINGS = "PYTHONWARNINGS"
_NO_LEAKS = "ignore::UserWarning:multiprocessing.resource_tracker"  # else it prints what a killed run left, and removed
T = TypeVar("T")


class ProcessCrew:
    """So many processes, each started when there is work for it. They are spawned.

    Forked ones would hold the lock of the output after this process has ended.
    """

    here = True

    def __init__(self, number: int, secret_variables: Collection[str]) -> None:
        self.slots = 2 * number  # one is carried out while the next one waits
        self._number = number
        self._secret_variables = frozenset(secret_variables)
        self._start()

    def submit(self, work: Callable[..., T], /, *arguments: object) -> Future[T]:
        return self._pool.submit(work, *arguments)

    def renew(self) -> None:
        self._end(wait=False)
        self._start()

    def close(self) -> None:
        self._end(wait=True)

    def _start(self) -> None:
        self._context = _Context(self._secret_variables)
        with _bare(self._secret_variables):  # it starts a process of its own, which tracks semaphores
            self._pool = ProcessPoolExecutor(self._number, mp_context=self._context, initializer=_end_with_parent)

    def _end(self, *, wait: bool) -> None:
        """Kill them: one that is stopped, or in a long call, would take no other notice."""
        for process in self._context.started:
            process.kill()
        self._pool.shutdown(wait=wait, cancel_futures=True)


class _Context(SpawnContext):
    """Starts processes without the keys, and remembers them: the executor shows them to nobody."""

    def __init__(self, secret_variables: frozenset[str]) -> None:
        super().__init__()
        self.started: list[SpawnProcess] = []
        self._secret_variables = secret_variables

    def Process(self, *, target: Callable[..., object], args: tuple[object, ...]) -> SpawnProcess:  # type: ignore[override]  # noqa: N802 - a class there
        process = _Process(target=target, args=args)
        process.secret_variables = self._secret_variables
        self.started.append(process)
        return process


class _Process(SpawnProcess):
    secret_variables: frozenset[str] = frozenset()

    def start(self) -> None:
        with _bare(self.secret_variables):
            super().start()


@contextmanager
def _bare(secret_variables: frozenset[str]) -> Iterator[None]:
    """What is started here gets an environment without keys, and does not import the caller's script.

    A key that a process removes from its own environment is still in its /proc/PID/environ.
    """
    main = sys.modules["__main__"]
    before = {name: os.environ.pop(name) for name in {*secret_variables, _WARNINGS} if name in os.environ}
    os.environ[_WARNINGS] = ",".join(filter(None, [before.get(_WARNINGS), _NO_LEAKS]))
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        del os.environ[_WARNINGS]
        os.environ.update(before)


def _end_with_parent() -> None:
    """Let this process end when its parent does, and not by signals to the whole group: the parent decides."""
    threading.Thread(target=_await_parent, name="parent", daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _await_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
    os._exit(1)
