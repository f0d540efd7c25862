"""When to try again, as arithmetic: nothing here waits; clock and random numbers are arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.errors import GatewayUnavailable

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


def short_backoff(times: int, rng: Random) -> float:
    """Seconds to wait before the next try of what is free to repeat, a download say: as `backoff`, but sooner."""
    return min(30.0, 0.25 * 2.0 ** (times - 1)) * (0.5 + 0.5 * rng.random())


def query_timeout(times: int) -> float:
    """Seconds to wait for the answer to what is free to repeat, after `times` tries in a row that had none.

    Asking again soon costs nothing; a slot, or a place among the downloads, that waits a minute for nobody does.
    """
    return min(LONGEST_SECONDS, 10.0 * 2.0**times)


def next_query(elapsed: float) -> float:
    """Seconds until a running task is worth asking for again, before anything is known of how long tasks take.

    `elapsed`: since it was accepted. Queries are free, but not for nothing: ever more rarely.
    """
    return min(15.0, max(0.25, 0.12 * elapsed))


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
        """The account did as it was asked."""
        self._in_a_row = 0
        self._since = None

    def refused(
        self, error: BatchgenError, *, retry_after: float | None = None, closes: bool = True
    ) -> GatewayUnavailable | None:
        """Note a refusal, and wait after it where it `closes`.

        The answer is a reason to stop when there was no success for too long.
        """
        now = self._clock()
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
    time = f"{seconds / 60:.3g} minutes" if seconds >= 60 else f"{seconds:.3g} s"
    return GatewayUnavailable(
        f"No success for {time} (run.give_up_after); the last refusal: {last} Run again to continue."
    )
