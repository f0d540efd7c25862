"""Crews: who carries out what workers do. Processes of this machine, or what another package offers."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol, TypeVar

from batchgen.errors import CommandError
from batchgen.workers.processes import ProcessCrew

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from concurrent.futures import Future

GROUP = "batchgen.crews"
THREADS = "threads"
_MOST_PROCESSES = 256
T = TypeVar("T")


class Crew(Protocol):
    """Workers that carry out functions of batchgen's, as a standard executor does.

    A future raises `concurrent.futures.BrokenExecutor` where its worker died, and anything else where it was lost.
    """

    slots: int  # calls that may be out at a time; few, because links expire while they wait
    here: bool  # whether its workers are on this machine, and private addresses mean the same to them

    def submit(self, work: Callable[..., T], /, *arguments: object) -> Future[T]:
        """Have a worker call a function; both go by pickle."""

    def renew(self) -> None:
        """Get rid of every worker and what it does, after a death or a hang; the next call finds new ones."""

    def close(self) -> None:
        """End all workers; nothing that they still do is needed."""


def open_crew(workers: str | int, *, secret_variables: Collection[str]) -> Crew | None:
    """The crew that an option names: a number of processes, or an address of a kind that a package offers.

    None for `threads`, those of this process. Raises CommandError where there is no such crew.
    """
    text = str(workers).strip()
    if text == THREADS:
        return None
    if text.isascii() and text.isdigit():
        if 1 <= int(text) <= _MOST_PROCESSES:
            return ProcessCrew(int(text), secret_variables)
        raise CommandError(f"Workers must be from 1 to {_MOST_PROCESSES} processes, not {text}.")
    kind = text.partition(":")[0]
    found = list(entry_points(group=GROUP, name=kind))
    if not found:
        known = ", ".join(sorted({each.name for each in entry_points(group=GROUP)}))
        raise CommandError(
            f"There are no workers of the kind {kind!r}. Give a number of processes, or {THREADS}"
            f"{f', or an address of: {known}' if known else ''}."
        )
    try:
        crew: Crew = found[0].load()(text)
    except CommandError:
        raise
    except Exception as error:
        raise CommandError(f"The workers {text} cannot be used: {type(error).__name__}: {error}") from error
    return crew
