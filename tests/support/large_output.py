"""An output of any number of images, as if a run had made them: rows of the ledger and files that are small."""

from __future__ import annotations

import hashlib
import io
import os
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from batchgen.jobs import Job, Parameters, job_id
from batchgen.ledger.store import Ledger
from batchgen.reports.index import write_views
from batchgen.storage.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODELS = ("kling-v1", "kling-v1-5", "kling-v2", "kling-v2-1")
RATIOS = {"1:1": (64, 64), "16:9": (96, 54)}
ANIMALS = ("cat", "dog", "heron", "otter", "wren")
START_MS = 1_790_000_000_000


class Made(NamedTuple):
    """One image of an output: its file has the bytes of `content`, or links to `same_as`."""

    job: Job
    path: str
    sha256: str
    content: bytes
    cost: int | None
    account: str


def picture(number: int, size: tuple[int, int]) -> bytes:
    """A PNG of one colour, with its number in the last pixel, so that no two files are the same."""
    image = Image.new("RGB", size, ((number * 37) % 256, (number * 11) % 256, (number * 5) % 256))
    image.putpixel((size[0] - 1, size[1] - 1), (number % 256, number // 256 % 256, number // 65536))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def matrix_job(number: int, prompt: Callable[[int], str] = "prompt number {}".format) -> Job:
    """The job with this number of a matrix of prompts, four models and two ratios."""
    at, rest = divmod(number, len(MODELS) * len(RATIOS))
    model, ratio = MODELS[rest // len(RATIOS)], list(RATIOS)[rest % len(RATIOS)]
    parameters = Parameters(model=model, aspect_ratio=ratio, resolution="2k" if at % 3 == 2 else "1k")
    text = prompt(at)
    labels = {"animal": ANIMALS[at % len(ANIMALS)]}
    id_ = job_id(text, parameters.digest())
    return Job(id=id_, prompt=text, parameters=parameters, prompt_id=f"p{at}", labels=labels)


def matrix_image(number: int, prompt: Callable[[int], str] = "prompt number {}".format) -> Made:
    """The image of that job; its cost is the number of its prompt, in thousandths."""
    job = matrix_job(number, prompt)
    content = picture(number, RATIOS[job.parameters.aspect_ratio])
    at = number // (len(MODELS) * len(RATIOS))
    return Made(
        job=job,
        path=f"images/{job.parameters.model}/{job.id}.png",
        sha256=hashlib.sha256(content).hexdigest(),
        content=content,
        cost=at * 1000,
        account="sandbox" if at % 4 else "local",
    )


def make_output(root: Path, images: list[Made], *, write_files: bool = True) -> None:
    """Write the ledger, the files and the index of an output."""
    root.mkdir(parents=True)
    for folder in {os.path.dirname(image.path) for image in images}:  # noqa: PTH120 - paths are text
        (root / folder).mkdir(parents=True, exist_ok=True)
    if write_files:
        for image in images:
            (root / image.path).write_bytes(image.content)
    ledger = Ledger.open(root / "state.sqlite3")
    rows = list(enumerate(images))
    with ledger.transaction():
        ledger.db.executemany(
            "INSERT INTO job (id, status, request, attempt) VALUES (?, 'done', ?, 1)",
            [(image.job.id, image.job.to_json()) for _, image in rows],
        )
        ledger.db.executemany("INSERT INTO wanted VALUES (?, ?, 1)", [(at, image.job.id) for at, image in rows])
        ledger.db.executemany(
            "INSERT INTO attempt (job_id, number, account, base_url, external_id, intended_at, accepted_at, ended_at,"
            " task_id, images, cost, outcome)"
            " VALUES (?1, 1, ?2, '', 'bg-' || ?1, ?3, ?3, ?3, 't' || ?3, 1, ?4, 'made')",
            [(image.job.id, image.account, START_MS + 1000 * at, image.cost) for at, image in rows],
        )
        ledger.db.executemany(
            "INSERT INTO image (job_id, attempt, idx, marked, url, path, sha256, bytes, width, height, mtime_ns,"
            " fetched_at) VALUES (?, 1, 0, 0, '', ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    image.job.id,
                    image.path,
                    image.sha256,
                    len(image.content),
                    *RATIOS[image.job.parameters.aspect_ratio],
                    (root / image.path).stat().st_mtime_ns if write_files else 0,
                    START_MS + 1000 * at,
                )
                for at, image in rows
            ],
        )
    if write_files:
        write_views(ledger, Tree(root))
    ledger.close()
