"""The network of one life, below the providers: batchgen's HTTP port, without a socket."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlsplit

from batchgen.errors import ImageBroken, LinkExpired, NotSent, RunStopped, Unclear
from batchgen.http.client import Answer
from batchgen.http.downloads import _decoded
from batchgen.jobs import is_inline
from batchgen.providers.validated import ValidatedProvider
from tests.simulation import world as worlds
from tests.simulation.gateway import Request
from tests.simulation.liar import Fate, as_json, error, fate_of, page
from tests.simulation.world import MOST_REQUESTS, Crash, Violation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from batchgen.callbacks.addresses import CallbackAddresses
    from batchgen.sandbox.tasks import Task
    from tests.simulation.gateway import Gateway
    from tests.simulation.oracle import Books
    from tests.simulation.world import World

_FOR_NOW = frozenset({"too fast", "too many", "not sent", "proxy refuses", "no money", "key refused"})
_attempt: ContextVar[str] = ContextVar("attempt", default="")


@dataclass(slots=True, kw_only=True)
class Window:
    """A time in which a gateway does not work: an outage, an empty account, a refused key, a dead image host."""

    kind: str  # refused | page | silent | creates | queries | words | money | key | images
    begins: float  # true time
    ends: float


class Send(NamedTuple):
    """A create that left; `at` is by the machine's clock."""

    at: float
    gateway: Gateway
    attempt: str
    units: int


