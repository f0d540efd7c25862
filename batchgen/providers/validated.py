"""Checks what a provider answers and raises: a defect of its code becomes `Unclear`.

A provider may be anybody's package. Where it fails in its own way after a create has left, nobody can say whether
that cost money: the attempt is looked for, or marked unknown, as after a lost connection.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchgen.errors import AccountStopped, JobError, NotSent, Throttled, Unclear
from batchgen.providers.base import Page, Provider, Task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

    from batchgen.jobs import Job
    from batchgen.providers.base import SentCreate

_LONGEST = 200  # characters of a foreign error


class ValidatedProvider(Provider):
    """A provider as the engine sees it: it answers with tasks, or raises what `Provider` promises."""

    def __init__(self, inner: Provider) -> None:
        super().__init__(inner.account, inner.client, inner.secrets)
        self.callback_url = inner.callback_url
        self.can_query = inner.can_query
        self.looks_by_model, self.lists_since = inner.looks_by_model, inner.lists_since
        self._inner = inner

    async def create(self, job: Job, external_id: str) -> Task:
        """As the provider's own. Raises Unclear for whatever else it raises or returns, as all others here."""
        if self.account.model_names:  # its id stays that of the manifest's model
            own = replace(job.parameters, model=self.account.own_model(job.parameters.model))
            job = replace(job, parameters=own)
        return await self._task("a create", self._inner.create, job, external_id)

    async def query(self, task_id: str, external_id: str = "") -> Task:
        """Raises Unclear also where the answer names another external id, so is that of another task."""
        task = await self._task("a query", self._inner.query, task_id)
        if not task.may_be(external_id):
            raise Unclear(f"The gateway answered a query for the task {task_id} with another task.")
        return task

    async def find(self, external_id: str) -> Task:
        return await self._task("a query by our own id", self._inner.find, external_id)

    async def find_sent(self, sent: SentCreate) -> Task:
        return await self._task("a query by our own id", self._inner.find_sent, sent)

    async def page(self, number: int, size: int) -> Page:
        return await self._page(self._inner.page, number, size)

    async def page_for(self, sent: SentCreate, number: int, size: int) -> Page:
        return await self._page(self._inner.page_for, sent, number, size)

    async def _page(self, ask: Callable[..., Awaitable[object]], *asked: object) -> Page:
        with self._translated(operation := "a list of tasks"):
            page = await ask(*asked)
            if not isinstance(page, Page):
                raise self._defect(operation, f"returned no Page but {page!r}")
            for task in page.tasks:
                self._checked(task, operation)
            return page

    def expect(self, external_ids: Iterable[str]) -> None:
        self._inner.expect(external_ids)

    async def probe(self) -> str | None:
        """As the provider's own, which may have none (NotImplementedError)."""
        with self._translated("its probe"):
            balance = await self._inner.probe()
        return balance if isinstance(balance, str) else None

    def parse_callback(self, call: Mapping[str, Any]) -> Task | None:
        """As the provider's own; None for what it cannot read, since anybody may call."""
        with suppress(Exception):
            return self._inner.parse_callback(call)
        return None

    def sends_id(self, job: Job) -> bool:
        return self._inner.sends_id(job)

    @property
    def can_find(self) -> bool:
        return self._inner.can_find

    @property
    def can_list(self) -> bool:
        return self._inner.can_list

    @property
    def can_poll_list(self) -> bool:
        return self._inner.can_poll_list

    async def _task(self, operation: str, ask: Callable[..., Awaitable[object]], *asked: object) -> Task:
        with self._translated(operation):
            return self._checked(await ask(*asked), operation)

    @contextmanager
    def _translated(self, operation: str) -> Iterator[None]:
        try:
            yield
        except (NotSent, Throttled, JobError, AccountStopped, Unclear):
            raise
        except NotImplementedError:
            if operation == "its probe":
                raise
            raise self._defect(operation, "does not implement it") from None
        except Exception as error:
            raise self._defect(operation, f"raised {type(error).__name__}: {error}") from error

    def _checked(self, task: Any, operation: str) -> Task:  # noqa: ANN401 - whatever came
        """The task. Raises Unclear where it cannot be kept in a ledger or be queried."""
        if not isinstance(task, Task):
            raise self._defect(operation, f"returned no Task but {task!r}")
        links: Any = task.links
        texts = (task.id, *(getattr(link, "url", None) for link in (links if isinstance(links, tuple) else [None])))
        if not all(isinstance(text, str) and text for text in texts):
            raise self._defect(operation, "returned a task whose id or links are no text")
        return task

    def _defect(self, operation: str, what: str) -> Unclear:
        name, protocol = type(self._inner).__name__, self.account.protocol
        return Unclear(
            f"A defect of the provider {protocol!r}, not of your input: {name} {what[:_LONGEST]} at {operation}."
        )
