"""A whole run: what stands is settled, what was begun is finished, what is asked for is begun, views are written."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from batchgen.catalog.catalog import Capability, price_at
from batchgen.descriptors import connections
from batchgen.engine.attempt import Work
from batchgen.engine.budget import Budget
from batchgen.engine.concurrency import MOST
from batchgen.engine.context import Context, RunStats
from batchgen.engine.runner import ASKED_AGAIN
from batchgen.engine.scheduler import AccountScheduler
from batchgen.engine.shutdown import NAMES, Interrupted, Stop, signals_told
from batchgen.errors import CommandError, DeadlinePassed
from batchgen.jobs import Status
from batchgen.ledger.events import Reopened
from batchgen.ledger.rehearsals import real_jobs
from batchgen.ledger.rescue import Rescue
from batchgen.ledger.reserve import Reserve
from batchgen.ledger.store import FILE_NAME, Ledger
from batchgen.ledger.writer import Writer
from batchgen.providers.registry import provider_class, provider_for
from batchgen.reconcile import reconcile, unrecorded
from batchgen.reports.index import write_views

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from batchgen.callbacks.endpoint import CallbackEndpoint
    from batchgen.catalog.catalog import Account
    from batchgen.engine.budget import Limits
    from batchgen.engine.context import Rules
    from batchgen.engine.counters import Counters
    from batchgen.engine.shutdown import Deadline
    from batchgen.errors import BatchgenError
    from batchgen.jobs import Job
    from batchgen.ledger.reader import OpenAttempt
    from batchgen.storage.paths import PathTemplate
    from batchgen.storage.tree import Tree

_SPARE_CONNECTIONS = 64  # for queries, beside creates
_LOOKS_AT_THE_CLOCK_SECONDS = 30.0  # a machine that slept, or whose clock was set, is late by no more
_RESERVED = 8 * 1024 * 1024  # bytes
_RESERVED_FOR_IMAGE = 4 * 1024 * 1024
_RESERVED_AT_MOST = 256 * 1024 * 1024
_READER_PATIENCE_SECONDS = 5.0  # it reads on the event loop's thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What one run is asked to do. `retry` are the ways of ending short that get another attempt."""

    jobs: Callable[[], Iterator[Job]]  # everything that is wanted, in order
    digest: str  # of what is wanted: the same digest, the same jobs and names
    source: Callable[[Ledger], Iterator[Work | None]]  # what is to be begun, page by page; None: nothing in this page
    takes: Callable[[Job], bool]  # what `--only` leaves
    to_come: Callable[[Ledger], tuple[int, int]]  # jobs and images that are not there yet and are meant now
    account: Account
    accounts: Mapping[str, Account]  # all that are known by name, for tasks of an earlier run
    template: PathTemplate
    rules: Rules
    limits: Limits
    downloads: int
    retry: frozenset[Status] = frozenset()
    refetch: bool = False  # images that are all away are lost indeed
    deadline: Deadline | None = None
    spreadsheet_safe: bool = False  # whether a cell of a view may begin with what a spreadsheet calculates
    address: CallbackEndpoint | None = None  # where the account may call us back


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How the run ended, as far as it is not in the ledger. `cost` in millionths."""

    stats: RunStats
    reason: BatchgenError | None
    cost: int = 0
    retired: int = 0  # files


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnvironment:
    """What a run is given from outside: counters to fill, who watches them, and the way to a local gateway."""

    counters: Counters
    observer: AbstractAsyncContextManager[object]
    say: Callable[[str], None]
    say_error: Callable[[str], None]  # also to who asked for quiet
    gateway: Callable[[Account], AbstractAsyncContextManager[Account]]
    leave: Callable[[int, str], None]  # tell of an end with this exit code and reason, within a moment


Begun = tuple[Work, Status]


def perform(order: Order, tree: Tree, around: RunEnvironment) -> Result:
    """Do it all; the caller has prepared the output folder and holds its lock.

    Raises RunStopped where the disk refuses before or after the jobs; what stops the jobs is in the result.
    """
    ledger = Ledger.open(tree.root / FILE_NAME)
    try:
        unrecorded.check_index_is_known(ledger, tree.root)
        retired = _drop_rehearsals(order, ledger, tree, around) + _settle(order, ledger, tree)
        if ledger.anything_to_do():
            unrecorded.check_names_are_free(ledger, tree.root, order.template, order.jobs)
        remake = _reopen(order, ledger)
        result = Result(stats=RunStats(), reason=None)
        begun = _begun(order, ledger)
        if begun or ledger.anything_to_do():
            result = asyncio.run(_make(order, tree, ledger, begun, around, remake))
            tree.check_in_place()
            reconcile.finish_moves(ledger, tree)  # what was cancelled between its record and its move
            retired += reconcile.retire(ledger, tree)
        write_views(ledger, tree, guarded=order.spreadsheet_safe)
        reconcile.note_disk(ledger, tree)
        if not ledger.sums():  # else nothing has changed
            ledger.shrink()
            tree.prune()
            ledger.sum_up()
        tree.tidy()
    finally:
        ledger.close()
    return replace(result, retired=retired)


def _drop_rehearsals(order: Order, ledger: Ledger, tree: Tree, around: RunEnvironment) -> int:
    """What a sandbox painted never counts as made for a real account; what is paid for satisfies a rehearsal too."""
    name = order.account.name
    if ledger.is_settled_for(order.digest):
        return 0
    if order.account.is_local_sandbox:
        if kept := real_jobs(ledger):
            around.say(f"{kept} jobs were made by a real account: they are kept, and not painted anew.")
        return 0
    reconcile.finish_moves(ledger, tree)
    jobs, files = reconcile.drop_rehearsals(ledger, tree, order.account.base_url)
    if jobs:
        around.say(
            f"A sandbox painted {files} images of {jobs} jobs: they are not made for the account {name!r}, and are in"
            f" {tree.root / 'retired'} now."
        )
    return files


def _settle(order: Order, ledger: Ledger, tree: Tree) -> int:
    """Put files and ledger right before anything is sent; how many files the manifest no longer asks for."""
    retired = 0
    if not order.refetch:
        reconcile.check_folder(ledger, tree.root)
    reconcile.finish_moves(ledger, tree)
    is_new = not ledger.is_settled_for(order.digest)
    if is_new:
        ledger.want(order.jobs())
    reconcile.note_missing(ledger, tree, refetch=order.refetch)
    if reconcile.take_back(ledger, tree) or is_new:
        retired = reconcile.retire(ledger, tree)
        reconcile.rename(ledger, tree, order.template)
        ledger.settle_for(order.digest)
    elif ledger.views_stamp() is None:
        retired = reconcile.retire(ledger, tree)  # what a run left that did not come to its end
    return retired


def _reopen(order: Order, ledger: Ledger) -> frozenset[str]:
    """Give another attempt to what ended short, where the user says so; returns the jobs that this is about.

    What is gone or partial is asked for first, for images that come late are paid for.
    """
    ids = ledger.incomplete(order.retry) if order.retry else []
    attempts = [attempt for attempt in map(ledger.attempt_of, ids) if order.takes(attempt.job)]
    events = [Reopened(job_id=attempt.job.id) for attempt in attempts if attempt.status is not Status.PARTIAL]
    if events:
        ledger.record(events)
    return frozenset(attempt.job.id for attempt in attempts)


def _begun(order: Order, ledger: Ledger) -> list[OpenAttempt]:
    """What earlier runs began: live attempts, and those that ended short of what the gateway may have.

    Unknown ones can be asked for, or may be sent again; what is gone or partial may have come late.
    """
    held = map(ledger.attempt_of, ledger.incomplete(ASKED_AGAIN | {Status.UNKNOWN}))
    return ledger.open_attempts() + [
        attempt
        for attempt in held
        if order.takes(attempt.job)
        and (attempt.status in ASKED_AGAIN or order.rules.resend_unknown or _can_be_asked(order, attempt.account))
    ]


def _can_be_asked(order: Order, name: str) -> bool:
    account = order.accounts.get(name)
    return account is not None and (account.lookup_by_external_id, account.lists_tasks) != (
        Capability.NO,
        Capability.NO,
    )


async def _make(
    order: Order,
    tree: Tree,
    ledger: Ledger,
    attempts: list[OpenAttempt],
    around: RunEnvironment,
    remake: frozenset[str],
) -> Result:
    # A run with nothing to do needs no network, and aiohttp takes 0.1 s.
    from batchgen.http.client import open_http_client  # noqa: PLC0415
    from batchgen.http.downloads import open_downloader  # noqa: PLC0415

    budget = Budget(ledger.spent(partial(price_at, order.accounts)), order.limits)
    counters = around.counters
    counters.images_done = ledger.images_in_index()
    counters.jobs_wanted, images = order.to_come(ledger)
    held = [attempt for attempt in attempts if attempt.status is Status.UNKNOWN]
    images += sum(attempt.job.parameters.n for attempt in held)
    counters.images_wanted = counters.images_done + images
    async with AsyncExitStack() as stack:
        reader = Ledger.read(tree.root / FILE_NAME)
        stack.callback(reader.close)
        reader.wait_at_most(_READER_PATIENCE_SECONDS)
        units = max(order.account.concurrency, MOST if order.account.adaptive_concurrency else 0)
        in_flight = units + _SPARE_CONNECTIONS
        client = await stack.enter_async_context(open_http_client(connections(in_flight, order.downloads)))
        reserve = stack.enter_context(Reserve(tree.root, _reserved_bytes(order)))
        stop = Stop()
        writer = Writer(
            ledger,
            reserve,
            Rescue(around.say_error),
            on_refusal=lambda reason: stop.request(reason, grace=order.rules.grace),
        )
        context = Context(
            writer=await stack.enter_async_context(writer),
            reader=reader,
            tree=tree,
            template=order.template,
            client=client,
            downloader=await stack.enter_async_context(open_downloader(order.downloads, client.gateways)),
            rules=order.rules,
            budget=budget,
            counters=around.counters,
            downloads=asyncio.Semaphore(order.downloads),
            writes=asyncio.Semaphore(order.downloads),
            say=around.say,
            stop=stop,
            local_accounts=frozenset(name for name, known in order.accounts.items() if known.is_local_sandbox),
        )
        lanes = await _lanes(order, context, attempts, around, stack, remake)
        if order.address is not None:
            lane, _ = lanes[order.account.name]
            await stack.enter_async_context(_hearing(order.address, lane, context, around))
        await stack.enter_async_context(around.observer)
        taken_up = {attempt.job.id for attempt in attempts}
        fresh = (work for work in order.source(reader) if work is None or work.job.id not in taken_up)
        with _signals(context.stop, order, around), _rare_collections():
            await _run_lanes(order, context, lanes, fresh)
    return Result(stats=context.stats, reason=context.stop.reason, cost=budget.cost_of_run)


def _reserved_bytes(order: Order) -> int:
    """Room for what may be in hand at a time: for task ids and links; where answers hold the images, for those too."""
    inline = 0 if provider_class(order.account).can_query else _RESERVED_FOR_IMAGE * order.account.concurrency
    return min(_RESERVED + inline, _RESERVED_AT_MOST)


async def _run_lanes(
    order: Order, context: Context, lanes: dict[str, tuple[AccountScheduler, list[Begun]]], fresh: Iterator[Work | None]
) -> None:
    async with asyncio.TaskGroup() as outer:
        timer = outer.create_task(_deadline(order, context))
        async with asyncio.TaskGroup() as group:
            for name, (lane, begun) in lanes.items():
                source = fresh if name == order.account.name else iter(())
                group.create_task(lane.run(begun, source))
        timer.cancel()


async def _lanes(
    order: Order,
    context: Context,
    attempts: list[OpenAttempt],
    around: RunEnvironment,
    stack: AsyncExitStack,
    remake: frozenset[str],
) -> dict[str, tuple[AccountScheduler, list[Begun]]]:
    """A lane for the manifest's account and for each other one that still owes us something."""
    owed: dict[str, list[OpenAttempt]] = {order.account.name: []}
    for attempt in attempts:
        owed.setdefault(attempt.account, []).append(attempt)
    lanes: dict[str, tuple[AccountScheduler, list[Begun]]] = {}
    for name, theirs in owed.items():
        is_own = name == order.account.name
        try:
            known = _account(order, name)
            account = await stack.enter_async_context(around.gateway(known))
            provider = provider_for(account, context.client, callback_url=_callback_url(order, known))
            lane = AccountScheduler(context, provider, begins=is_own)
        except CommandError as error:
            if is_own:
                raise
            for attempt in theirs:
                context.stats.leave(f"A task begun at {name!r} cannot be asked for: {error}", wanted=attempt.wanted)
        else:
            works = [Work.resumed(each, known.base_url, remake=each.job.id in remake) for each in theirs]
            lanes[name] = (lane, [(work, each.status) for work, each in zip(works, theirs, strict=True)])
    return lanes


