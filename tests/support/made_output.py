"""An output with images of the tests' own, whose ledger was told of them as a run tells it."""

from __future__ import annotations

import hashlib
import io
import sqlite3
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from jobs_for_tests import job
from ledger_events import accepted, intent
from PIL import Image

from batchgen.jobs import ImageKey, ImageLink, ReceivedImage
from batchgen.ledger.events import Fetched, Made
from batchgen.ledger.store import FILE_NAME, Ledger

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "version: 1\nname: tried\nprovider: kapon\nmatrix: {prompt: [a fox]}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeImage:
    """One job with one image; `body` is its file, else a picture that its number gives."""

    prompt: str
    labels: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    ext: str = ".png"
    size: tuple[int, int] = (24, 16)


def picture(number: int, kind: str = "png", size: tuple[int, int] = (24, 16), **more: object) -> bytes:
    """A picture of stripes that differ from those of any other number."""
    image = Image.new("RGB", size)
    image.putdata([((number * 37 + x * 9) % 256, (number * 91 + y * 13) % 256, x * y % 256)
                   for y in range(size[1]) for x in range(size[0])])  # fmt: skip
    target = io.BytesIO()
    image.save(target, kind, **more)
    return target.getvalue()


def make_output(folder: Path, images: list[MadeImage]) -> Path:
    """Write `manifest.yaml` and its output in `folder`, or add to it; the images are wanted in this order.

    Returns the manifest's path.
    """
    root = folder / "outputs" / "tried"
    root.mkdir(parents=True, exist_ok=True)
    ledger = Ledger.open(root / FILE_NAME)
    jobs = []
    for number, image in enumerate(images):
        made = replace(job(image.prompt, model="kling-v1"), labels=image.labels)
        jobs.append(made)
        if ledger.latest_attempt(made.id) is None:
            body = image.body if image.body is not None else picture(number, size=image.size)
            path = f"images/{number // 100}/{made.id}-0{image.ext}"
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(body)
            ledger.record(_events(made, path, body, image))
    ledger.set_wanted_jobs(jobs)
    ledger.close()
    manifest = folder / "manifest.yaml"
    manifest.write_text(MANIFEST, encoding="utf-8")
    return manifest


def _events(made, path, body, image):
    received = ReceivedImage(
        sha256=hashlib.sha256(body).hexdigest(), bytes=len(body), width=image.size[0], height=image.size[1],
        ext=image.ext, mtime_ns=1, warning="",
    )  # fmt: skip
    link = (ImageLink(index=0, url="http://127.0.0.1/image"),)
    return [
        intent(made, 1),
        accepted(made.id, 1),
        Made(job_id=made.id, attempt=1, links=link, cost=1_500_000, at=3),
        Fetched(key=ImageKey(made.id, 1, 0, 0), path=path, image=received, at=1_700_000_000_000),
    ]


def mark(folder: Path, prompt: str, verdict: str, note: str = "") -> None:
    """A person's mark on the images of a prompt."""
    with sqlite3.connect(folder / "outputs" / "tried" / FILE_NAME) as db:
        for (sha256,) in db.execute(
            "SELECT sha256 FROM image WHERE job_id = ?", (job(prompt, model="kling-v1").id,)
        ).fetchall():
            db.execute(
                "INSERT OR REPLACE INTO mark (sha256, reviewer, verdict, note, at) VALUES (?, '', ?, ?, 1)",
                (sha256, verdict, note),
            )
    db.close()


def file_of(folder: Path, prompt: str) -> Path:
    """The image of a prompt."""
    return next((folder / "outputs" / "tried" / "images").rglob(f"{job(prompt, model='kling-v1').id}-0.*"))
