"""Jobs against the ledger: what a run would make, reuse, take up again or leave, and why.

Streams: a million jobs pass through here without being held.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING

from batchgen.errors import CommandError
from batchgen.jobs import LIVE, PARAMETER_NAMES, Job, Status
from batchgen.matrix import expand
from batchgen.money import micros

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchgen.catalog import Prices
    from batchgen.ledger.questions import Questions, Standing
    from batchgen.ledger.store import Ledger
    from batchgen.manifest.model import Manifest

_PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What `--only KEY=VALUE` leaves: a job is in when, for every key given, one of its values matches."""

    wishes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Sequence[str], vars_known: Sequence[str]) -> Selection:
        """Read `--only` options. Raises CommandError for a key that no job has."""
        wishes: dict[str, tuple[str, ...]] = {}
        known = [*PARAMETER_NAMES, "prompt", "prompt_id", "job_id", *vars_known]
        for text in texts:
            key, found, value = text.partition("=")
            if not found or key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                meant = f" Did you mean {near[0]}?" if near else ""
                raise CommandError(
                    f"--only {text}: write KEY=VALUE with one of the keys {', '.join(sorted(known))}.{meant}"
                )
            wishes[key] = (*wishes.get(key, ()), value)
        return cls(wishes=wishes)

    def takes(self, job: Job) -> bool:
        """Whether the job is in. `*`, `?` and `[…]` in a value are wildcards."""
        return all(
            any(fnmatchcase(_value_of(job, key), wish) for wish in wishes) for key, wishes in self.wishes.items()
        )


def _value_of(job: Job, key: str) -> str:
    if key in job.labels:
        return job.labels[key]
    if key == "job_id":
        return job.id
    if key in {"prompt", "prompt_id"}:
        return str(getattr(job, key))
    if key == "image":
        image = job.parameters.image
        return "" if image is None else str(image.url or image.path)
    value = getattr(job.parameters, key, None)
    return "" if value is None else str(value)


def standings(manifest: Manifest, ledger: Questions) -> Iterator[tuple[Job, Standing]]:
    """Every wanted job once, in the manifest's order, with how it stands. The ledger holds the list of them."""
    numbered = enumerate(expand(manifest))
    while page := list(islice(numbered, _PAGE)):
        rows = {row.seq: row for row in ledger.page(page[0][0], page[-1][0] + 1)}
        for seq, job in page:
            if seq in rows:
                yield job, rows[seq]


@dataclass(slots=True, kw_only=True)
class Group:
    """Jobs of the plan that are alike; `cost` in millionths, of those whose price is known."""

    jobs: int = 0
    images: int = 0
    cost: int = 0
    unpriced: int = 0

    def add(self, job: Job, prices: Prices) -> None:
        """Count one job."""
        self.jobs += 1
        self.images += job.parameters.n
        price = micros(prices.of_task(job.parameters))
        if price is None:
            self.unpriced += 1
        else:
            self.cost += price


@dataclass(slots=True, kw_only=True)
class Plan:
    """What a run would do. `again`: begun by an earlier run, to be finished without a new create."""

    make: Group = field(default_factory=Group)
    make_by_model: dict[str, Group] = field(default_factory=dict)
    done: Group = field(default_factory=Group)
    again: Group = field(default_factory=Group)
    ended: dict[Status, Group] = field(default_factory=dict)
    retired_images: int = 0
    seconds: float | None = None  # at the account's limits; None where too little is known

    @property
    def anything_to_do(self) -> bool:
        """Whether a run would send anything."""
        return bool(self.make.jobs or self.again.jobs)


def survey(manifest: Manifest, ledger: Ledger, selection: Selection, limit: int | None = None) -> Plan:
    """Count what a run would do. The ledger is a preview: nothing is written."""
    plan = Plan()
    prices = manifest.account.prices
    ledger.preview_want(expand(manifest))
    for job, standing in standings(manifest, ledger):
        if not selection.takes(job):
            continue
        if standing.status is Status.PENDING:
            if limit is None or plan.make.jobs < limit:
                plan.make.add(job, prices)
                plan.make_by_model.setdefault(job.parameters.model, Group()).add(job, prices)
        elif standing.status is Status.DONE:
            plan.done.add(job, prices)
        elif standing.status in LIVE:
            plan.again.add(job, prices)
        else:
            plan.ended.setdefault(standing.status, Group()).add(job, prices)
    plan.retired_images = sum(1 for _ in ledger.images_to_retire())
    plan.seconds = _seconds(plan, manifest, ledger)
    return plan


def _seconds(plan: Plan, manifest: Manifest, ledger: Questions) -> float | None:
    """How long the account's limits make it take; the time of a task is what this output has seen."""
    account = manifest.account
    paced = plan.make.jobs * 60.0 / account.creates_per_minute if account.creates_per_minute else 0.0
    usual = ledger.usual_seconds()
    if usual is None:
        return paced or None
    return max(paced, usual * (plan.make.images + plan.again.images) / account.concurrency)


def unpriced(manifest: Manifest) -> set[tuple[str, str]]:
    """The (model, resolution) pairs of the manifest whose price is not known."""
    prices = manifest.account.prices
    seen: set[tuple[str, str]] = set()
    for job in expand(manifest):
        seen.add((job.parameters.model, job.parameters.resolution))
    return {pair for pair in seen if prices.of_image(*pair) is None}