class Network:
    """Carries requests to the gateways by their hosts, and watches the creates of this run, for the oracle."""

    def __init__(self, world: World, gateways: Mapping[str, Gateway]) -> None:
        self.world = world
        self.by_host = {gateway.host: gateway for gateway in gateways.values()}
        self._numbers: dict[tuple[str, str], int] = {}
        self.keys: set[str] = set()  # every key that there has been
        self.begin_run()

    def begin_run(self) -> None:
        self.sends: list[Send] = []
        self.met: list[tuple[str, str]] = []  # what befell creates, and their attempts
        self.troubled: set[str] = set()  # attempts whose create was not simply accepted
        self.may_fail: set[str] = set()  # of those the ones that count against their job
        self._held: dict[
            str, dict[str, int]
        ] = {}  # by gateway: units of the attempts that the client knows to hold slots
        self._lost: dict[
            str, list[float]
        ] = {}  # by gateway: when creates were lost in an outage since one was accepted
        self._accepted_at: dict[str, float] = {}
        self._tries: dict[str, int] = {}  # by gateway: creates that were sent after three of these

    def resume(self, book: Books) -> None:
        """Tasks that the ledger knows to run hold their slots from the beginning of a run."""
        for gateway in self.by_host.values():
            for task in gateway.tasks:
                attempt = gateway.attempts.get(task.id, "")
                known = book.attempts.get(attempt)
                is_known = known and known.account == gateway.name
                if is_known and book.jobs.get(known.job) == ("submitted", known.number) and not gateway.is_per_key:
                    self._hold(gateway, attempt, task)

    def _hold(self, gateway: Gateway, attempt: str, task: Task) -> None:
        """Until the task ends: before that no answer says so."""
        held, ends = self._held.setdefault(gateway.name, {}), gateway.due(task)
        if ends > self.world.true and "query forgets" not in gateway.rates:
            held[attempt] = task.request.n
            self.world.at(ends, lambda: held.pop(attempt, None))
        else:
            held.pop(attempt, None)

    # --- a request ----------------------------------------------------------------------------------------

    async def exchange(self, request: Request, timeout: float) -> Answer:
        world = self.world
        if world.is_dead:
            raise Crash
        world.requests += 1
        if world.requests > MOST_REQUESTS:
            raise Violation(f"more than {MOST_REQUESTS} requests in one run")
        gateway = self.by_host.get(request.host)
        if gateway is None:
            raise NotSent(f"{request.host} cannot be reached: its name is not found.")
        self._check_key(request, gateway)
        name = request.attempt if request.kind == "create" else request.url
        number = self._numbers[request.kind, name] = self._numbers.get((request.kind, name), 0) + 1
        request = replace(request, number=number)
        fate = self._in_window(gateway, request) or fate_of(gateway, request)
        if request.kind == "create":
            self._note_create(gateway, request, fate)
        sent, answer = world.true, None
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._post(gateway, request, fate, timeout, future)
        try:
            answer = await future
        except asyncio.CancelledError as error:
            if request.kind == "create" and not gateway.can_be_asked:
                raise Violation(
                    f"the create {request.attempt} is cancelled, and nobody can be asked about it"
                ) from error
            raise
        finally:
            if request.kind == "create":
                self._note_answer(gateway, request, fate, answer, sent)
        return answer

    def _post(
        self, gateway: Gateway, request: Request, fate: Fate, timeout: float, future: asyncio.Future[Answer]
    ) -> None:
        world = self.world
        name = (request.kind, request.attempt or request.url, request.number)
        # Bound: a create arrives, and is seen, within visibility_delay of its sending, whatever becomes of the client.
        slowest = min(6.0, 0.3 * gateway.visibility_delay)
        there, back = (0.02 + slowest * world.chance(way, *name) ** 12 for way in ("there", "back"))
        sent = world.true
        lost_after = sent + there + (0.0 if fate.late else back)

        def tell(outcome: Answer | Exception) -> None:
            if not future.done() and not world.is_dead and future.get_loop() is world.loop:
                future.set_result(outcome) if isinstance(outcome, Answer) else future.set_exception(outcome)

        def arrive() -> None:
            answer, made = gateway.process(gateway.teller.prepared(request)) if fate.arrives else (None, None)
            if fate.name == "mixed up" and made is not None and len(gateway.tasks) > 1:
                other = gateway.tasks[-2].id
                path = f"{request.url}/{other}"
                answer = gateway.process(Request(method="GET", url=path, headers=request.headers))[0]
            if answer is not None and request.kind in {"query", "list"}:
                answer = gateway.teller.told(request, answer)
            if fate.cut or fate.silent or fate.refused:
                return
            told = fate.told[0] if fate.told else answer
            due = gateway.due(made) if made is not None and gateway.answers_with_images else world.true
            when = max(world.true, due) + back
            if when - sent > timeout:
                world.at(sent + timeout, lambda: tell(Unclear(f"{request.host} did not answer in time.")))
            else:
                world.at(when, lambda: tell(told))

        if request.kind == "create":
            world.note(f"create {request.attempt} to {gateway.name}{f': {fate.name}' if fate.name else ''}")
        elif fate.name:
            world.note(f"{request.kind} {request.name} at {gateway.name}: {fate.name}")
        if fate.refused:
            world.at(sent + there, lambda: tell(NotSent(f"{request.host} cannot be reached: Connection refused.")))
            return
        if fate.cut:
            lost = Unclear(f"The connection to {request.host} was lost before an answer came.")
            world.at(lost_after, lambda: tell(lost))
        if fate.silent:
            world.at(sent + timeout, lambda: tell(Unclear(f"{request.host} did not answer in time.")))
        arrival = sent + there
        if fate.late:
            arrival += 0.29 * gateway.visibility_delay * world.chance("late", *name)
        world.at(arrival, arrive)

    def _in_window(self, gateway: Gateway, request: Request) -> Fate | None:
        """What becomes of a request while the gateway does not work."""
        for window in gateway.windows:
            if window.begins <= self.world.true < window.ends and not self.world.is_honest:
                self.world.note_fault(f"window: {window.kind}")
                match window.kind:
                    case "refused":
                        return Fate(name="outage", arrives=False, refused=True)
                    case "page":
                        return Fate(name="outage", arrives=False, told=(page(503),))
                    case "silent":
                        return Fate(name="outage", arrives=False, silent=True)
                    case "key":
                        return Fate(name="key refused", arrives=False, told=(error(401, 1000),))
                    case "queries" if request.kind != "create":
                        return Fate(name="outage", arrives=False, silent=True)
                    case "words" if request.kind == "create":
                        words = as_json(400, {"error": {"message": "not in your plan", "type": "plan_q7"}})
                        return Fate(name="refused by the account", arrives=False, told=(words,))
                    case "creates" if request.kind == "create":
                        return Fate(name="outage", arrives=False, told=(page(502),))
                    case "money" if request.kind == "create":
                        return Fate(name="no money", arrives=False, told=(error(429, 1102),))
        return None

    # --- what the oracle is to know ---------------------------------------------------------------------------

    def _check_key(self, request: Request, gateway: Gateway) -> None:
        """A key goes with its own account's requests, in its header, and nowhere else."""
        sent = request.headers.get("Authorization", "")
        elsewhere = f"{request.url} {request.body.decode()}"
        if any(
            key in elsewhere or (key in sent and not key.startswith(f"key-of-{gateway.name}-")) for key in self.keys
        ):
            raise Violation(f"a key went out of its account: {request.method} {request.url}")

    def _note_create(self, gateway: Gateway, request: Request, fate: Fate) -> None:
        """Slots and quota hold; at an account that nobody can ask, few creates are sent in an outage."""
        name, units = gateway.name, gateway.units_of(request)
        held = self._held.setdefault(name, {})
        in_use = sum(held.values())
        if gateway.limit is not None and in_use and in_use + units > gateway.limit:
            raise Violation(f"{in_use} + {units} units in flight at {name}, which may have {gateway.limit}")
        self.sends.append(Send(self.world.now, gateway, request.attempt, units))
        if gateway.quota is not None and not self.world.was_suspended:
            # The limiter counts when it lets a create go: then its intent is written, for which a disk takes up to 2 s.
            lately = {
                send.attempt for send in self.sends if send.gateway is gateway and send.at > self.world.now - 57.0
            }
            if len(lately) > gateway.quota:
                raise Violation(f"{len(lately)} creates in a minute at {name}, which may have {gateway.quota}")
        held[request.attempt] = units
        if fate.name:
            self.met.append((fate.name, request.attempt))
            self._note_trouble(gateway, request, is_for_now=fate.refused or fate.name in _FOR_NOW)
        if fate.name == "outage" and not (fate.refused or gateway.can_be_asked):
            self._tries[name] = self._tries.get(name, 0) + 1 if len(self._lost.get(name, ())) >= 3 else 0
            if self._tries[name] > 3 + min(gateway.limit or 9, 9):  # so many may have been on their way
                raise Violation(f"one more create is lost in an outage at {name}, which cannot be asked")

    def _note_answer(self, gateway: Gateway, request: Request, fate: Fate, answer: Answer | None, sent: float) -> None:
        """Slots are held from here on only where the client was told that it has a task."""
        task = next(
            (task for task in reversed(gateway.tasks) if gateway.attempts.get(task.id) == request.attempt), None
        )
        is_accepted = not fate.name and answer is not None and answer.status == 200 and not gateway.answers_with_images
        if is_accepted and task is not None:
            gateway.known_since[task.id] = self.world.true
            self._hold(gateway, request.attempt, task)
        else:
            self._held[gateway.name].pop(request.attempt, None)
            is_throttled = answer is not None and (fate.name in _FOR_NOW or (answer.status == 429 and not fate.name))
            self._note_trouble(gateway, request, is_for_now=fate.refused or is_throttled)
        if fate.name != "outage":
            self._accepted_at[gateway.name], self._lost[gateway.name] = self.world.true, []
        elif sent >= self._accepted_at.get(gateway.name, 0.0):
            self._lost.setdefault(gateway.name, []).append(sent)

    def _note_trouble(self, gateway: Gateway, request: Request, *, is_for_now: bool) -> None:
        """A refusal for now is no reason for a job to fail; nor to be in doubt, where nobody is asked."""
        if gateway.can_be_asked or not is_for_now:
            self.troubled.add(request.attempt)
        if not is_for_now:
            self.may_fail.add(request.attempt)

    # --- an image -----------------------------------------------------------------------------------------

    async def image(self, url: str) -> bytes:
        """The body of a link. Raises as the downloader does."""
        world = self.world
        if world.is_dead:
            raise Crash
        world.requests += 1
        number = self._numbers["image", url] = self._numbers.get(("image", url), 0) + 1
        gateway = self.by_host.get(urlsplit(url).netloc)
        if gateway is None:  # an adopted image has no link until its task is queried
            raise ImageBroken("The gateway gave a link that is no http or https address.")
        await asyncio.sleep(0.02 + 20.0 * world.chance("download", url, number) ** 8)
        name = url.partition("?")[0]
        if any(window.kind == "images" and window.begins <= world.true < window.ends for window in gateway.windows):
            world.note_fault("window: images")
            raise LinkExpired("The image is not at its link (HTTP 403).")
        if gateway.strikes("image refused", name) and number <= 1 + int(3 * world.chance("refusals", name)):
            raise LinkExpired("The image is not at its link (HTTP 403).")
        if gateway.strikes("image cut", name, number):
            raise ImageBroken("The image's download was cut off.")
        if gateway.strikes("image lost", name, number):
            raise Unclear("The image's host did not answer in time.")
        if gateway.strikes("image page", name, number):
            return page(200).body
        answer = gateway.process(Request(method="GET", url=url, headers={}))[0]
        if answer.status != 200:
            raise LinkExpired(f"The image is not at its link (HTTP {answer.status}).")
        body = answer.body
        if gateway.strikes("image short", name, number):
            return body[: len(body) // 2]
        if gateway.strikes("image corrupt", name, number):
            at = 8 + int((len(body) - 20) * world.chance("byte", name, number))
            return body[:at] + bytes([body[at] ^ 0x55]) + body[at + 1 :]
        return body


class Client:
    """batchgen's HTTP client, for the network of the present world."""

    gateways = None

    def __init__(self, _in_flight: int) -> None:
        self._network = worlds.current.network

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Nothing is open."""

    async def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None, **options: Any
    ) -> Answer:
        if method == "GET":
            from batchgen.http import client

            headers = {**headers, **client._NEVER_FROM_A_CACHE}
        request = Request(method=method, url=url, headers=headers, body=body or b"", attempt=_attempt.get())
        return await self._network.exchange(request, options.get("answer_timeout", 60.0))


class Downloader:
    """batchgen's downloader, for the same."""

    @asynccontextmanager
    async def image(self, url: str, *, base_url: str, idle_timeout: float) -> AsyncIterator[AsyncIterator[bytes]]:
        del base_url, idle_timeout
        body = _decoded(url) if is_inline(url) else await worlds.current.network.image(url)

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body), max(1, len(body) // 2)):
                yield body[start : start + max(1, len(body) // 2)]

        yield pieces()


@asynccontextmanager
async def open_downloader(_in_flight: int, _gateways: object) -> AsyncIterator[Downloader]:
    yield Downloader()


class Endpoint:
    """Where a run listens for callbacks, without a port."""

    sockets: tuple[()] = ()

    def __init__(self, public_url: str, _host: str, port: int) -> None:
        self.public_url, self.local_url = public_url, f"http://127.0.0.1:{port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        """Nothing is open."""


@asynccontextmanager
async def open_callback_server(_sockets: object, addresses: CallbackAddresses, on_callback: Any) -> AsyncIterator[Any]:
    world = worlds.current
    server = type("Server", (), {"received": 0})()

    calls: set[asyncio.Task[None]] = set()

    def receive(url: str, call: Mapping[str, Any]) -> None:
        if world.loop is not None and not world.is_dead and (external_id := addresses.external_id_of(url)) is not None:
            server.received += 1
            calls.add(task := world.loop.create_task(answer(external_id, call)))
            task.add_done_callback(calls.discard)

    async def answer(external_id: str, call: Mapping[str, Any]) -> None:
        with suppress(RunStopped):
            await on_callback(external_id, call)

    world.on_callback = receive
    try:
        yield server
    finally:
        world.on_callback = None
        for each in tuple(calls):
            each.cancel()


def new_secret() -> str:
    """One of a few, for redaction keeps the address that follows from it."""
    return f"callback-secret-{int(8 * worlds.current.chance('secret', worlds.current.now))}"


_create = ValidatedProvider.create


async def create(self: ValidatedProvider, job: Any, external_id: str) -> Any:
    """As it is; the network knows of which attempt a create is, also where the account gets no id of ours."""
    token = _attempt.set(external_id)
    try:
        return await _create(self, job, external_id)
    finally:
        _attempt.reset(token)