def _callback_url(order: Order, account: Account) -> str:
    """Nothing is begun at other accounts; a sandbox in this process reaches us without the public address."""
    if order.address is None or account.name != order.account.name:
        return ""
    return order.address.local_url if account.is_local_sandbox else order.address.url


@asynccontextmanager
async def _hearing(
    address: CallbackEndpoint, lane: AccountScheduler, context: Context, around: RunEnvironment
) -> AsyncIterator[None]:
    """Take callbacks while the lanes run, and say it when none came: else a wrong address would go unnoticed."""
    from batchgen.callbacks.server import open_callback_server  # noqa: PLC0415 - aiohttp costs 0.1 s

    async with open_callback_server(address, lane.on_callback) as server:
        yield
    if not server.received and context.stats.fetched_jobs:
        around.say(
            "No callback has come: check that callback.public_url leads to callback.listen."
            " Nothing is lost, the tasks were asked for as without it."
        )


def _account(order: Order, name: str) -> Account:
    account = order.account if name == order.account.name else order.accounts.get(name)
    if account is None:
        raise CommandError(f"The account {name!r} is not in the manifest any more; name it in `providers`.")
    return account


async def _deadline(order: Order, context: Context) -> None:
    if order.deadline is None:
        return
    # Where none is left, nothing at all is begun: this comes before the lanes' first step.
    while (left := order.deadline.left()) > 0:  # noqa: ASYNC110 - no event tells what time it is
        await asyncio.sleep(min(left, _LOOKS_AT_THE_CLOCK_SECONDS))
    grace = order.rules.grace
    reason = DeadlinePassed("The deadline has come; nothing more was begun. Run again to go on.")
    context.stop.request(reason, grace=grace)
    context.say(f"The deadline has come: nothing more is begun; what is in flight has {grace:g} s to end.")


@contextmanager
def _rare_collections() -> Iterator[None]:
    """What was loaded stays for the whole run: to look through it for cycles again and again takes time."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _signals(stop: Stop, order: Order, around: RunEnvironment) -> AbstractContextManager[None]:
    """The first signal stops sending and gives what is in flight its grace; a second Ctrl-C or SIGTERM ends at once."""
    grace = order.rules.grace
    cost = "nothing is lost either way"
    if not _can_be_asked(order, order.account.name):
        cost = "a task whose answer has not come is then held as unknown, for this account cannot be asked about it"

    def told(number: signal.Signals) -> None:
        code, name = 128 + number, NAMES[number]
        before = stop.reason if isinstance(stop.reason, Interrupted) else None
        if before is not None and number is signal.SIGHUP:
            return
        if before is not None and before.exit_code != 128 + signal.SIGHUP:
            around.leave(code, f"{name} twice: left at once. Run again to go on.")
            os._exit(code)  # the ledger is whole at every moment
        stop.request(Interrupted(f"{name}. Run again to go on.", code), grace=grace)
        around.say(
            f"{name}: nothing more is sent. Finishing what is in flight (up to {grace:g} s)."
            f" Once more leaves at once; {cost}."
        )

    return signals_told(told)
