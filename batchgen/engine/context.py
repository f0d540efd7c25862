"""What the parts of one run share: the storage, the ledger for reading, the policy, the counters, time and the stop."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Protocol

from batchgen.clocks import steady_wall
from batchgen.engine.shutdown import Stop
from batchgen.ledger.events import redacted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from batchgen.budget import Budget
    from batchgen.catalog.accounts import Account
    from batchgen.engine.counters import Counters
    from batchgen.engine.timings import SlotTime
    from batchgen.errors import RunStopped
    from batchgen.jobs import ImageKey, Job, ReceivedImage
    from batchgen.ledger.events import Event
    from batchgen.ledger.reader import LedgerReader
    from batchgen.ledger.writer import Writer

_REASONS_KEPT = 5


class ImageStorage(Protocol):
    """Where images are kept. The engine opens no file: whoever starts it passes this in."""

    async def fetch(self, url: str, key: ImageKey, *, base_url: str, idle_timeout: float) -> ReceivedImage:
        """Download one image and check it: it is on disk then, not yet at its place. `idle_timeout`: without a byte.

        Raises LinkExpired, LinkRefused, ImageBroken, Unclear or NotSent where it does not arrive whole,
        TooFewDescriptors where this process may open no more files, and RunStopped where the disk refuses.
        """

    async def keep(self, job: Job, key: ImageKey, image: ReceivedImage, *, wanted: bool, warning: str) -> str:
        """Record the image, then put it at its place, and return that. Raises RunStopped where the disk refuses.

        `wanted`: whether the manifest asks for the job; if not, its name may be another job's by now.
        """

    async def retire_earlier(self, job_id: str, attempt: int) -> None:
        """Move the images of earlier attempts out of the way: nothing that was paid for is overwritten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPolicy:
    """What the manifest's `run` says; durations in seconds."""

    max_attempts: int
    task_timeout: float | None
    resend_unknown: bool
    retry_unknown: bool = False  # the user asks for it now: also where no attempt is left
    give_up_after: float
    grace: float


@dataclass(slots=True, kw_only=True)
class RunStats:
    """What this run did."""

    started: int = 0  # attempts that were sent
    started_at: Counter[str] = field(default_factory=Counter)  # the same by account
    made: Counter[str] = field(default_factory=Counter)  # images by account
    stopped: dict[str, RunStopped] = field(default_factory=dict)  # accounts of a pool that stopped early, and why
    fetched_jobs: int = 0
    unfinished: int = 0  # jobs that stay for the next run
    reasons: list[str] = field(default_factory=list)  # why jobs are unfinished, the first few
    slot_times: dict[str, SlotTime] = field(default_factory=dict)  # by account
    warned: int = 0  # images that have a warning
    without_watermark: int = 0  # images that came without the watermarked copy that was asked for

    def defer(self, reason: str, *, wanted: bool = True) -> None:
        """Count a job that stays as it is for the next run, unless the manifest no longer asks for it."""
        if not wanted:
            return
        self.unfinished += 1
        if len(self.reasons) < _REASONS_KEPT:
            self.reasons.append(reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One run. Clock, sleep and random numbers are here so that tests need not wait."""

    recorder: Writer
    storage: ImageStorage
    reader: LedgerReader
    policy: RunPolicy
    budget: Budget
    counters: Counters
    notify: Callable[[str], None]  # a line for whoever watches
    budgets: Mapping[str, Budget] = field(default_factory=dict)  # of accounts that have their own, by name
    local_accounts: frozenset[str] = frozenset()
    stop: Stop = field(default_factory=Stop)
    stats: RunStats = field(default_factory=RunStats)
    # Of each gateway, whose task ids several accounts may share, by its base_url:
    unanswered: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # creates, by external id
    called_owners: defaultdict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = field(default_factory=steady_wall)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    rng: Random = field(default_factory=Random)

    def is_local(self, account: str) -> bool:
        """Whether the account's gateway was started in this process, at an address of this run alone."""
        return account in self.local_accounts

    def address_of(self, account: Account) -> str:
        """The account's base_url as the ledger has it: empty where it is an address of this run alone."""
        return "" if self.is_local(account.name) else account.base_url

    def now_ms(self) -> int:
        return int(self.wall() * 1000)

    async def record(self, *events: Event, after_commit: Callable[[], None] | None = None) -> None:
        """Return when the events are on disk, and `then` was called. Raises RunStopped where the disk refuses.

        Text from outside enters the ledger here, and no key of ours with it.
        """
        await self.recorder.record(*map(redacted, events), after_commit=after_commit)
