"""Checks an account before anything is paid: key, host, access, abilities, clock. All of it is free.

What the gateway does is compared with the account's profile, because recovery believes the profile: an account that
claims to find tasks by our own ids, and does not, would be paid twice.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from batchgen.app.gateway import open_gateway
from batchgen.catalog.accounts import Auth, Capability
from batchgen.catalog.load import builtin
from batchgen.errors import (
    AccountStopped,
    BatchgenError,
    CommandError,
    JobError,
    NameNotFound,
    NoSuchPath,
    NotSent,
    ProxyFailed,
    RequestBlocked,
    TaskNotFound,
    TlsFailed,
    Unclear,
)
from batchgen.formatting import duration
from batchgen.http.proxies import is_loopback, proxy_of
from batchgen.providers.base import CLOCK_SKEW_MS, UNUSED_ID
from batchgen.providers.registry import provider_for

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from batchgen.catalog.accounts import Account
    from batchgen.http.client import Exchange, GetOnlyClient
    from batchgen.manifest.model import Manifest
    from batchgen.providers.base import Provider, Task

T = TypeVar("T")
TIMEOUT_SECONDS = 10.0  # for each question
_PAGE_SIZE = 30  # tasks of the list: enough to meet one with an id of its caller's
_PROXY_SECONDS = 60  # nginx's proxy_read_timeout, where nobody sets it
_OWN_SERVICE = "https://api.openai.com"
_NOTED_SKEW_SECONDS = 60.0  # nothing fails because of it


class Verdict(StrEnum):
    """The result of a check; a note is nothing wrong."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding: what was checked, the result, and what to do."""

    name: str
    verdict: Verdict
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """All findings about one account. `clock_skew` (our clock minus the gateway's) and `latency` are in seconds."""

    account: Account
    checks: tuple[Check, ...]
    clock_skew: float | None = None
    latency: float | None = None

    @property
    def ok(self) -> bool:
        return all(check.verdict is not Verdict.PROBLEM for check in self.checks)


def accounts_of(manifest: Manifest) -> list[Account]:
    """The accounts that a manifest uses or names itself, those in force first."""
    named = [account for name, account in manifest.accounts.items() if account is not builtin().accounts.get(name)]
    own = {account.name: account for account in manifest.pool.accounts}
    return [*own.values(), *(account for account in named if account.name not in own)]


async def examine(account: Account, *, timeout: float = TIMEOUT_SECONDS) -> Health:  # noqa: ASYNC109 - of each question
    """Check one account; `timeout` is in seconds, for each question. A problem is a finding, never an error."""
    from batchgen.http.client import GetOnlyClient  # noqa: PLC0415 - aiohttp takes 0.1 s to load

    try:
        async with open_gateway(account, None) as reached, GetOnlyClient(1) as client:
            return await _Examination(reached, client, timeout).run(account)
    except CommandError as error:  # the sandbox in this process could not be started
        return Health(account=account, checks=(Check(name="host", verdict=Verdict.PROBLEM, text=str(error)),))


