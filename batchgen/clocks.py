"""A clock that nobody can set, and that goes on while the machine sleeps."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def since_boot() -> float:
    """Seconds since the machine started, those in which it was suspended among them.

    `time.monotonic` and the event loop's timers stop meanwhile (on Linux and macOS).
    """
    for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"):  # Linux; macOS, where Python's monotonic is another clock
        if (clock := getattr(time, name, None)) is not None:
            return time.clock_gettime(clock)
    return time.monotonic()


def steady_wall() -> Callable[[], float]:
    """A clock of Unix seconds: right when it is made, and not moved where somebody sets the machine's clock.

    Times of one run can be compared, whatever happens to that clock.
    """
    began = time.time() - since_boot()
    return lambda: began + since_boot()
