"""The interface of a provider: create, query and list for one account.

A provider sends one request and raises what the answer means (see `errors`); it never retries and never waits.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from batchgen.catalog.accounts import SANDBOX_HEADER, Auth, Capability
from batchgen.errors import TaskNotFound
from batchgen.http.decompression import LARGEST_ANSWER
from batchgen.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from decimal import Decimal

    from batchgen.catalog.accounts import Account
    from batchgen.http.client import Answer, HttpClient
    from batchgen.jobs import ImageLink, Job


class TaskState(StrEnum):
    """How far a task is at the gateway."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"  # failed by policy: the same request will fail again
    GONE = "gone"  # ended, and its images, if any, are no longer there


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as the gateway describes it. `created_ms` is Unix time by the gateway's clock.

    `unknown_status` is the gateway's status where the provider does not know it.
    """

    id: str
    state: TaskState
    external_id: str | None = None
    links: tuple[ImageLink, ...] = ()
    cost: Decimal | None = None
    message: str = ""
    created_ms: int | None = None
    body_excerpt: str = ""
    unknown_status: str = ""
    rehearsal: bool = False  # the sandbox made it

    def may_be(self, external_id: str) -> bool:
        """Whether the task may be the one created with this id; some gateways put a prefix of their own before it."""
        return self.external_id is None or self.external_id.casefold().endswith(external_id.casefold())

    def noting(self, answer: Answer) -> Task:
        """The same task, marked as a rehearsal where the answer's headers say so."""
        return replace(self, rehearsal=True) if answer.headers.get(SANDBOX_HEADER) else self

    by_order: bool = False  # the gateway gives its images no numbers of their own: the links are numbered as they came

    def images(self, n: int, known: Sequence[ImageLink] = ()) -> tuple[ImageLink, ...]:
        """Its links, numbered from 0 as the images of a job that asked for `n`; `known` are those of earlier answers.

        A gateway may count from 0 or from 1, leave images out for a while, or change their order: what is at a known
        address keeps its number, and the others are numbered by the gateway's own index. Where it gives none, an
        answer that leaves images out does not show which they are.
        """
        by_path = {_path_of(link.url): link.index for link in known}
        numbers = {link.index: by_path.get(_path_of(link.url)) for link in self.links}
        if self.by_order:
            is_complete = not known or len(self.links) >= n
            free = iter(sorted(set(range(n)) - {number for number in numbers.values() if number is not None}))
            numbers = {
                index: number if number is not None or not is_complete else next(free, None)
                for index, number in numbers.items()
            }
        else:
            shifts = [index - number for index, number in numbers.items() if number is not None]
            shift = shifts[0] if shifts else _first_number(numbers, n)
            is_counted = any(0 <= index - shift < n for index in numbers)
            counted = {index: index - shift if is_counted else place for place, index in enumerate(sorted(numbers))}
            numbers = _with_free_numbers(numbers, counted, n, {link.index for link in known})
        return tuple(
            replace(link, index=number)
            for link in self.links
            if (number := numbers[link.index]) is not None and 0 <= number < n
        )


def _with_free_numbers(
    numbers: Mapping[int, int | None], counted: Mapping[int, int], n: int, known: Collection[int]
) -> dict[int, int | None]:
    """Known numbers stay, others are as `counted`; one that has no place so, takes a number that is free.

    An answer with one image of three does not show whether it is counted from 0 or from 1, and may have been misread.
    """
    found = {index: number for index, number in numbers.items() if number is not None}
    for index in sorted(numbers.keys() - found.keys()):
        if 0 <= counted[index] < n and counted[index] not in found.values():
            found[index] = counted[index]
    free = iter(sorted(set(range(n)) - set(found.values()) - set(known)))
    return {index: found[index] if index in found else next(free, None) for index in sorted(numbers)}


def _first_number(indices: Collection[int], n: int) -> int:
    """Whether a gateway counts from 0 or from 1, as far as one answer shows."""
    return int(0 not in indices and n in indices)


def _path_of(url: str) -> str:
    """A link without what changes when it is signed anew."""
    return url.partition("?")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of the account's tasks, newest first; an empty one is the end of the list."""

    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SentCreate:
    """A create as it was sent, for a question what became of it. `sent_at` is Unix ms; 0 and "" are not known."""

    external_id: str
    model: str = ""
    sent_at: int = 0


@dataclass(frozen=True, slots=True)
class Secrets:
    """Values of environment variables, redacted in every log, traceback and file."""

    values: Mapping[str, str] = field(repr=False)

    def __post_init__(self) -> None:
        """Redact the values from now on."""
        redact.add(self.values.values())

    def __getitem__(self, name: str) -> str:
        return self.values[name]


CLOCK_SKEW_MS = 10 * 60 * 1000  # at most so much do a gateway's clock and ours differ
SINCE_MS = 2 * CLOCK_SKEW_MS
UNUSED_ID = "batchgen-doctor-asks-for-nothing"  # no task has it: ours begin with `bg-`, the gateways' are numbers