class _Examination:
    def __init__(self, account: Account, client: GetOnlyClient, timeout: float) -> None:
        self._account = account
        self._client = client
        self._timeout = timeout
        self._checks: list[Check] = []
        self._provider: Provider | None = None
        self._ok = partial(self._add, Verdict.OK)
        self._note = partial(self._add, Verdict.NOTE)
        self._problem = partial(self._add, Verdict.PROBLEM)

    async def run(self, account: Account) -> Health:
        """Every check that can be made."""
        self._check_keys()
        if self._check_proxy() and await self._check_host():
            if self._provider is not None and await self._check_access(self._provider):
                self._check_request_timeout(self._provider)
                tasks = await self._check_list(self._provider)
                await self._check_find(self._provider, tasks)
            self._check_clock()
            self._check_latency()
        seconds = [each.seconds for each in self._client.exchanges]
        return Health(
            account=account,
            checks=tuple(self._checks),
            clock_skew=self._clock_skew(),
            latency=median(seconds) if seconds else None,
        )

    def _add(self, verdict: Verdict, name: str, text: str, advice: str = "") -> None:
        self._checks.append(Check(name=name, verdict=verdict, text=text, advice=advice))

    async def _ask(self, question: Awaitable[T]) -> T:
        """The answer. Raises Unclear where none comes in time."""
        try:
            async with asyncio.timeout(self._timeout):
                return await question
        except TimeoutError as error:
            raise Unclear(f"No answer came within {self._timeout:g} s.") from error

    # --- on this machine ----------------------------------------------------------------------------------

    def _check_keys(self) -> None:
        names = self._account.key_variables
        try:
            self._provider = provider_for(self._account, self._client)
        except CommandError as error:
            self._problem("key", str(error))
            return
        if not names:
            self._ok("key", "a command prints it" if self._account.auth is Auth.COMMAND else "none is needed")
            return
        for name in names:
            if problem := _problem_of_key(os.environ[name].strip()):
                self._problem("key", f"The key in {name} {problem}.", f"Set {name} to the key alone.")
                return
        self._ok("key", f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} set")

    def _check_proxy(self) -> bool:
        try:
            proxy = proxy_of(self._account.base_url)
        except CommandError as error:
            self._problem("proxy", str(error))
            return False
        self._ok("proxy", "none in use" if proxy is None else f"through {proxy.rpartition('@')[2]}")
        return True

    def _check_request_timeout(self, provider: Provider) -> None:
        """A proxy with a shorter time-out cuts off an answer that comes only when the images are made."""
        seconds = self._account.request_timeout
        if not provider.can_query and seconds > _PROXY_SECONDS and not self._account.base_url.startswith(_OWN_SERVICE):
            self._note(
                "time-out",
                f"an answer may take {seconds:g} s; a proxy in front of the server gives up sooner"
                f" (nginx: {_PROXY_SECONDS} s), and a task that it cuts off is paid for and marked `unknown`",
                f"In nginx, set proxy_read_timeout {seconds:g}s.",
            )

    # --- the host -----------------------------------------------------------------------------------------

    async def _check_host(self) -> bool:
        """Ask for the account's address without a key: any answer will do."""
        parts = urlsplit(self._account.base_url)
        try:
            await self._ask(self._client.send("GET", self._account.base_url, headers={}))
        except (NotSent, Unclear) as error:
            self._problem("host", str(error), _advice_on_host(error, parts.scheme))
            return False
        seconds = f"{self._client.exchanges[-1].seconds:.2f} s"
        if parts.scheme == "https":
            self._ok("host", f"{parts.netloc} answers over TLS, its certificate is valid ({seconds})")
        elif self._account.auth is Auth.NONE or is_loopback(parts.hostname or ""):
            self._ok("host", f"{parts.netloc} answers ({seconds})")
        else:
            advice = "Write https:// in base_url, if the gateway has it."
            self._note(
                "host", f"{parts.netloc} answers ({seconds}), but the key and the prompts are sent unencrypted", advice
            )
        return True

    # --- access -------------------------------------------------------------------------------------------

    async def _check_access(self, provider: Provider) -> bool:
        before = len(self._client.exchanges)
        not_there: TaskNotFound | NoSuchPath | None = None
        try:
            if balance := await self._ask(provider.probe()):
                self._ok("balance", f"{balance} {self._account.prices.unit}".rstrip())
        except NotImplementedError:
            self._note("auth", "this provider has no free question that shows whether the key is accepted")
            return True
        except RequestBlocked as error:
            self._note("auth", f"cannot be checked for free. {error}")
            return True
        except (TaskNotFound, NoSuchPath) as error:
            not_there = error
        except JobError as error:  # refused for what was asked, which is looked at after the key
            self._note("auth", f"the key seems to be accepted, but the question was refused: {error}")
            return True
        except BatchgenError as error:
            self._problem("auth", str(error), self._on_refusal(error))
            return False
        exchange = self._client.exchanges[-1] if len(self._client.exchanges) > before else None
        return await self._compare_without_key(exchange, not_there)

    async def _compare_without_key(
        self, exchange: Exchange | None, not_there: TaskNotFound | NoSuchPath | None
    ) -> bool:
        """Ask the same without a key: only a difference shows that the key was checked, or that the path is right."""
        keyless = None  # where there is nothing to compare
        if exchange is not None and self._account.auth is not Auth.NONE:
            with suppress(NotSent, Unclear):
                keyless = (await self._ask(self._client.send("GET", exchange.url, headers={}))).status
        unnamed = exchange is not None and not_there is not None and not_there.code in {"", str(exchange.answer.status)}
        if unnamed and keyless in {None, 404, 405}:
            advice = _advice_on_path(self._account)
            self._problem("auth", f"There seems to be no such API at {self._account.base_url}: {not_there}", advice)
            return False
        what = "the token made from the two keys" if self._account.auth is Auth.JWT else "the key"
        if self._account.auth is Auth.NONE:
            self._ok("auth", "none is needed, and questions are answered")
        elif exchange is not None and keyless == exchange.answer.status:
            self._note("auth", "questions are answered without a key too: only a create shows whether the key is right")
        else:
            self._ok("auth", f"{what} is accepted")
        return True

    def _on_refusal(self, error: BatchgenError) -> str:
        if isinstance(error, AccountStopped):
            return ""  # the error itself says what to do
        status = self._client.exchanges[-1].answer.status
        if isinstance(error, Unclear) and status < 400:
            return "The answer does not come from the API: check base_url."
        return "Try again later; if it persists, ask the gateway's operator."

    # --- what it can do, against its profile --------------------------------------------------------------

    async def _check_list(self, provider: Provider) -> tuple[Task, ...]:
        """A page of the account's tasks, if it has a list."""
        claim = self._account.lists_tasks
        try:
            tasks = (await self._ask(provider.page(1, _PAGE_SIZE))).tasks
        except (TaskNotFound, NoSuchPath, NotImplementedError):
            if claim is Capability.YES:
                self._problem("list", "it has no list of tasks, although its profile says so", self._set("lists_tasks"))
            else:
                self._ok("list", "it lists no tasks")
            return ()
        except BatchgenError as error:
            if claim is Capability.NO:
                self._ok("list", "it lists no tasks, as its profile says")
            else:
                self._problem("list", f"its list cannot be read: {error}", self._set("lists_tasks"))
            return ()
        if claim is Capability.NO and tasks:
            self._note("list", "it lists tasks, although its profile says no", self._set("lists_tasks", Capability.TRY))
        elif tasks and "external_task_id" in self._account.fields and not any(task.external_id for task in tasks):
            self._note(
                "list", "it lists tasks without the ids that they were sent with: a lost task cannot be found there"
            )
        else:
            self._ok(
                "list",
                "it lists tasks" if claim is not Capability.NO else "it has no list that is used, as its profile says",
            )
        return tasks

    async def _check_find(self, provider: Provider, tasks: tuple[Task, ...]) -> None:
        """Whether a task is found by the id that we gave it, and nothing by an id that nobody gave."""
        if not provider.can_find and provider.can_list and self._account.definition:
            self._ok("find", "a job whose answer was lost is looked for in its list")
            return
        if not provider.can_find:
            self._note(
                "find", "a task cannot be found by batchgen's own id: a job whose answer was lost is marked `unknown`"
            )
            return
        never = self._set("lookup_by_external_id")
        try:
            found = await self._ask(provider.find(UNUSED_ID))
        except TaskNotFound:
            await self._check_find_known(provider, next((task for task in tasks if task.external_id), None))
        except RequestBlocked:
            self._note("find", "a task is looked for with a POST request, which is not tried here")
        except NotImplementedError:
            self._problem("find", "this provider cannot find by batchgen's own id, although its profile says so", never)
        except BatchgenError as error:
            self._problem("find", f'an id that no task has is not answered with "not found": {error}', never)
        else:
            self._problem("find", f"it returns task {found.id} for an id that no task has", never)

    async def _check_find_known(self, provider: Provider, known: Task | None) -> None:
        if known is None or known.external_id is None:
            what = "an id that no task has is not found, as it should be; a known id can be tried once there is a task"
            self._ok("find", what)
            return
        try:
            found = await self._ask(provider.find(known.external_id))
        except TaskNotFound:
            found = None
        except BatchgenError as error:
            self._problem("find", f"a task of its list cannot be found by its own id: {error}")
            return
        if found is not None and found.id == known.id:
            self._ok("find", "a task of its list is found by the id that it was sent with")
        elif found is None and self._account.lookup_by_external_id is Capability.TRY:
            self._note("find", "it does not find by batchgen's own id; its list is used instead")
        else:
            what = "a task of its list is not found by the id that it was sent with: a lost answer might be paid twice"
            self._problem("find", what, self._set("lookup_by_external_id"))

    def _set(self, key: str, value: Capability = Capability.NO) -> str:
        return f'Set `{key}: "{value.value}"` under providers.{self._account.name}.'

    # --- time ---------------------------------------------------------------------------------------------

    def _clock_skew(self) -> float | None:
        """From the quickest answer that has a date."""
        dated = [each for each in self._client.exchanges if each.clock_skew is not None]
        return min(dated, key=lambda each: each.seconds).clock_skew if dated else None

    def _check_clock(self) -> None:
        skew = self._clock_skew()
        if skew is None:
            self._note("clock", "the gateway's answers have no date")
            return
        text = f"this machine's clock is {duration(abs(skew))} {'ahead of' if skew > 0 else 'behind'} the gateway's"
        if abs(skew) < 2:
            self._ok("clock", "this machine's and the gateway's agree")
        elif abs(skew) >= CLOCK_SKEW_MS / 1000:
            breaks = "recovery would search for tasks at the wrong time"
            self._problem("clock", f"{text}: {breaks}", "Set it, preferably from the network (NTP).")
        elif abs(skew) > _NOTED_SKEW_SECONDS:
            self._note("clock", text, "Set it, preferably from the network (NTP).")
        else:
            self._ok("clock", text)

    def _check_latency(self) -> None:
        seconds = [each.seconds for each in self._client.exchanges]
        words = f"{median(seconds):.2f} s a query ({len(seconds)} queries, {min(seconds):.2f} to {max(seconds):.2f} s)"
        headers = self._client.exchanges[-1].answer.headers
        limits = [f"{name}: {value}" for name, value in headers.items() if "ratelimit" in name.lower().replace("-", "")]
        self._ok("latency", "; ".join([words, *limits]))


