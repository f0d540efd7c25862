"""When to try again, as arithmetic: nothing here waits; clock and random numbers are arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.errors import GatewayUnavailable, Throttled
from batchgen.formatting import duration

if TYPE_CHECKING:
    from random import Random

    from batchgen.engine.context import Context
    from batchgen.errors import BatchgenError

FIRST_SECONDS = 1.0  # the vendor asks for at least one second after 1303
LONGEST_SECONDS = 60.0


def backoff(times: int, rng: Random, *, asked: float | None = None) -> float:
    """Seconds to wait after the `times`-th refusal in a row (from 1): exponential, with jitter, never under a second.

    `asked` is the gateway's own Retry-After in seconds; it is a lower bound.
    """
    most = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** (times - 1))
    wait = max(FIRST_SECONDS, most * (0.5 + 0.5 * rng.random()))
    return max(wait, asked) if asked is not None else wait


def retry_after_of(error: BatchgenError) -> float | None:
    """The seconds that an answer asks to wait; None where it asks for none."""
    return error.retry_after if isinstance(error, Throttled) else None


def query_backoff(times: int, rng: Random, error: BatchgenError) -> float:
    """Seconds to wait before the next query after this error: as `backoff`, and never for ever."""
    return max(backoff(times, rng), min(retry_after_of(error) or 0.0, LONGEST_SECONDS))


def short_backoff(times: int, rng: Random) -> float:
    """Seconds to wait before the next try of what is free to repeat, a download say: as `backoff`, but sooner."""
    return min(30.0, 0.25 * 2.0 ** (times - 1)) * (0.5 + 0.5 * rng.random())


def query_timeout(times: int) -> float:
    """Seconds to wait for the answer to what is free to repeat, after `times` tries in a row that had none.

    Asking again soon costs nothing; a slot, or a place among the downloads, that waits a minute for nobody does.
    """
    return min(LONGEST_SECONDS, 10.0 * 2.0**times)


class Backoff:
    """Refusals of one account, by the monotonic clock. They use up no attempts."""

    def __init__(self, context: Context) -> None:
        self._clock = context.clock
        self._rng = context.rng
        self._give_up_after = context.policy.give_up_after
        self._in_a_row = 0
        self._since: float | None = None
        self._opens = 0.0

    def succeeded(self) -> None:
        self._in_a_row = 0
        self._since = None

    def refused(self, error: BatchgenError, *, closes: bool = True) -> GatewayUnavailable | None:
        """Note a refusal, and wait after it where it `closes`.

        The answer is a reason to stop when there was no success for too long.
        """
        now, retry_after = self._clock(), retry_after_of(error)
        if self._since is None:
            self._since = now
        if retry_after is not None and retry_after > self._give_up_after:
            return GatewayUnavailable(
                f"The gateway asks to wait {retry_after:.0f} s, longer than run.give_up_after: {error} Run again later."
            )
        # Tasks in flight are refused together: refusals during the wait are one refusal.
        if closes and now >= self._opens:
            self._in_a_row += 1
            self._opens = now + backoff(self._in_a_row, self._rng, asked=retry_after)
        elif retry_after is not None:
            self._opens = max(self._opens, now + retry_after)
        return gave_up(self._give_up_after, error) if now - self._since >= self._give_up_after else None

    def closed_for(self) -> float:
        """Seconds until the next create may be sent; 0 when it may now."""
        return max(0.0, self._opens - self._clock())


def gave_up(seconds: float, last: BatchgenError) -> GatewayUnavailable:
    """The reason to stop where nothing succeeded for so long."""
    return GatewayUnavailable(
        f"No success for {duration(seconds)} (run.give_up_after); the last refusal: {last} Run again to continue."
    )
