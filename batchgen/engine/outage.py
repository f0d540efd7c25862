"""Whether an account accepts creates now. Where it does not, one at a time is tried, for a limited time.

An outage starts when several creates in a row reached nobody, or got no clear answer, and none was accepted. It is the
account's fault and no job's: it uses up no attempts. At an account that cannot be asked what became of a create, each
try may leave one more job unknown, so only a few are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.engine.retry import gave_up
from batchgen.errors import GatewayUnavailable, NotSent, ProxyBusy, Unclear
from batchgen.formatting import duration

if TYPE_CHECKING:
    import asyncio

    from batchgen.engine.context import Context
    from batchgen.errors import BatchgenError

_TROUBLES = 3  # creates in a row
_IN_DOUBT = 3  # creates in flight or lost at an account that cannot be asked, before it has accepted one
_TRIES_IN_DOUBT = 2  # creates that may be lost there during an outage


class Outage:
    """What became of the last creates of one account in this run; times are seconds of the monotonic clock.

    The user is notified when an outage begins and when it ends; `wake` is set when more may be sent than before.
    """

    def __init__(
        self,
        context: Context,
        account: str,
        *,
        can_ask: bool,
        wake: asyncio.Event,
    ) -> None:
        self._account = account
        self._can_ask = can_ask
        self._give_up_after = context.policy.give_up_after
        self._clock = context.clock
        self._notify = context.notify
        self._wake = wake
        self._creating: set[str] = set()
        self._troubled: list[str] = []  # jobs whose creates had trouble since the last that was accepted
        self._since = 0.0  # when the first of them did
        self._latest = 0.0  # when the last did
        self._began = 0.0  # when the outage was declared
        self._accepted_at = float("-inf")
        self._lost = 0  # tries in doubt
        self._error: BatchgenError | None = None
        self.accepted = 0
        self.is_on = False

    # --- what happens -------------------------------------------------------------------------------------

    def sent(self, external_id: str) -> None:
        self._creating.add(external_id)

    def answered(self, external_id: str) -> None:
        """Its answer has come, whatever it says, or it was not sent."""
        if external_id in self._creating:
            self._creating.remove(external_id)
            self._wake.set()

    def create_accepted(self) -> None:
        self.accepted += 1
        self._accepted_at = self._clock()
        self._end()

    def refused(self) -> None:
        """The gateway itself refused a create: it is there, and reads what is sent."""
        self._end()

    def troubled(self, job_id: str, error: BatchgenError, *, sent: float) -> None:
        """A create that was sent at this time reached nobody, or got no clear answer."""
        now = self._clock()
        if sent < self._accepted_at:
            return  # it was in flight together with one that was accepted
        if isinstance(error, ProxyBusy) and self._troubled and sent < self._latest:
            return  # they were too many at once, which is one refusal
        if not self._troubled:
            self._since = now
        self._troubled.append(job_id)
        self._latest, self._error = now, error
        if self.is_on:
            self._lost += isinstance(error, Unclear) and sent >= self._began  # others were in flight already
            return
        # One job that fails at the server each time is no outage where others are accepted.
        is_one_jobs = isinstance(error, Unclear) and self.accepted > 0 and len(self.jobs) < _TROUBLES
        enough = 1 if isinstance(error, NotSent) and not self.accepted else _TROUBLES  # reports a wrong address at once
        self.is_on = len(self._troubled) >= enough and not is_one_jobs
        if self.is_on:
            self._began = now
            self._notify(
                f"The account {self._account!r} accepts nothing: {str(error).rstrip('.')}. Retrying for at most"
                f" {duration(self._give_up_after)} (run.give_up_after), one job at a time; this uses up no attempts."
            )

    def probe_failed(self, error: BatchgenError) -> None:
        """A probe, which costs nothing, had no answer either."""
        self._error = error

    def _end(self) -> None:
        self._troubled.clear()
        self._lost = 0
        if self.is_on:
            self.is_on = False
            self._notify(f"The account {self._account!r} answers again.")
        self._wake.set()

    # --- what follows -------------------------------------------------------------------------------------

    @property
    def jobs(self) -> set[str]:
        """Those whose creates had trouble since the last that was accepted."""
        return set(self._troubled)

    @property
    def is_creating(self) -> bool:
        """Whether a create is in flight, or about to be."""
        return bool(self._creating)

    @property
    def is_account_in_trouble(self) -> bool:
        """Whether what was lost lately is more likely the account's fault than a job's."""
        return self.is_on or bool(self._troubled and not self.accepted)

    def may_send(self) -> bool:
        """Whether one more create may be sent."""
        if self.is_on or not self._creating:
            return not self._creating
        if self._can_ask or (self.accepted and not self._troubled):
            return True
        return len(self._creating) + len(self._troubled) < _IN_DOUBT

    def reason_to_stop(self) -> GatewayUnavailable | None:
        """Why the run is to end, if it is: for too long, or with too many creates lost for good."""
        if not self.is_on or self._error is None:
            return None
        if self._clock() - self._since >= self._give_up_after:
            return gave_up(self._give_up_after, self._error)
        if not self._can_ask and self._lost >= _TRIES_IN_DOUBT:
            return GatewayUnavailable(
                f"The last {len(self._troubled)} creates had no clear answer, and the account {self._account!r} cannot"
                f" be asked what became of them, so no more are sent: {str(self._error).rstrip('.')}."
                " Run again when the gateway answers; --retry-unknown sends unknown jobs once more."
            )
        return None

    def gives_up_in(self) -> float | None:
        """Seconds until that is so by the clock; None where there is no outage."""
        return max(0.0, self._since + self._give_up_after - self._clock()) if self.is_on else None


def is_trouble(error: BatchgenError) -> bool:
    """Whether an answer to a create says that nobody was there, or nothing at all."""
    return isinstance(error, NotSent | Unclear | ProxyBusy)
