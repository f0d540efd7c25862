"""Images that workers download: their files are taken over, and what the workers could not do is said once."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from batchgen.jobs import ReceivedImage
from batchgen.workers.crews import open_crew
from batchgen.workers.dispatcher import open_dispatcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from batchgen.catalog.accounts import Account
    from batchgen.http.downloads import Reach
    from batchgen.jobs import ImageKey
    from batchgen.storage.tree import Tree
    from batchgen.workers.dispatcher import Dispatcher


class Elsewhere:
    """The workers of one run, and the output's scratch folder that they write to."""

    def __init__(self, dispatcher: Dispatcher, tree: Tree, notify: Callable[[str], None]) -> None:
        self._dispatcher = dispatcher
        self._tree = tree
        self._notify = notify
        self._reported: set[str] = set()  # kinds of failures

    async def fetch(self, key: ImageKey, url: str, reach: Reach, idle_timeout: float) -> ReceivedImage | None:
        """The image, whole in the scratch folder; None where a worker did not bring it, which proves nothing.

        Raises ImageBroken where workers died of it.
        """
        name, answer = await self._dispatcher.fetch(key, url, reach, idle_timeout)
        if not isinstance(answer, ReceivedImage):
            self._report(answer.kind, answer.message)
        elif self._tree.take(name, key, answer.bytes):
            return answer
        else:
            self._report("NoFile", "The file that it reported is not in the scratch folder.")
        return None

    def _report(self, kind: str, message: str) -> None:
        """Once for each kind: a worker's network may block every link."""
        if kind not in self._reported:
            self._reported.add(kind)
            self._notify(
                f"A worker could not download an image, so this process does; more of the kind are not reported."
                f" {message}"
            )


@asynccontextmanager
async def open_elsewhere(
    workers: str | int, accounts: Iterable[Account], tree: Tree, *, batch: int, notify: Callable[[str], None]
) -> AsyncIterator[Elsewhere | None]:
    """The workers that were asked for, without the accounts' keys; None where this process downloads itself.

    Raises CommandError where they cannot be used.
    """
    variables = {variable for account in accounts for variable in account.secret_variables}
    crew = open_crew(workers, secret_variables=variables)
    if crew is None:
        yield None
        return
    async with open_dispatcher(crew, tree.scratch, batch=batch) as dispatcher:
        yield Elsewhere(dispatcher, tree, notify)