class Provider(ABC):
    """The protocol of one account. What it can do depends on the account's profile.

    `callback_url` goes with a create where the account knows the field; empty where nobody listens.
    """

    callback_url: str = ""
    can_query: bool = True  # whether a task can be queried; if not, only the create's answer names its images
    looks_by_model: bool = False  # whether `find_sent` and `page_for` meet only tasks of the create's own model
    lists_since: bool = False  # whether `page_for` shows only tasks since `SINCE_MS` before the create was sent

    def __init__(self, account: Account, client: HttpClient, secrets: Secrets) -> None:
        self.account = account
        self.client = client
        self.secrets = secrets
        self.root_url = account.base_url

    @property
    def headers(self) -> dict[str, str]:
        """The account's headers of every request, besides its key."""
        variables = self.account.header_variables
        return {**self.account.headers, **{name: self.secrets[variable] for name, variable in variables.items()}}

    @property
    def bearer(self) -> str:
        """What follows `Bearer` in the header `Authorization`; empty for an account without a key."""
        return self.secrets[self.account.api_key_env] if self.account.auth is Auth.API_KEY else ""

    async def send(
        self,
        method: str,
        path: str,
        data: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = LARGEST_ANSWER,
    ) -> Answer:
        """One request to the account's gateway, with its key and, where there is `data`, with that as JSON.

        `max_bytes`: of the answer's body.
        Raises NotSent where it certainly did not arrive, Unclear where it may have.
        """
        sent = {**self.headers, **(headers or {})}
        body = None
        if data is not None:
            sent["Content-Type"] = "application/json"
            body = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
        if bearer := self.bearer:
            sent["Authorization"] = f"Bearer {bearer}"
        return await self.client.send(
            method,
            self.root_url + path,
            headers=sent,
            body=body,
            answer_timeout=self.account.request_timeout,
            max_bytes=max_bytes,
            new_connection=method != "GET" and not (self.can_find or self.can_list),  # it could not be recovered
        )

    @abstractmethod
    async def create(self, job: Job, external_id: str) -> Task:
        """Send one create. It may cost money as soon as this is called.

        Returns a succeeded task with links where the answer itself brings the images.

        Raises NotSent, Throttled, JobRejected, JobRefused, AttemptFailed and AccountStopped where certainly
        nothing was accepted (RefusedOrTaken where an earlier send may have been); Unclear where nobody can say.
        """

    @abstractmethod
    async def query(self, task_id: str) -> Task:
        """Query one task; free. Raises TaskNotFound, Throttled, NotSent, Unclear, AccountStopped."""

    async def find(self, external_id: str) -> Task:
        """Query a task by the caller's own id; free. Raises as `query`."""
        return await self.query(external_id)

    async def find_sent(self, sent: SentCreate) -> Task:
        """As `find`, for an API that has to be told more of a create than its id."""
        return await self.find(sent.external_id)

    async def page_for(self, _sent: SentCreate, number: int, size: int) -> Page:
        """As `page`, of the tasks among which this create has to be."""
        return await self.page(number, size)

    async def page(self, number: int, size: int) -> Page:
        """One page of the account's tasks, numbered from 1; free. Raises as `query`."""
        raise NotImplementedError(f"{type(self).__name__} lists no tasks ({number}, {size})")

    def expect(self, external_ids: Iterable[str]) -> None:  # noqa: B027 - most protocols need none
        """Take note of the ids that the reader of a list looks for, before it reads.

        For a protocol whose list names tasks by a mark that follows from the id: its pages then give the ids.
        """

    async def probe(self) -> str | None:
        """Send a free request that needs a valid key, for `doctor` and during an outage.

        Returns what it says of the account's balance, if it does.
        Raises as `query`; TaskNotFound is as good as an answer. A protocol that can neither list nor query sends
        another request (for its models, for instance), or raises NotImplementedError where there is none.
        """
        if self.can_list:
            with suppress(TaskNotFound):  # without a list, it may answer so before it checks the key
                await self.page(1, 1)
                return None
        await self.query(UNUSED_ID)
        return None

    def parse_callback(self, _body: Mapping[str, Any]) -> Task | None:
        """The task that a callback's body names, or None. Anybody may have sent it."""
        return None

    def sends_id(self, job: Job) -> bool:  # noqa: ARG002 - some protocols have no place for it in some jobs
        """Whether the job's create carries our own id: a create without it can never be found by it."""
        return self.can_find or self.can_list

    def further(self, job: Job) -> dict[str, Any]:
        """What the job asks for in parameters that only this account declares, by name."""
        return {name: given.value for name, given in job.parameters.further if name in self.account.parameters}

    @property
    def can_find(self) -> bool:
        """Whether `find` can be tried."""
        return self.account.lookup_by_external_id is not Capability.NO

    @property
    def can_list(self) -> bool:
        """Whether `page` can be tried."""
        return self.account.lists_tasks is not Capability.NO

    @property
    def can_poll_list(self) -> bool:
        """Whether `page` says of tasks what a query says, so that one list can replace many queries."""
        return self.can_list
