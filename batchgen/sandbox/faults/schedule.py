"""Bad weather: faults that strike by chance, as a table; what each does is data, the server only looks it up.

Whether a fault strikes follows from the seed, its name and the number of the occasion, so that the same
run meets the same weather. Each fault has a chance of its own: one rate does not change another's hits.

`all` is the weather that a run must get over by itself. Beside it each code of the API's error table and each
status that gateways answer with in plain HTTP is a fault that strikes where it is named: most of them end a job
or stop an account, rightly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from typing import TYPE_CHECKING

from batchgen.errors import CommandError
from batchgen.sandbox.api_error import STATUS_OF

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


class Occasion(StrEnum):
    """When chance is asked."""

    CREATE_BEFORE = "create_before"  # a create has come and is not accepted yet
    CREATE_AFTER = "create_after"  # it is accepted (and will be billed), the answer is not sent yet
    TASK = "task"  # what becomes of an accepted task
    QUERY = "query"  # a question for one task or for the list
    IMAGE = "image"  # a download
    CALLBACK = "callback"  # a call to the user's own address


class Act(StrEnum):
    """What a fault does."""

    CUT = "cut"  # the connection is cut without an answer
    HANG = "hang"  # no answer comes; the connection stays open
    REFUSE = "refuse"  # an answer by the error table, with the fault's code
    PAGE = "page"  # an HTML page of a proxy in between
    FAIL = "fail"  # the task ends `failed`
    TRUNCATE = "truncate"  # the whole length is announced, half is sent, the connection is cut
    SHORTEN = "shorten"  # half the file, well framed, as a storage serves it that lost the rest
    CORRUPT = "corrupt"  # the right length, with damaged bytes inside
    EXPIRE = "expire"  # the link is answered with 404
    LOSE = "lose"  # a call is not made
    REPEAT = "repeat"  # a call is made twice
    DELAY = "delay"  # a call is made some time after the task's end
    SWAP = "swap"  # a call is made after the one that follows it
    INVENT = "invent"  # a call of nobody's, for a task that there is not, comes besides
    LIE = "lie"  # a call of nobody's, with a false end of the task, comes first


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of fault. `code` is of the API's error table, or an HTTP status for a page."""

    name: str
    occasion: Occasion
    act: Act
    about: str
    code: int = 0
    retry_after: int | None = None  # seconds that a refusal asks to wait
    named_only: bool = False  # `all` does not set it


def _fault(name: str, occasion: Occasion, act: Act, about: str, code: int = 0, retry_after: int | None = None) -> Fault:
    return Fault(name=name, occasion=occasion, act=act, about=about, code=code, retry_after=retry_after)


_BEFORE, _AFTER, _QUERY, _IMAGE = (
    Occasion.CREATE_BEFORE,
    Occasion.CREATE_AFTER,
    Occasion.QUERY,
    Occasion.IMAGE,
)

_TABLE = (
    _fault("drop_before", _BEFORE, Act.CUT, "a create's connection is cut, nothing was accepted"),
    _fault("error_before", _BEFORE, Act.REFUSE, "a create gets 500, nothing was accepted", 5000),
    _fault("page_before", _BEFORE, Act.PAGE, "a create gets a proxy's HTML 502, nothing was accepted", 502),
    _fault("hang_before", _BEFORE, Act.HANG, "a create gets no answer, nothing was accepted"),
    _fault("too_fast", _BEFORE, Act.REFUSE, "a create gets 429/1302", 1302),
    _fault("too_many", _BEFORE, Act.REFUSE, "a create gets 429/1303", 1303),
    _fault("too_fast_wait", _BEFORE, Act.REFUSE, "a create gets 429/1302 with Retry-After: 2", 1302, 2),
    _fault("too_many_wait", _BEFORE, Act.REFUSE, "a create gets 429/1303 with Retry-After: 2", 1303, 2),
    _fault("drop_after", _AFTER, Act.CUT, "a create is accepted, then its connection is cut"),
    _fault("error_after", _AFTER, Act.REFUSE, "a create is accepted, then gets 504", 5002),
    _fault("page_after", _AFTER, Act.PAGE, "a create is accepted, then gets a proxy's HTML 502", 502),
    _fault("hang", _AFTER, Act.HANG, "a create is accepted and never answered"),
    _fault("fail", Occasion.TASK, Act.FAIL, "a task ends as failed"),
    _fault("query_drop", _QUERY, Act.CUT, "a query's connection is cut"),
    _fault("query_error", _QUERY, Act.REFUSE, "a query gets 503", 5001),
    _fault("query_too_fast", _QUERY, Act.REFUSE, "a query gets 429/1302", 1302),
    _fault("query_page", _QUERY, Act.PAGE, "a query gets a proxy's HTML 502", 502),
    _fault("query_hang", _QUERY, Act.HANG, "a query gets no answer"),
    _fault("truncate", _IMAGE, Act.TRUNCATE, "a download breaks off in the middle"),
    _fault("shorten", _IMAGE, Act.SHORTEN, "a download is only the first half of the file"),
    _fault("corrupt", _IMAGE, Act.CORRUPT, "a download is damaged inside"),
    _fault("expire", _IMAGE, Act.EXPIRE, "an image's link is answered with 404"),
    _fault("image_page", _IMAGE, Act.PAGE, "a download is an HTML page with status 200", 200),
    _fault("image_drop", _IMAGE, Act.CUT, "a download's connection is cut at once"),
    _fault("image_hang", _IMAGE, Act.HANG, "a download never begins"),
    _fault("callback_lost", Occasion.CALLBACK, Act.LOSE, "a callback is not made"),
    _fault("callback_twice", Occasion.CALLBACK, Act.REPEAT, "a callback is made twice"),
    _fault("callback_late", Occasion.CALLBACK, Act.DELAY, "a callback comes a second after the task's end"),
    _fault("callback_disorder", Occasion.CALLBACK, Act.SWAP, "a callback comes after the one that follows it"),
    _fault("callback_forged", Occasion.CALLBACK, Act.INVENT, "a forged callback too, for a task that there is not"),
    _fault("callback_false", Occasion.CALLBACK, Act.LIE, "a forged callback too, with a false end of the task"),
)

