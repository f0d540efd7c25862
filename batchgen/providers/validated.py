"""Keeps what a provider was never to raise or to answer away from the engine: the defect becomes `Unclear`.

A provider may be anybody's package. Where it fails in its own way after a create has left, nobody can say whether
that cost money: the attempt is asked for, or held, as after a lost connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from batchgen.errors import AccountStopped, JobError, NotSent, Throttled, Unclear
from batchgen.providers.base import Page, Provider, Task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from batchgen.jobs import Job

_MEANT = (NotSent, Throttled, JobError, AccountStopped, Unclear)  # what a provider says of an answer
_LONGEST = 200  # characters of a foreign error

GatewayReport = TypeVar("GatewayReport")


class ValidatedProvider(Provider):
    """A provider as the engine sees it: it answers with tasks, or raises what `Provider` promises."""

    def __init__(self, inner: Provider) -> None:
        super().__init__(inner.account, inner.door, inner.secrets)
        self.callback_url = inner.callback_url
        self.can_query = inner.can_query
        self._inner = inner

    async def create(self, job: Job, external_id: str) -> Task:
        """As the provider's own. Raises Unclear for whatever else it raises or returns."""
        return self._whole(await self._meant(self._inner.create(job, external_id), "a create"), "a create")

    async def query(self, task_id: str) -> Task:
        """As `create`."""
        return self._whole(await self._meant(self._inner.query(task_id), "a query"), "a query")

    async def find(self, external_id: str) -> Task:
        """As `create`."""
        operation = "a query by our own id"
        return self._whole(await self._meant(self._inner.find(external_id), operation), operation)

    async def page(self, number: int, size: int) -> Page:
        """As `create`."""
        operation = "a list of tasks"
        page = await self._meant(self._inner.page(number, size), operation)
        if not isinstance(page, Page):
            raise self._defect(operation, f"gave no Page but {page!r}")
        for task in page.tasks:
            self._whole(task, operation)
        return page

    async def probe(self) -> None:
        """As the provider's own, which may have none (NotImplementedError)."""
        try:
            await self._inner.probe()
        except (*_MEANT, NotImplementedError):
            raise
        except Exception as error:
            raise self._defect("its probe", f"raised {type(error).__name__}: {error}") from error

    def parse_callback(self, call: Mapping[str, Any]) -> Task | None:
        """As the provider's own; what it cannot read tells of nothing."""
        try:
            return self._inner.parse_callback(call)
        except Exception:  # noqa: BLE001 - anybody may call
            return None

    @property
    def sends_id(self) -> bool:
        """As the provider's own."""
        return self._inner.sends_id

    @property
    def can_find(self) -> bool:
        """Whether `find` can be tried."""
        return self._inner.can_find

    @property
    def can_list(self) -> bool:
        """Whether `page` can be tried."""
        return self._inner.can_list

    async def _meant(self, answer: Awaitable[GatewayReport], operation: str) -> GatewayReport:
        try:
            return await answer
        except _MEANT:
            raise
        except Exception as error:
            raise self._defect(operation, f"raised {type(error).__name__}: {error}") from error

    def _whole(self, told: Any, operation: str) -> Task:  # noqa: ANN401 - whatever came
        """The task that was told of. Raises Unclear where it cannot be kept in a ledger or be asked for."""
        if not isinstance(told, Task):
            raise self._defect(operation, f"gave no Task but {told!r}")
        links: Any = told.links
        of_text = (told.id, *(getattr(link, "url", None) for link in (links if isinstance(links, tuple) else [None])))
        if not all(isinstance(text, str) and text for text in of_text):
            raise self._defect(operation, "gave a task whose id or links are no text")
        return told

    def _defect(self, operation: str, what: str) -> Unclear:
        name, protocol = type(self._inner).__name__, self.account.protocol
        return Unclear(
            f"A defect of the provider {protocol!r}, not of your input: {name} {what[:_LONGEST]} at {operation}."
        )
