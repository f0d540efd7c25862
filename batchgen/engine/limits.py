"""What one account lets through: its slots, its rate and its gate, and what its answers change of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.engine.backoff import Gate
from batchgen.engine.concurrency import AdaptiveConcurrency
from batchgen.engine.outage import Outage
from batchgen.engine.rate import AdaptiveRate
from batchgen.engine.slots import FirstFit, Slots
from batchgen.engine.timings import Phase, SlotTime
from batchgen.errors import ProxyBusy, Throttled, TooFast, TooManyRunning

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from batchgen.catalog.catalog import Account
    from batchgen.engine.attempt import Attempt
    from batchgen.errors import BatchgenError, RunStopped


class SlotPermit:
    """The slots of one attempt, from its create until its task has ended. `give` may be called again."""

    __slots__ = ("_flow", "_phase", "sent", "units")

    def __init__(self, flow: AccountLimits, units: int) -> None:
        self._flow = flow
        self._phase: Phase | None = None
        self.units = units
        self.sent = 0.0  # by the monotonic clock
        flow.slots.take(units)
        self.enter(Phase.RECORDING)

    def enter(self, phase: Phase) -> None:
        """What holds the slots from now on."""
        self._flow.time.move(self.units, out_of=self._phase, into=phase)
        self._phase = phase

    def give(self) -> None:
        """The task has ended, or there is none."""
        units, self.units = self.units, 0
        if units:
            self._flow.time.move(units, out_of=self._phase, into=None)
            self._flow.given(self, units)


class AccountLimits:
    """Decides what may be sent now, and learns from each answer. `freed` is called when slots come free.

    `can_ask`: whether the account tells what became of a create; `say` gets what a watcher should know.
    """

    def __init__(
        self,
        account: Account,
        *,
        clock: Callable[[], float],
        chance: Random,
        give_up_after: float,
        can_ask: bool,
        say: Callable[[str], None],
        freed: Callable[[], None],
    ) -> None:
        self._capacity = AdaptiveConcurrency(account.concurrency, seeks=account.adaptive_concurrency, clock=clock)
        self.slots = Slots(self._capacity, freed)
        self.time = SlotTime(clock, lambda: self.slots.units)
        self.gate = Gate(clock, chance, give_up_after)
        self.outage = Outage(
            account.name, can_ask=can_ask, give_up_after=give_up_after, clock=clock, say=say, changed=freed
        )
        self._turn = FirstFit()
        self._pace = AdaptiveRate(clock)
        self._probe: SlotPermit | None = None

    def closed_for(self) -> float:
        """Seconds until the next create may be sent; 0 when it may now, slots permitting."""
        return max(self.gate.closed_for(), self._pace.closed_for())

    @property
    def rate(self) -> float | None:
        """Creates a second that the account seems to take; None while it has not refused any."""
        return self._pace.rate

    def choose(self, waiting: list[Attempt]) -> tuple[Attempt, SlotPermit] | None:
        """Take the next work that may go now out of `waiting`, with its slots; None where nothing may."""
        work = self._turn.choose(waiting, self.slots.free)
        if work is not None:
            return work, SlotPermit(self, work.units)
        if self._probe is None and waiting and self._may_probe(waiting[0]):
            work = waiting.pop(0)
            self._probe = SlotPermit(self, work.units)
            return work, self._probe
        return None

    def hold(self, units: int) -> SlotPermit:
        """Slots for what an earlier run began, whether or not there are any."""
        return SlotPermit(self, units)

    def _may_probe(self, work: Attempt) -> bool:
        in_use = self.slots.in_use
        return in_use == 0 or self._capacity.may_probe(in_use + work.units)

    def sent(self, hold: SlotPermit) -> None:
        """Its create leaves now."""
        hold.sent = self._pace.sent()

    def accepted(self, hold: SlotPermit) -> None:
        """Its create was taken."""
        self.gate.served()
        self._pace.accepted()
        self._capacity.accepted(self.slots.in_use, probe=hold is self._probe)
        self._forget(hold)

    def unclear(self, error: BatchgenError) -> RunStopped | None:
        """A create or a free question came to nothing; during an outage, that closes the gate."""
        return self.gate.refused(error) if self.outage.is_on else None

    def refused(self, hold: SlotPermit, error: BatchgenError) -> RunStopped | None:
        """Its create was not taken for now; the answer is a reason to stop, when that has lasted too long."""
        was_probe = hold is self._probe
        hold.give()
        retry_after = error.retry_after if isinstance(error, Throttled) else None
        closes = True
        if isinstance(error, TooManyRunning):
            is_full = self._capacity.refused(self.slots.in_use, probe=was_probe)
            # Where it is full, the next slot that comes free is enough to wait for.
            closes = not is_full or self.slots.in_use == 0 or retry_after is not None
        elif isinstance(error, TooFast) and not (isinstance(error, ProxyBusy) and self.outage.is_account_in_trouble):
            self._pace.refused(hold.sent)
        return self.gate.refused(error, retry_after=retry_after, closes=closes)

    def given(self, hold: SlotPermit, units: int) -> None:
        """Slots come back."""
        self._forget(hold)
        self.slots.give(units)

    def _forget(self, hold: SlotPermit) -> None:
        if hold is self._probe:
            self._probe = None
