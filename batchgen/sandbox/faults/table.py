"""The faults that can be injected, as a table: when each is injected, and what it does.

`all` stands for the faults that a run has to survive by itself. Each code of the API's error table and each HTTP status
that gateways answer with are faults as well, but only where they are named: most of them end a job or stop an account,
rightly.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from batchgen.sandbox.api_error import STATUS_OF
from batchgen.sandbox.injector import Occasion

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


class Act(StrEnum):
    CUT = "cut"  # the connection is cut without an answer
    HANG = "hang"  # there is no answer; the connection stays open
    REFUSE = "refuse"  # the answer is an error with the fault's code
    PAGE = "page"  # the answer is a proxy's HTML page
    FAIL = "fail"  # the task ends `failed`
    TRUNCATE = "truncate"  # the whole length is announced, half is sent, then the connection is cut
    SHORTEN = "shorten"  # half of the file as a complete answer
    CORRUPT = "corrupt"  # the right length, with damaged bytes inside
    EXPIRE = "expire"  # the link is answered with 404
    LOSE = "lose"  # the callback is not sent
    REPEAT = "repeat"  # the callback is sent twice
    DELAY = "delay"  # the callback is sent some time after the task's end
    SWAP = "swap"  # the callback is sent after the next one
    INVENT = "invent"  # a forged callback for a task that does not exist is sent too
    LIE = "lie"  # a forged callback with a false end of the task is sent first


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault. `code` is of the API's error table, or an HTTP status for a page."""

    name: str
    occasion: Occasion
    act: Act
    description: str
    code: int = 0
    retry_after: int | None = None  # seconds that a refusal asks to wait
    named_only: bool = False  # `all` does not include it


_BEFORE, _AFTER, _QUERY, _IMAGE = Occasion.CREATE_BEFORE, Occasion.CREATE_AFTER, Occasion.QUERY, Occasion.IMAGE

_TABLE = (
    Fault("drop_before", _BEFORE, Act.CUT, "a create's connection is cut, nothing was accepted"),
    Fault("error_before", _BEFORE, Act.REFUSE, "a create gets 500, nothing was accepted", 5000),
    Fault("page_before", _BEFORE, Act.PAGE, "a create gets a proxy's HTML 502, nothing was accepted", 502),
    Fault("hang_before", _BEFORE, Act.HANG, "a create gets no answer, nothing was accepted"),
    Fault("too_fast", _BEFORE, Act.REFUSE, "a create gets 429/1302", 1302),
    Fault("too_many", _BEFORE, Act.REFUSE, "a create gets 429/1303", 1303),
    Fault("too_fast_wait", _BEFORE, Act.REFUSE, "a create gets 429/1302 with Retry-After: 2", 1302, 2),
    Fault("too_many_wait", _BEFORE, Act.REFUSE, "a create gets 429/1303 with Retry-After: 2", 1303, 2),
    Fault("drop_after", _AFTER, Act.CUT, "a create is accepted, then its connection is cut"),
    Fault("error_after", _AFTER, Act.REFUSE, "a create is accepted, then gets 504", 5002),
    Fault("page_after", _AFTER, Act.PAGE, "a create is accepted, then gets a proxy's HTML 502", 502),
    Fault("hang", _AFTER, Act.HANG, "a create is accepted and never answered"),
    Fault("fail", Occasion.TASK, Act.FAIL, "a task ends as failed"),
    Fault("query_drop", _QUERY, Act.CUT, "a query's connection is cut"),
    Fault("query_error", _QUERY, Act.REFUSE, "a query gets 503", 5001),
    Fault("query_too_fast", _QUERY, Act.REFUSE, "a query gets 429/1302", 1302),
    Fault("query_page", _QUERY, Act.PAGE, "a query gets a proxy's HTML 502", 502),
    Fault("query_hang", _QUERY, Act.HANG, "a query gets no answer"),
    Fault("truncate", _IMAGE, Act.TRUNCATE, "a download is cut in the middle"),
    Fault("shorten", _IMAGE, Act.SHORTEN, "a download is only the first half of the file"),
    Fault("corrupt", _IMAGE, Act.CORRUPT, "a download is damaged inside"),
    Fault("expire", _IMAGE, Act.EXPIRE, "a download gets 404"),
    Fault("image_page", _IMAGE, Act.PAGE, "a download is an HTML page with status 200", 200),
    Fault("image_drop", _IMAGE, Act.CUT, "a download's connection is cut at once"),
    Fault("image_hang", _IMAGE, Act.HANG, "a download gets no answer"),
    Fault("callback_lost", Occasion.CALLBACK, Act.LOSE, "a callback is not sent"),
    Fault("callback_twice", Occasion.CALLBACK, Act.REPEAT, "a callback is sent twice"),
    Fault("callback_late", Occasion.CALLBACK, Act.DELAY, "a callback is sent a second after the task's end"),
    Fault("callback_disorder", Occasion.CALLBACK, Act.SWAP, "a callback is sent after the next one"),
    Fault("callback_forged", Occasion.CALLBACK, Act.INVENT, "a forged callback for an unknown task is sent too"),
    Fault("callback_false", Occasion.CALLBACK, Act.LIE, "a forged callback with a false end of the task is sent too"),
)

# Each code of the error table, and each HTTP status that gateways answer with.
_ONLY_TO_CREATES = frozenset({1300, 1301, 1303})
_PLAIN_STATUSES = (400, 401, 402, 403, 404, 405, 408, 413, 422, 429, 500, 502, 503, 504)
FAMILIES: Mapping[str, str] = {
    "refuse_CODE": "a create gets this code of the error table, as in refuse_1101; nothing was accepted",
    "page_STATUS": f"a create gets an HTML page; STATUS is one of {' '.join(map(str, _PLAIN_STATUSES))}",
    "query_refuse_CODE": "a query gets this code of the error table",
    "query_page_STATUS": "a query gets an HTML page with this status",
}


def _family(name: str, occasion: Occasion, act: Act, codes: Iterable[int]) -> Iterator[Fault]:
    stem, _, _ = name.rpartition("_")
    for code in codes:
        yield Fault(f"{stem}_{code}", occasion, act, FAMILIES[name], code, named_only=True)


_FAMILIES = (
    *_family("refuse_CODE", _BEFORE, Act.REFUSE, sorted(STATUS_OF)),
    *_family("page_STATUS", _BEFORE, Act.PAGE, _PLAIN_STATUSES),
    *_family("query_refuse_CODE", _QUERY, Act.REFUSE, sorted(STATUS_OF.keys() - _ONLY_TO_CREATES)),
    *_family("query_page_STATUS", _QUERY, Act.PAGE, _PLAIN_STATUSES),
)
FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in (*_TABLE, *_FAMILIES)}
IN_ALL = tuple(name for name, fault in FAULTS.items() if not fault.named_only)
