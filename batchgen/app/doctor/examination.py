"""What can be known of an account before anything is paid: key, host, access, abilities, clock; all of it free.

What the gateway does is held to the account's profile, for recovery believes the profile (see `engine.recover`):
an account that says it finds tasks by our own ids, and does not, would be paid twice.
"""

from __future__ import annotations

import asyncio
import os
from statistics import median
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from batchgen.app.doctor.advice import fault_of_key, on_path, on_reaching, without_password
from batchgen.app.doctor.health import PATIENCE_SECONDS, Check, Health, Verdict
from batchgen.catalog.catalog import Auth, Capability
from batchgen.durations import duration
from batchgen.errors import (
    AccountStopped,
    BatchgenError,
    CommandError,
    JobError,
    NoSuchPath,
    NotSent,
    RequestBlocked,
    TaskNotFound,
    Unclear,
)
from batchgen.http.proxies import is_loopback, proxy_of
from batchgen.providers.base import CLOCK_SKEW_MS, UNUSED_ID
from batchgen.providers.registry import provider_for

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from batchgen.catalog.catalog import Account
    from batchgen.http.client import Exchange, GetOnlyClient
    from batchgen.providers.base import Provider, Task

T = TypeVar("T")
_LOOKED_AT = 30  # tasks of the list: enough to meet one with an id of its caller's
_SKEW_SECONDS = CLOCK_SKEW_MS / 1000
_PROXY_SECONDS = 60  # nginx's proxy_read_timeout, where nobody sets it
_OWN_SERVICE = "https://api.openai.com"
_WORTH_A_WORD_SECONDS = 60.0  # of skew that nothing fails of


