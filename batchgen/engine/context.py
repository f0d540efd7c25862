"""What the parts of a run share: the ledger's two ends, the tree, the client, time, chance, and the stop."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from batchgen.engine.shutdown import Stop
from batchgen.ledger.events import redacted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from batchgen.catalog.catalog import Account
    from batchgen.engine.budget import Budget
    from batchgen.engine.counters import Counters
    from batchgen.engine.timings import SlotTime
    from batchgen.http.client import HttpClient
    from batchgen.http.downloads import Downloader
    from batchgen.jobs import Status
    from batchgen.ledger.events import Event
    from batchgen.ledger.reader import LedgerReader
    from batchgen.ledger.writer import Writer
    from batchgen.storage.paths import PathTemplate
    from batchgen.storage.tree import Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the manifest's `run` says; durations in seconds."""

    max_attempts: int
    task_timeout: float | None
    resend_unknown: bool
    give_up_after: float
    grace: float


@dataclass(slots=True, kw_only=True)
class RunStats:
    """What this run did."""

    begun: int = 0
    fetched_jobs: int = 0
    ended: dict[Status, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)  # why jobs are unfinished, the first few
    unfinished: int = 0
    slot_times: dict[str, SlotTime] = field(default_factory=dict)  # by account
    warned: int = 0  # images that have a warning
    unmarked: int = 0  # images that came without the watermarked copy that was asked for

    def leave(self, why: str, *, wanted: bool = True) -> None:
        """A job stays as it is for the next run; what the manifest no longer asks for does not count."""
        if not wanted:
            return
        self.unfinished += 1
        if len(self.left) < 5:
            self.left.append(why)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One run. Clock, sleep and chance are here so that tests need not wait."""

    writer: Writer
    reader: LedgerReader
    tree: Tree
    template: PathTemplate
    client: HttpClient
    downloader: Downloader
    rules: Rules
    budget: Budget
    counters: Counters
    downloads: asyncio.Semaphore
    writes: asyncio.Semaphore  # images that have come and are on their way to the disk
    say: Callable[[str], None]  # a line to whoever watches
    local_accounts: frozenset[str] = frozenset()
    stop: Stop = field(default_factory=Stop)
    stats: RunStats = field(default_factory=RunStats)
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Random = field(default_factory=Random)

    def is_local(self, account: str) -> bool:
        """Whether the account's gateway was started in this process, at an address of this run alone."""
        return account in self.local_accounts

    def address_of(self, account: Account) -> str:
        """The account's base_url as the ledger has it: empty where it is an address of this run alone."""
        return "" if self.is_local(account.name) else account.base_url

    def now_ms(self) -> int:
        """Unix time in milliseconds."""
        return int(self.wall() * 1000)

    async def record(self, *events: Event, then: Callable[[], None] | None = None) -> None:
        """Return when the events are on disk, and `then` was called. Raises RunStopped where the disk refuses.

        What came from elsewhere enters the ledger here, and no key of ours with it.
        """
        await self.writer.record(*map(redacted, events), then=then)