# Each code of the error table, and each HTTP status of gateways that answer without a code.
_ONLY_TO_CREATES = frozenset({1300, 1301, 1303})
_PLAIN_STATUSES = (400, 401, 402, 403, 404, 405, 408, 413, 422, 429, 500, 502, 503, 504)
FAMILIES: Mapping[str, str] = {
    "refuse_CODE": "a create gets CODE of the error table, such as refuse_1101; nothing was accepted",
    "page_STATUS": f"a create gets an HTML page; STATUS is one of {' '.join(map(str, _PLAIN_STATUSES))}",
    "query_refuse_CODE": "a query gets CODE of the error table",
    "query_page_STATUS": "a query gets an HTML page with this status",
}


def _family(name: str, occasion: Occasion, act: Act, codes: Iterable[int]) -> Iterator[Fault]:
    stem, _, _ = name.rpartition("_")
    for code in codes:
        about = FAMILIES[name]
        yield Fault(name=f"{stem}_{code}", occasion=occasion, act=act, about=about, code=code, named_only=True)


_FAMILIES = (
    *_family("refuse_CODE", _BEFORE, Act.REFUSE, sorted(STATUS_OF)),
    *_family("page_STATUS", _BEFORE, Act.PAGE, _PLAIN_STATUSES),
    *_family("query_refuse_CODE", _QUERY, Act.REFUSE, sorted(STATUS_OF.keys() - _ONLY_TO_CREATES)),
    *_family("query_page_STATUS", _QUERY, Act.PAGE, _PLAIN_STATUSES),
)
FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in (*_TABLE, *_FAMILIES)}
OF_ALL = tuple(name for name, fault in FAULTS.items() if not fault.named_only)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultSettings:
    """How often each fault strikes (0 never, 1 always), by the fault's name; what is not named never does."""

    rates: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse names that are no faults and rates that are no chances."""
        for name, rate in self.rates.items():
            if name not in FAULTS:
                known = ", ".join((*OF_ALL, *FAMILIES))
                raise CommandError(f"The weather knows no fault {name!r}. It knows: {known}.")
            if not 0 <= rate <= 1:
                raise CommandError(f"The weather's rate of {name} is {rate:g}; give a number from 0 to 1.")

    @classmethod
    def parse(cls, text: str) -> FaultSettings:
        """Read `fail=0.02,drop_after=0.02`; the name `all` sets every fault of OF_ALL that is not named.

        Raises CommandError for what is not of this form.
        """
        rates: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, equals, number = part.partition("=")
            try:
                rates[name.strip()] = float(number)
            except ValueError:
                detail = f"{part!r} has no number" if equals else f"{part!r} has no rate"
                raise CommandError(f"The weather is written as fail=0.02,drop_after=0.02; {detail}.") from None
        if (everything := rates.pop("all", None)) is not None:
            rates = dict.fromkeys(OF_ALL, everything) | rates
        return cls(rates=rates)

    def on(self, occasion: Occasion) -> tuple[tuple[Fault, float], ...]:
        """The faults that can strike on this occasion, with their rates."""
        return tuple(
            (FAULTS[name], rate) for name, rate in self.rates.items() if rate > 0 and FAULTS[name].occasion is occasion
        )


class FaultSchedule:
    """FaultSettings with a seed: asked on each occasion, it says which fault strikes."""

    def __init__(self, weather: FaultSettings, seed: int) -> None:
        self._seed = seed
        self._possible = {occasion: weather.on(occasion) for occasion in Occasion}
        self._asked = dict.fromkeys(Occasion, 0)

    def next(self, occasion: Occasion, number: int | None = None) -> Fault | None:
        """The fault that strikes now, or None. `number` names the occasion; without it, they are counted."""
        if not self._possible[occasion]:
            return None
        if number is None:
            number = self._asked[occasion] = self._asked[occasion] + 1
        return next(self._striking(occasion, number), None)

    def _striking(self, occasion: Occasion, number: int) -> Iterator[Fault]:
        for fault, rate in self._possible[occasion]:
            if _chance(self._seed, fault.name, number) < rate:
                yield fault


def _chance(seed: int, name: str, number: int) -> float:
    """A number in [0, 1) that follows from its arguments."""
    digest = blake2b(f"{seed}/{name}/{number}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56