class Examination:
    """One account, looked at once. `patience` is in seconds, for each question."""

    def __init__(self, account: Account, client: GetOnlyClient, *, patience: float = PATIENCE_SECONDS) -> None:
        self._account = account
        self._client = client
        self._patience = patience
        self._checks: list[Check] = []
        self._provider: Provider | None = None

    async def run(self) -> Health:
        """Every check that can be made; what an account does wrong is a finding, never an error."""
        self._look_for_keys()
        if self._look_for_a_proxy() and await self._reach_host():
            if self._provider is not None and await self._be_let_in(self._provider):
                self._look_at_patience(self._provider)
                tasks = await self._list(self._provider)
                await self._find(self._provider, tasks)
            self._compare_clocks()
            self._measure()
        heard = [each.seconds for each in self._client.exchanges]
        return Health(
            account=self._account,
            checks=tuple(self._checks),
            ahead=self._ahead(),
            latency=median(heard) if heard else None,
        )

    def _say(self, name: str, verdict: Verdict, text: str, advice: str = "") -> None:
        self._checks.append(Check(name=name, verdict=verdict, text=text, advice=advice))

    def _ok(self, name: str, text: str) -> None:
        self._say(name, Verdict.OK, text)

    def _note(self, name: str, text: str, advice: str = "") -> None:
        self._say(name, Verdict.NOTE, text, advice)

    def _problem(self, name: str, text: str, advice: str = "") -> None:
        self._say(name, Verdict.PROBLEM, text, advice)

    async def _ask(self, question: Awaitable[T]) -> T:
        """The answer. Raises Unclear where patience ends before it comes."""
        try:
            async with asyncio.timeout(self._patience):
                return await question
        except TimeoutError as error:
            raise Unclear(f"No answer came within {self._patience:g} s.") from error

    # --- on this machine ----------------------------------------------------------------------------------

    def _look_for_keys(self) -> None:
        names = self._account.key_variables
        try:
            self._provider = provider_for(self._account, self._client)
        except CommandError as error:
            self._problem("key", str(error))
            return
        if not names:
            self._ok("key", "none is needed")
            return
        for name in names:
            if fault := fault_of_key(os.environ[name].strip()):
                self._problem("key", f"The key in {name} {fault}.", f"Set {name} to the key alone.")
                return
        self._ok("key", f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} set")

    def _look_for_a_proxy(self) -> bool:
        try:
            proxy = proxy_of(self._account.base_url)
        except CommandError as error:
            self._problem("proxy", str(error))
            return False
        self._ok("proxy", "none in force" if proxy is None else f"by way of {without_password(proxy)}")
        return True

    def _look_at_patience(self, provider: Provider) -> None:
        """An answer that is as late as the images are made is cut off by a proxy that has less patience."""
        seconds = self._account.request_timeout
        if not provider.can_query and seconds > _PROXY_SECONDS and not self._account.base_url.startswith(_OWN_SERVICE):
            self._note(
                "time-out",
                f"an answer may take {seconds:g} s; a proxy before the server gives up sooner"
                f" (nginx: {_PROXY_SECONDS} s), and what it cuts off is paid for and held as unknown",
                f"In nginx, set proxy_read_timeout {seconds:g}s.",
            )

    # --- the host -----------------------------------------------------------------------------------------

    async def _reach_host(self) -> bool:
        """Ask for the account's address without a key: any answer will do."""
        parts = urlsplit(self._account.base_url)
        try:
            await self._ask(self._client.send("GET", self._account.base_url, headers={}))
        except (NotSent, Unclear) as error:
            self._problem("host", str(error), on_reaching(error, parts.scheme))
            return False
        seconds = f"{self._client.exchanges[-1].seconds:.2f} s"
        if parts.scheme == "https":
            self._ok("host", f"{parts.netloc} answers over TLS, its certificate is valid ({seconds})")
        elif self._account.auth is Auth.NONE or is_loopback(parts.hostname or ""):
            self._ok("host", f"{parts.netloc} answers ({seconds})")
        else:
            advice = "Write https:// in base_url, if the gateway has it."
            self._note("host", f"{parts.netloc} answers ({seconds}), but key and prompts travel unencrypted", advice)
        return True

    # --- access -------------------------------------------------------------------------------------------

    async def _be_let_in(self, provider: Provider) -> bool:
        before = len(self._client.exchanges)
        not_there: TaskNotFound | NoSuchPath | None = None
        try:
            await self._ask(provider.probe())
        except NotImplementedError:
            self._note("auth", "this provider has no free question that shows whether the key is taken")
            return True
        except RequestBlocked as error:
            self._note("auth", f"cannot be checked for free. {error}")
            return True
        except (TaskNotFound, NoSuchPath) as error:
            not_there = error
        except JobError as error:  # refused for what was asked, which is looked at after the key
            self._note("auth", f"the key seems to be taken, but the question was not: {error}")
            return True
        except BatchgenError as error:
            self._problem("auth", str(error), self._on_refusal(error))
            return False
        heard = self._client.exchanges[-1] if len(self._client.exchanges) > before else None
        return await self._compare_without_key(heard, not_there)

    async def _compare_without_key(self, heard: Exchange | None, not_there: TaskNotFound | NoSuchPath | None) -> bool:
        """Ask the same without a key: only a difference shows that the key was looked at, or that the path is right."""
        keyless = await self._keyless(heard)
        unnamed = heard is not None and not_there is not None and not_there.code in {"", str(heard.answer.status)}
        if unnamed and keyless in {None, 404, 405}:
            advice = on_path(self._account)
            self._problem("auth", f"There seems to be no such API at {self._account.base_url}: {not_there}", advice)
            return False
        what = "the token made from the two keys" if self._account.auth is Auth.JWT else "the key"
        if self._account.auth is Auth.NONE:
            self._ok("auth", "none is needed, and questions are answered")
        elif heard is not None and keyless == heard.answer.status:
            self._note("auth", "questions are answered without a key too: whether the key is right shows at a create")
        else:
            self._ok("auth", f"{what} is accepted")
        return True

    async def _keyless(self, heard: Exchange | None) -> int | None:
        """The HTTP status of the same question without a key; None where there is nothing to compare."""
        if heard is None or self._account.auth is Auth.NONE:
            return None
        try:
            answer = await self._ask(self._client.send("GET", heard.url, headers={}))
        except (NotSent, Unclear):
            return None
        return answer.status

    def _on_refusal(self, error: BatchgenError) -> str:
        if isinstance(error, AccountStopped):
            return ""  # it says itself what to do
        status = self._client.exchanges[-1].answer.status
        if isinstance(error, Unclear) and status < 400:
            return "Something else than the API answers here: check base_url."
        return "Try again in a while; if it stays so, ask the gateway."

    # --- what it can do, against its profile --------------------------------------------------------------

    async def _list(self, provider: Provider) -> tuple[Task, ...]:
        """A page of the account's tasks, if it has a list."""
        says = self._account.lists_tasks
        try:
            tasks = (await self._ask(provider.page(1, _LOOKED_AT))).tasks
        except (TaskNotFound, NoSuchPath, NotImplementedError):
            if says is Capability.YES:
                self._problem("list", "it has no list of tasks, though its profile says so", self._set("lists_tasks"))
            else:
                self._ok("list", "it lists no tasks")
            return ()
        except BatchgenError as error:
            if says is Capability.NO:
                self._ok("list", "it lists no tasks, as its profile says")
            else:
                self._problem("list", f"its list cannot be read: {error}", self._set("lists_tasks"))
            return ()
        if says is Capability.NO and tasks:
            self._note("list", "it lists tasks, though its profile says no", self._set("lists_tasks", Capability.TRY))
        elif tasks and self._sends_ids and not any(task.external_id for task in tasks):
            self._note("list", "it lists tasks, but not by which id they were sent: nothing lost is found there")
        else:
            self._ok("list", "it lists tasks" if says is not Capability.NO else "not used, as its profile says")
        return tasks

    async def _find(self, provider: Provider, tasks: tuple[Task, ...]) -> None:
        """Whether a task is found by the caller's own id, and nothing is found by nobody's."""
        if not provider.can_find:
            self._note("find", "a task cannot be asked for by batchgen's own id: a lost answer is held as unknown")
            return
        never = self._set("lookup_by_external_id")
        try:
            found = await self._ask(provider.find(UNUSED_ID))
        except TaskNotFound:
            await self._find_one(provider, next((task for task in tasks if task.external_id), None))
        except NotImplementedError:
            self._problem("find", "this provider cannot ask by batchgen's own id, though its profile says so", never)
        except BatchgenError as error:
            self._problem("find", f'an id that nobody has is not answered with "not found": {error}', never)
        else:
            self._problem("find", f"it gives task {found.id} for an id that nobody has", never)

    async def _find_one(self, provider: Provider, known: Task | None) -> None:
        if known is None or known.external_id is None:
            what = "an id that nobody has is not found, as it should be; a known one can be tried when there is a task"
            self._ok("find", what)
            return
        try:
            found = await self._ask(provider.find(known.external_id))
        except TaskNotFound:
            found = None
        except BatchgenError as error:
            self._problem("find", f"a task of its list cannot be asked for by its own id: {error}")
            return
        if found is not None and found.id == known.id:
            self._ok("find", "a task of its list is found by the id that it was sent with")
        elif found is None and self._account.lookup_by_external_id is Capability.TRY:
            self._note("find", "it does not find by batchgen's own id, and is asked by its list")
        else:
            what = "a task of its list is not found by the id that it was sent with: a lost answer might be paid twice"
            self._problem("find", what, self._set("lookup_by_external_id"))

    @property
    def _sends_ids(self) -> bool:
        return "external_task_id" in self._account.fields

    def _set(self, key: str, value: Capability = Capability.NO) -> str:
        return f'Set `{key}: "{value.value}"` under providers.{self._account.name}.'

    # --- time ---------------------------------------------------------------------------------------------

    def _ahead(self) -> float | None:
        """By the quickest answer that has a date."""
        dated = [each for each in self._client.exchanges if each.clock_skew is not None]
        return min(dated, key=lambda each: each.seconds).clock_skew if dated else None

    def _compare_clocks(self) -> None:
        ahead = self._ahead()
        if ahead is None:
            self._note("clock", "the gateway does not say what time it is")
            return
        said = f"this machine's clock is {duration(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} the gateway's"
        if abs(ahead) < 2:
            self._ok("clock", "this machine's and the gateway's agree")
        elif abs(ahead) >= _SKEW_SECONDS:
            breaks = "tasks are looked for at the wrong time"
            self._problem("clock", f"{said}: {breaks}", "Set it, best by the network (NTP).")
        elif abs(ahead) > _WORTH_A_WORD_SECONDS:
            self._note("clock", said, "Set it, best by the network (NTP).")
        else:
            self._ok("clock", said)

    def _measure(self) -> None:
        seconds = [each.seconds for each in self._client.exchanges]
        words = f"{median(seconds):.2f} s a query ({len(seconds)} asked, {min(seconds):.2f} to {max(seconds):.2f} s)"
        told = self._client.exchanges[-1].answer.headers
        limits = [f"{name}: {value}" for name, value in told.items() if "ratelimit" in name.lower().replace("-", "")]
        self._ok("latency", "; ".join([words, *limits]))
