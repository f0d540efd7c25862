"""Finds images of an output that its ledger does not record: the ledger is then an old copy, or lost its `-wal` file.

They are rows of `index.csv`, and files at the names of jobs that are still to be made: both were paid for once.
"""

from __future__ import annotations

import csv
import json
import os
from contextlib import suppress
from datetime import datetime
from decimal import Decimal, InvalidOperation
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from batchgen.errors import CommandError, ImageBroken
from batchgen.jobs import PARAMETER_NAMES, ImageKey, Job, Parameters, Reference, Status, further_of, job_id
from batchgen.ledger.adoption import Delivery
from batchgen.ledger.events import Fetched
from batchgen.ledger.store import VIEWS_STAMP
from batchgen.money import micros
from batchgen.reconcile.files import files_below
from batchgen.reports.index import INDEX, views_stamp
from batchgen.storage.paths import IMAGES, is_inside
from batchgen.storage.tree import read_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from batchgen.ledger.store import Ledger
    from batchgen.storage.paths import PathTemplate

_BATCH = 500
_ADVICE = (
    "Nothing was sent. Put the ledger of this output back; or let `batchgen audit MANIFEST --adopt` add what index.csv,"
    " the files and the gateway know, unpaid."
)
_WITHOUT_TASK = frozenset({Status.PENDING, Status.INTENT, Status.UNKNOWN})
_FAILED = frozenset({Status.FAILED, Status.REJECTED})
Row = dict[str, str]


# --- before a run -------------------------------------------------------------------------------------------


def check_index_is_known(ledger: Ledger, root: Path) -> None:
    """Raise CommandError where index.csv has images that the ledger does not know; not read where it is current."""
    stamps = [views_stamp(root, escape_formulas=escaped) for escaped in (False, True)]
    if None in stamps or ledger.meta(VIEWS_STAMP) in stamps:
        return
    unknown = unknown_rows(ledger, root)
    if (first := next(unknown, None)) is not None:
        number = 1 + sum(1 for _ in unknown)
        raise CommandError(
            f"{root / INDEX} has {number} {'image' if number == 1 else 'images'} that the ledger does not know, such as"
            f" {first.get('file_name')}: the ledger is older than the index. {_ADVICE}"
        )


def check_names_are_free(
    ledger: Ledger, root: Path, template: PathTemplate, jobs: Callable[[], Iterable[Job]], *, retry_failed: bool
) -> None:
    """Raise CommandError where a file already has the name that a job still to be made would give its image."""
    for job, files in files_of_pending(ledger, root, template, jobs, failed=retry_failed):
        path = min(files.values())
        raise CommandError(
            f"{root / path} has the name of an image of the job {job.id}, which was never made according to the ledger."
            f" {_ADVICE} If the file is your own, or damaged, move it out of {root / IMAGES}"
        )


# --- what is unrecorded ------------------------------------------------------------------------------------------


def unknown_rows(ledger: Ledger, root: Path) -> Iterator[Row]:
    """The rows of index.csv whose image the ledger does not know."""
    rows = _rows(root)
    while batch := list(islice(rows, _BATCH)):
        known = ledger.known_images(sorted({row["job_id"] for row in batch}))
        yield from (row for row in batch if (row["job_id"], int(row["image_index"])) not in known)


def files_of_pending(
    ledger: Ledger, root: Path, template: PathTemplate, jobs: Callable[[], Iterable[Job]], *, failed: bool
) -> Iterator[tuple[Job, dict[int, str]]]:
    """Jobs that are still to be made, with the files that have their names, by image index.

    `failed`: also those that have failed or were rejected.
    """
    files = [path for path in files_below(root, IMAGES) if not path.rpartition("/")[2].startswith(".")]
    if len(files) <= ledger.count_in_place():
        return  # they are the images of the ledger
    stems = {os.path.splitext(path)[0]: path for path in files}  # noqa: PTH122 - paths are text
    for job in jobs():
        found: dict[int, str] = {}
        for index in range(job.parameters.n):
            stem = os.path.splitext(template.render(job, index, ".png"))[0]  # noqa: PTH122
            if stem in stems:
                found[index] = stems[stem]
        if found and _is_to_be_made(ledger, job, found, _WITHOUT_TASK | (_FAILED if failed else frozenset())):
            yield job, found


def _is_to_be_made(ledger: Ledger, job: Job, found: dict[int, str], statuses: frozenset[Status]) -> bool:
    """Whether the job may be sent again, and the files are not those of its earlier attempts."""
    latest = ledger.latest_attempt(job.id)
    if latest is None:
        return True
    own = {image.path for image in ledger.earlier_images(job.id, latest.attempt + 1)}
    return latest.status in statuses and not own.issuperset(found.values())