def _problem_of_key(value: str) -> str:
    """Why a value of the environment is no key, such as a slip of pasting. Empty where it may be one."""
    if value[:1] in {'"', "'"} or value[-1:] in {'"', "'"}:
        return "is in quotation marks"
    if value.lower().startswith("bearer "):
        return "begins with the word Bearer, which batchgen adds by itself"
    return "contains a space" if " " in value else ""


def _advice_on_host(error: BatchgenError, scheme: str) -> str:
    if isinstance(error, NameNotFound):
        return "Check the name in base_url, and this machine's network."
    if isinstance(error, TlsFailed):
        return "If it has no TLS, write http:// in base_url; if its certificate is a company's own, set SSL_CERT_FILE."
    if isinstance(error, ProxyFailed):
        return "Check the proxy's variable, or name the host in no_proxy."
    if isinstance(error, NotSent):
        return "Check host and port of base_url, and whether a firewall or a proxy blocks the way."
    other = "https" if scheme == "http" else "http"
    return f"Check base_url (does the port speak {other}?), and whether a firewall or a proxy blocks the way."


def _advice_on_path(account: Account) -> str:
    """What to do where the API is not at the account's address."""
    known = [
        each.base_url for each in builtin().accounts.values() if each.protocol == account.protocol and each.base_url
    ]
    there = f"; built-in accounts of its protocol have {' and '.join(known)}" if known else ""
    return f"Check base_url{there}."
