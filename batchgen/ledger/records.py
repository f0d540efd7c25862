"""The answers of the ledger: one value for each row that a query returns."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from batchgen.jobs import ImageKey, Job, Status
from batchgen.ledger.events import Outcome
from batchgen.storage import paths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

T = TypeVar("T")
Scores: TypeAlias = Mapping[str, float]


class Mark(StrEnum):
    """What was decided about an image. A person's word is stronger than a check's; of checks, a rejection."""

    NONE = ""
    KEEP = "keep"
    REJECT = "reject"
    STAR = "star"  # kept, and one of the best


def _scores(text: str) -> Scores:
    """From `{"blank@1": {"contrast": 0.2}}`: of two versions of a check, the later one by name counts."""
    by_check = json.loads(text)
    return {
        f"{check.partition('@')[0]}.{name}": float(value)
        for check in sorted(by_check)
        for name, value in by_check[check].items()
    }


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "bool": bool,
    "Status": Status,
    "Outcome": Outcome,
    "Mark": Mark,
    "Scores": lambda text: _scores(text) if text else {},
}


def read_rows(kind: Callable[..., T], rows: Iterable[Sequence[Any]]) -> Iterator[T]:
    """Each row as a `kind`, whose fields are in the order of the columns; a job takes two columns, id and request."""
    types = [str(field.type) for field in fields(cast(Any, kind))]
    has_job = "Job" in types  # it is the first field
    conversions = [(at, _CONVERSIONS[name]) for at, name in enumerate(types) if name in _CONVERSIONS]
    for row in rows:
        values = [Job.from_json(row[0], row[1]), *row[2:]] if has_job else list(row)
        for at, convert in conversions:
            values[at] = convert(values[at])
        yield kind(*values)


@dataclass(frozen=True, slots=True)
class JobState:
    """The state of a wanted job; `status` is pending where the ledger has no row of it."""

    seq: int
    job_id: str
    status: Status
    attempt: int
    failures: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    """The latest attempt of a job. Times in Unix ms."""

    job: Job
    status: Status
    attempt: int
    failures: int
    account: str
    base_url: str  # the address that it was sent to
    external_id: str
    task_id: str | None
    intended_at: int
    accepted_at: int | None
    wanted: bool  # whether the manifest still asks for the job
    id_sent: bool  # whether its create carried external_id
    key_print: str  # fingerprint of the key that it was sent with; empty where that is not known
    reserved: int | None  # the price when it was sent, in millionths; None: not known
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class IndexRow:
    """What a row of index.csv is made of. Times in Unix ms, cost of the whole task in millionths."""

    job: Job
    index: int
    path: str
    sha256: str
    bytes: int
    width: int
    height: int
    account: str
    task_id: str
    attempts: int
    submitted_at: int | None
    finished_at: int | None
    cost: int | None
    delivered: int
    warning: str
    mark: Mark
    note: str  # why it has that mark
    scores: Scores  # numbers by check and name, such as `blank.contrast`

    @property
    def share(self) -> int | None:
        """The image's share of its task's cost, in millionths; the shares of a task sum to its cost exactly."""
        if self.cost is None:
            return None
        share, rest = divmod(self.cost, self.delivered)
        return share + (self.index < rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMark:
    """What a reviewer says of an image. `mark` and `note` None leave what is there as it is."""

    sha256: str
    mark: Mark | None = None
    note: str | None = None
    reviewer: str = ""  # a person; else a check with its version
    scores: Scores = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UncheckedImage:
    """An image of which a check has said nothing. `seq` is its job's position in the manifest."""

    job: Job
    seq: int
    index: int
    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class FailureRow:
    """What a row of failures.csv is made of."""

    job: Job
    status: Status
    code: str
    message: str
    attempts: int
    task_id: str
    account: str


@dataclass(frozen=True, slots=True)
class Spent:
    """What was paid or may have to be paid so far: charges, else reservations, of attempts not known unpaid."""

    images: int
    cost: int  # millionths
    unpriced: int  # tasks without a known price
    reserved: int = 0  # millionths: the part of the cost that no charge has settled


@dataclass(frozen=True, slots=True)
class Payment:
    """One attempt. `images` were asked for, `delivered` are here; `cost` in millionths, None where not known."""

    job_id: str
    number: int
    account: str
    external_id: str
    task_id: str
    outcome: Outcome
    found: bool  # its task was found by a query: the answer to the create was never seen
    images: int
    delivered: int
    cost: int | None
    intended_at: int  # Unix ms
    job_status: Status
    replaces: bool  # it was asked for in place of rejected images

    @property
    def is_paid(self) -> bool:
        """Whether the gateway made it, as far as is known. A lost task was accepted, and counts."""
        return self.outcome in {Outcome.MADE, Outcome.LOST}


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image's file as the ledger knows it."""

    job_id: str
    attempt: int
    index: int
    watermarked: bool
    path: str
    sha256: str
    bytes: int
    mtime_ns: int
    last_attempt: bool  # of the job's latest attempt that delivered
    only_copy: bool  # it came inside an answer: it cannot be downloaded again
    lost_sha256: str | None  # the hash that it had before its file was lost or replaced

    @property
    def key(self) -> ImageKey:
        """What identifies the image."""
        return ImageKey(self.job_id, self.attempt, self.index, int(self.watermarked))

    def retired_path(self, suffix: str = "") -> str:
        """Its path under `retired/`, which no image of another attempt of its job has."""
        stem, ext = os.path.splitext(paths.retired(self.path, self.job_id))  # noqa: PTH122 - paths are text
        attempt = "" if self.last_attempt else f"-attempt{self.attempt}"
        return f"{stem}{attempt}{'-watermarked' if self.watermarked else ''}{suffix}{ext}"
