"""One run from inside: reconciles ledger and files, lets the engine make what is missing, writes the views."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import AsyncExitStack, nullcontext
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Literal, TypedDict

from batchgen.app.check_rounds import CheckRounds
from batchgen.app.image_store import open_image_store
from batchgen.app.memory import rare_collections
from batchgen.app.observer import observed
from batchgen.app.run_accounts import RunAccounts
from batchgen.app.run_callbacks import RunCallbacks
from batchgen.app.run_result import RunResult, account_results
from batchgen.app.workload import Workload
from batchgen.budget import Budget, BudgetLimits
from batchgen.catalog.accounts import price_at
from batchgen.descriptors import connections
from batchgen.engine.accounts import run_accounts
from batchgen.engine.context import Context, RunPolicy, RunStats
from batchgen.engine.counters import Counters
from batchgen.engine.limits import max_units
from batchgen.engine.shutdown import Deadline, Stop, graceful_signals
from batchgen.errors import PoolStopped
from batchgen.jobs import LIVE, Status
from batchgen.ledger.rescue import Rescue
from batchgen.ledger.reserve import Reserve
from batchgen.ledger.store import FILE_NAME, VIEWS_STAMP, Ledger
from batchgen.ledger.writer import Writer
from batchgen.manifest.model import OnUnknown
from batchgen.matrix.expand import expand, expand_all
from batchgen.money import micros, plain
from batchgen.providers.registry import provider_class
from batchgen.reconcile import reconcile, unrecorded
from batchgen.reports.index import write_views

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from batchgen.app.observer import Observer
    from batchgen.callbacks.endpoint import CallbackEndpoint
    from batchgen.catalog.accounts import Account
    from batchgen.engine.scheduler import AccountScheduler
    from batchgen.errors import BatchgenError
    from batchgen.http.client import HttpClient
    from batchgen.ledger.records import OpenAttempt
    from batchgen.manifest.model import Manifest
    from batchgen.planning.selection import Selection
    from batchgen.storage.tree import Tree

_SPARE_CONNECTIONS = 64  # for queries, beside creates
_RESERVED = 8 * 1024 * 1024  # bytes
_RESERVED_FOR_IMAGE = 4 * 1024 * 1024
_RESERVED_AT_MOST = 256 * 1024 * 1024
_READER_TIMEOUT_SECONDS = 5.0  # it reads on the event loop's thread


class RunArguments(TypedDict, total=False):
    """What a caller may ask of a run, as with the options of `batchgen run`."""

    output: Path | str | None
    only: Sequence[str]
    limit: int | None
    max_cost: Decimal | float | None
    deadline: Deadline | datetime | timedelta | None
    retry_failed: bool
    retry_unknown: bool
    refetch: bool
    remake: Literal["rejected"] | None
    workers: str | int | None
    shard: str | None


class RunSession:
    """One run of an output folder whose lock the caller holds: `prepare`, `make_images` where it has work, `finish`."""

    def __init__(
        self,
        manifest: Manifest,
        arguments: RunArguments,
        selection: Selection,
        tree: Tree,
        ledger: Ledger,
        observer: Observer,
        address: CallbackEndpoint | None,
    ) -> None:
        self._manifest = manifest
        self._arguments = arguments
        self._workload = Workload(manifest, selection, arguments.get("limit"))
        self._deadline = _deadline(arguments.get("deadline"))
        self._tree = tree
        self._ledger = ledger
        self._observer = observer
        self._callbacks = None if address is None else RunCallbacks(address, ledger)
        self._resumed: list[OpenAttempt] = []
        self._remake: frozenset[str] = frozenset()  # jobs that the user wants made again
        self._unit = manifest.pool.unit  # None: the accounts of the pool have several
        self._counters = Counters(unit=self._unit)
        run = manifest.run
        self._policy = RunPolicy(
            max_attempts=run.max_attempts,
            task_timeout=run.task_timeout,
            resend_unknown=arguments.get("retry_unknown", False) or run.on_unknown is OnUnknown.RESEND,
            retry_unknown=arguments.get("retry_unknown", False),
            give_up_after=run.give_up_after,
            grace=run.grace,
        )
        self._stats = RunStats()
        self._error: BatchgenError | None = None
        self._cost = 0  # millionths
        self._cost_by_model: Counter[str] = Counter()  # the same by model
        self._cost_by_account: Counter[str] = Counter()  # of a pool
        self._retired = 0  # files
        self._has_run = False
        self._rounds = CheckRounds(manifest, tree.root, self._workload, observer.on_message)

    @property
    def has_work(self) -> bool:
        """Whether anything has to be sent, queried or fetched."""
        return bool(self._resumed) or self._workload.replaces_any or self._ledger.anything_to_do()

    # --- before the jobs ----------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Reconcile files and ledger before anything is sent, and find what earlier runs started."""
        ledger, root = self._ledger, self._tree.root
        unrecorded.check_index_is_known(ledger, root)
        self._retired = self._drop_rehearsals() + self._reconcile()
        retry_failed = self._arguments.get("retry_failed", False)
        if ledger.anything_to_do() or retry_failed:
            jobs = partial(expand, self._manifest)
            unrecorded.check_names_are_free(ledger, root, self._manifest.output_path, jobs, retry_failed=retry_failed)
        if retry_failed:
            self._remake = self._workload.reopen(ledger)
        if self._arguments.get("remake"):
            self._remake |= self._workload.replace_rejected(ledger)
        self._resumed = self._workload.started_before(ledger, resend_unknown=self._policy.resend_unknown)

    def _drop_rehearsals(self) -> int:
        """Retire images that a sandbox painted: they never count for a real account. A real image does count in a
        rehearsal. Returns how many files were retired.
        """
        ledger, account = self._ledger, self._manifest.account
        if ledger.is_reconciled(self._manifest.digest):
            return 0
        if account.is_local_sandbox:
            if kept := ledger.count_real_jobs():
                self._observer.on_message(f"{kept} jobs were made by a real account: they are kept as they are.")
            return 0
        reconcile.finish_moves(ledger, self._tree)
        jobs, files = reconcile.drop_rehearsals(ledger, self._tree, self._manifest.pool.base_urls)
        if jobs:
            self._observer.on_message(
                f"A sandbox painted {files} images of {jobs} jobs: they do not count for the account"
                f" {account.name!r}, and were moved to {self._tree.root / 'retired'}."
            )
        return files

    def _reconcile(self) -> int:
        """Bring files and ledger together; how many files the manifest no longer asks for."""
        ledger, tree, manifest = self._ledger, self._tree, self._manifest
        retired, refetch = 0, self._arguments.get("refetch", False)
        if not refetch:
            reconcile.check_folder(ledger, tree.root)
        reconcile.finish_moves(ledger, tree)
        is_new = not ledger.is_reconciled(manifest.digest)
        if is_new:
            ledger.set_wanted_jobs(expand_all(manifest), manifest.shard)
        if missing := reconcile.record_missing(ledger, tree, refetch=refetch):
            self._observer.on_message(reconcile.missing_sentence(missing, manifest.path))
        if reconcile.record_returned(ledger, tree) or is_new:
            retired = reconcile.retire(ledger, tree)
            reconcile.rename(ledger, tree, manifest.output_path)
            ledger.mark_reconciled(manifest.digest)
        elif ledger.meta(VIEWS_STAMP) is None:
            retired = reconcile.retire(ledger, tree)  # left over from a run that was killed
        return retired

    # --- the jobs -----------------------------------------------------------------------------------------

    async def make_images(self, *, handle_signals: bool, before_exit: Callable[[int, str], None] | None = None) -> None:
        """Let the engine do what there is to do; see `run.run` for the arguments."""
        manifest, ledger = self._manifest, self._ledger
        max_cost = self._arguments.get("max_cost")
        limits = BudgetLimits(
            images=manifest.budget.max_images,
            cost=micros(manifest.budget.max_cost),
            run_cost=None if max_cost is None else (micros(Decimal(str(max_cost))) or 0) - self._cost,
            unit=self._unit or "",
        )
        budget = Budget(ledger.spent(partial(price_at, manifest.accounts)), limits)
        accounts = RunAccounts(manifest, self._resumed, self._remake)
        budgets = accounts.budgets(ledger, budget)
        self._count()
        async with AsyncExitStack() as stack:
            reader = Ledger.read(self._tree.root / FILE_NAME)
            stack.callback(reader.close)
            reader.set_busy_timeout(_READER_TIMEOUT_SECONDS)
            context, client = await self._open_context(stack, reader, budget, budgets)
            schedulers = await accounts.open(stack, context, client, self._tree.root, self._callbacks)
            if self._callbacks is not None:
                await stack.enter_async_context(self._callbacks.receiving(schedulers, context))
            await stack.enter_async_context(observed(self._counters, self._observer))
            signals = self._signals(context.stop, schedulers, before_exit) if handle_signals else nullcontext()
            with signals, rare_collections():
                await run_accounts(context, accounts.work(self._workload.pending(reader)), self._deadline)
                is_left = not context.stop.is_asked and accounts.is_anything_left()
        self._has_run = True
        self._cost_by_account.update({name: each.cost_of_run for name, each in budgets.items()})
        stopped = self._stats.stopped
        if stopped and not context.stop.is_asked and (is_left or LIVE & ledger.counts().keys()):
            context.stop.request(PoolStopped(stopped), grace=None)
        self._error = context.stop.reason
        self._cost += budget.cost_of_run
        self._cost_by_model.update(budget.run_cost_by_model)

    def _count(self) -> None:
        counters = self._counters
        counters.slots = counters.slots_in_use = 0
        counters.images_done = self._ledger.images_in_index()
        counters.jobs_wanted, images = self._workload.to_come(self._ledger)
        unknown = [attempt for attempt in self._resumed if attempt.status is Status.UNKNOWN]
        images += sum(attempt.job.parameters.n for attempt in unknown)
        counters.images_wanted = counters.images_done + images

    async def _open_context(
        self, stack: AsyncExitStack, reader: Ledger, budget: Budget, budgets: Mapping[str, Budget]
    ) -> tuple[Context, HttpClient]:
        from batchgen.http.client import HttpClient  # noqa: PLC0415 - aiohttp takes 0.1 s to load

        accounts, downloads = self._manifest.pool.accounts, self._manifest.run.downloads
        in_flight = connections(sum(map(max_units, accounts)) + _SPARE_CONNECTIONS, downloads)
        client = await stack.enter_async_context(HttpClient(in_flight))
        stop = Stop()
        writer = Writer(
            self._ledger,
            stack.enter_context(Reserve(self._tree.root, _reserved_bytes(accounts))),
            Rescue(lambda message: self._observer.on_message(message, "error")),
            on_refusal=lambda reason: stop.request(reason, grace=self._policy.grace),
        )
        await stack.enter_async_context(writer)
        storage = open_image_store(
            self._tree,
            self._manifest,
            writer=writer,
            reader=reader,
            gateways=client.gateways,
            workers=self._arguments.get("workers"),
            notify=self._observer.on_message,
        )
        context = Context(
            recorder=writer,
            storage=await stack.enter_async_context(storage),
            reader=reader,
            policy=self._policy,
            budget=budget,
            budgets=budgets,
            counters=self._counters,
            notify=self._observer.on_message,
            local_accounts=frozenset(name for name, known in self._manifest.accounts.items() if known.is_local_sandbox),
            stop=stop,
            stats=self._stats,
        )
        return context, client

    def _signals(
        self, stop: Stop, schedulers: Mapping[str, AccountScheduler], before_exit: Callable[[int, str], None] | None
    ) -> AbstractContextManager[None]:
        consequence = "nothing is lost either way"
        names = [account.name for account in self._manifest.pool.accounts]
        if unaskable := [name for name in names if not self._workload.can_find_lost_creates(name)]:
            which = "this account" if len(names) == 1 else f"the account {unaskable[0]!r}"
            consequence = (
                f"a task whose answer has not arrived is then marked `unknown`, because {which} cannot be queried"
            )
            if schedulers[unaskable[0]].finds_by_callback:
                consequence += " for it; a callback during a later run finds it all the same"
        return graceful_signals(
            stop,
            grace=self._policy.grace,
            consequence=consequence,
            notify=self._observer.on_message,
            before_exit=before_exit,
        )

    # --- after the jobs -----------------------------------------------------------------------------------

    def check(self) -> bool:
        """Let the manifest's checks look at new images; whether `make_images` is to make some anew now."""
        if not self._manifest.checks or not self._rounds.may_look(self._error):
            return False
        self._finish_files()  # the index is then right, however long the checks take
        self._resumed = []
        return self._rounds.look(self._ledger, self._stats.started) and self._error is None

    def _finish_files(self) -> None:
        """Put every file at its place, and write the views."""
        ledger, tree = self._ledger, self._tree
        if self._has_run:
            tree.check_in_place()
            reconcile.finish_moves(ledger, tree)  # what was cancelled between its record and its move
            self._retired += reconcile.retire(ledger, tree)
        manifest = self._manifest
        write_views(ledger, tree, escape_formulas=manifest.spreadsheet_safe, metadata=manifest.metadata)

    def _cost_by_each_model(self) -> dict[str, Decimal]:
        if self._unit is None:
            return {}
        return {model: Decimal(plain(cost)) for model, cost in self._cost_by_model.most_common() if cost}

    def finish(self) -> RunResult:
        """Finish the files and the ledger, and say how the run ended."""
        ledger, tree = self._ledger, self._tree
        self._finish_files()
        reconcile.record_disk(ledger, tree)
        if not ledger.cached_totals():  # else nothing has changed
            ledger.vacuum()
            tree.remove_empty_folders()
            ledger.cache_totals()
        tree.remove_scratch_if_empty()
        stats = self._stats
        return RunResult(
            output=tree.root,
            images=ledger.images_in_index(),
            jobs=self._workload.counts(ledger),
            started=stats.started,
            fetched=stats.fetched_jobs,
            unfinished=stats.unfinished,
            unfinished_reasons=tuple(stats.reasons),
            cost=Decimal(plain(self._cost)),
            cost_by_model=self._cost_by_each_model(),
            unit=self._unit,
            accounts=account_results(self._manifest.pool, stats, self._cost_by_account),
            retired=self._retired,
            watermarks_missing=stats.without_watermark,
            warnings=stats.warned,
            error=self._error,
            slot_times=stats.slot_times,
            checks=tuple(self._rounds.reports),
        )


def _reserved_bytes(accounts: Sequence[Account]) -> int:
    """Disk space kept free for what may arrive at one time: task ids and links, or images where answers hold them."""
    inline = sum(account.concurrency for account in accounts if not provider_class(account).can_query)
    return min(_RESERVED + _RESERVED_FOR_IMAGE * inline, _RESERVED_AT_MOST)


def _deadline(deadline: Deadline | datetime | timedelta | None) -> Deadline | None:
    if isinstance(deadline, datetime):
        return Deadline(at=deadline.timestamp(), clock=time.time)
    if isinstance(deadline, timedelta):
        return Deadline(at=time.monotonic() + deadline.total_seconds(), clock=time.monotonic)
    return deadline