# --- as deliveries ------------------------------------------------------------------------


def deliveries_of_index(
    ledger: Ledger, root: Path, base_url: Callable[[str], str], jobs: Callable[[], Iterable[Job]]
) -> Iterator[Delivery | Row]:
    """The unknown rows as deliveries, one for each job; a row as it is, where its job is not known."""
    rows = sorted(unknown_rows(ledger, root), key=lambda row: row["job_id"])
    foreign = {row["job_id"] for row in rows if _job_of(row) is None}
    wanted = {job.id: job for job in jobs() if job.id in foreign} if foreign else {}
    for id_, of_job in groupby(rows, key=lambda row: row["job_id"]):
        group = list(of_job)
        job = _job_of(group[0]) or wanted.get(id_)
        if job is None:
            yield from group
            continue
        yield _delivery(job, group, root, base_url(group[0]["provider"]))


def delivery_of_files(job: Job, files: dict[int, str], root: Path, account: str, base_url: str, at: int) -> Delivery:
    """Images that are recognised by their names alone."""
    whole = [found for index, path in files.items() if (found := _image(root, path, ImageKey(job.id, 1, index, 0), at))]
    return Delivery(
        job=job,
        account=account,
        base_url=base_url,
        submitted_at=at,
        finished_at=at,
        indexes=tuple(found.key.image_index for found in whole),
        files=tuple(whole),
    )


def _delivery(job: Job, rows: list[Row], root: Path, base_url: str) -> Delivery:
    first = rows[0]
    attempt = max(1, int(first["attempts"] or 1))
    files = [
        (
            row,
            _image(
                root, row["file_name"], ImageKey(job.id, attempt, int(row["image_index"]), 0), _ms(row["finished_at"])
            ),
        )
        for row in rows
    ]
    costs = [cost for row in rows if (cost := _cost(row["cost"])) is not None]
    return Delivery(
        job=job,
        attempt=attempt,
        account=first["provider"],
        base_url=base_url,
        task_id=first["task_id"],
        submitted_at=_ms(first["submitted_at"]),
        finished_at=max(_ms(row["finished_at"]) for row in rows),
        cost=sum(costs) if len(costs) == len(rows) else None,
        indexes=tuple(int(row["image_index"]) for row in rows),
        files=tuple(found for row, found in files if found and found.image.sha256 == row["sha256"]),
    )


def _image(root: Path, path: str, key: ImageKey, at: int) -> Fetched | None:
    """The file, or None where it is missing or no whole image."""
    with suppress(OSError, ImageBroken):
        if is_inside(path) and path.startswith(IMAGES):
            return Fetched(key=key, path=path, image=read_image(root / path), at=at)
    return None


def _rows(root: Path) -> Iterator[Row]:
    """The rows that name an image of a job; a file with other columns has none."""
    try:
        with (root / INDEX).open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file, restval=""):
                if row.get("job_id") and str(row.get("image_index")).isdecimal():
                    yield row
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CommandError(f"{root / INDEX} cannot be read ({error}). Move it away to go on without it.") from error


def _job_of(row: Row) -> Job | None:
    """The job of a row; None where its id is not that of the request in the row."""
    try:
        rest: dict[str, Any] = json.loads(row["params"])
        repeat, labels = int(rest.pop("repeat", 0)), rest.pop("vars", {})
        if identity := rest.pop("image", None):
            kind, _, value = str(identity).partition(":")
            rest["image"] = Reference(**{kind: value})
        further = further_of({name: rest.pop(name) for name in [*rest] if name not in PARAMETER_NAMES})
        parameters = Parameters(
            model=row["model"],
            aspect_ratio=row["aspect_ratio"],
            resolution=row["resolution"],
            negative_prompt=row["negative_prompt"] or None,
            further=further,
            **rest,
        )
        if job_id(row["prompt"], parameters.digest(), repeat) != row["job_id"]:
            return None
        return Job(
            id=row["job_id"],
            prompt=row["prompt"],
            parameters=parameters,
            prompt_id=row["prompt_id"],
            repeat=repeat,
            labels=labels,
        )
    except (KeyError, TypeError, ValueError):
        return None


def _cost(text: str) -> int | None:
    with suppress(InvalidOperation):
        return micros(Decimal(text))
    return None


def _ms(text: str) -> int:
    with suppress(ValueError):
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    return 0
