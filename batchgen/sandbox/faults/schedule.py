"""When a fault is injected: by a rate for each fault, and a seed.

Whether a fault is injected follows from the seed, its name and the number of the occasion, so the same run meets the
same faults. The rate of one fault does not change when another is injected.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

from batchgen.errors import CommandError
from batchgen.sandbox.faults.table import FAMILIES, FAULTS, IN_ALL, Fault
from batchgen.sandbox.injector import Occasion

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultSettings:
    """The rate of each fault by its name, from 0 (never) to 1 (always). A fault that is not named is never injected."""

    rates: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, rate in self.rates.items():
            if name not in FAULTS:
                known = ", ".join((*IN_ALL, *FAMILIES))
                raise CommandError(f"Unknown fault {name!r}. The faults are: {known}.")
            if not 0 <= rate <= 1:
                raise CommandError(f"The rate of the fault {name} is {rate:g}. Give a number from 0 to 1.")

    @classmethod
    def parse(cls, text: str) -> FaultSettings:
        """Read `fail=0.02,drop_after=0.02`; `all` sets every fault of IN_ALL that is not named. Raises CommandError."""
        rates: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, equals, number = part.partition("=")
            try:
                rates[name.strip()] = float(number)
            except ValueError:
                detail = f"{number!r} is not a number" if equals else f"{part!r} has no rate"
                raise CommandError(f"{detail}. Write --faults as in fail=0.02,drop_after=0.02.") from None
        if (rate_of_all := rates.pop("all", None)) is not None:
            rates = dict.fromkeys(IN_ALL, rate_of_all) | rates
        return cls(rates=rates)


class FaultSchedule:
    """Decides on each occasion which fault is injected, if any."""

    def __init__(self, settings: FaultSettings, seed: int) -> None:
        self._seed = seed
        self._counts = dict.fromkeys(Occasion, 0)
        self._rates: dict[Occasion, list[tuple[Fault, float]]] = {occasion: [] for occasion in Occasion}
        for name, rate in settings.rates.items():
            self._rates[FAULTS[name].occasion].append((FAULTS[name], rate))

    def next(self, occasion: Occasion, number: int | None = None) -> Fault | None:
        """The fault to inject now, or None. `number` is that of the occasion; without it, occasions are counted."""
        if number is None:
            number = self._counts[occasion] = self._counts[occasion] + 1
        faults = self._rates[occasion]
        return next((fault for fault, rate in faults if _random(self._seed, fault.name, number) < rate), None)


def _random(seed: int, name: str, number: int) -> float:
    """A number in [0, 1) that follows from its arguments."""
    digest = blake2b(f"{seed}/{name}/{number}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56
