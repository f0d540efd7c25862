"""What can be asked of the ledger about images and their files. Every answer is a value; no caller sees SQL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchgen.jobs import ImageLink, Job
from batchgen.ledger.transitions import refusal_key
from batchgen.storage.paths import check_inside

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

DELIVERING = (
    "(SELECT max(attempt) FROM image AS latest WHERE latest.job_id = image.job_id AND latest.sha256 IS NOT NULL)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """An image's file as the ledger knows it."""

    job_id: str
    attempt: int
    index: int
    marked: bool
    path: str
    sha256: str
    bytes: int
    mtime_ns: int
    last_attempt: bool  # of the job's latest attempt that delivered
    only_copy: bool  # it came inside an answer: no gateway has it
    lost_sha256: str | None  # what it was before it was lost and other bytes came in its place

    @property
    def key(self) -> tuple[str, int, int, int]:
        """What tells this image from every other."""
        return (self.job_id, self.attempt, self.index, int(self.marked))


class ImageQuestions:
    """LedgerReader about images on one connection to the ledger."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def links_to_fetch(self, job_id: str, attempt: int) -> list[tuple[ImageLink, bool]]:
        """The images of an attempt that are not here yet; the flag says: the watermarked copy."""
        rows = self.db.execute(
            "SELECT idx, marked, url FROM image WHERE job_id = ? AND attempt = ? AND sha256 IS NULL"
            " ORDER BY idx, marked",
            (job_id, attempt),
        )
        return [(ImageLink(index=index, url=url), bool(marked)) for index, marked, url in rows]

    def links_of(self, job_id: str, attempt: int) -> list[ImageLink]:
        """Every image that an attempt is known to have made, here or not, without the watermarked copies."""
        rows = self.db.execute(
            "SELECT idx, url FROM image WHERE job_id = ? AND attempt = ? AND marked = 0 ORDER BY idx", (job_id, attempt)
        )
        return [ImageLink(index=index, url=url) for index, url in rows]

    def lost_sha256(self, key: tuple[str, int, int, int]) -> str | None:
        """The hash that an image had before its file was lost; None where it was not."""
        row = self.db.execute(
            "SELECT lost_sha256 FROM image WHERE job_id = ? AND attempt = ? AND idx = ? AND marked = ?", key
        ).fetchone()
        return None if row is None else row[0]

    def refused_since(self, job_id: str, attempt: int) -> int | None:
        """Since when (Unix ms) a host does not hand out what the gateway says an attempt made; None: it did not."""
        key = (refusal_key(job_id, attempt),)
        row = self.db.execute("SELECT value FROM main.meta WHERE key = ?", key).fetchone()
        return None if row is None else int(row[0])

    def stored_images(self) -> Iterator[StoredImage]:
        """Every image whose file was put into place."""
        return self._images("WHERE sha256 IS NOT NULL")

    def current_images(self) -> Iterator[StoredImage]:
        """What the manifest asks for and has: the images that a run brings back where their file is lost."""
        return self._images(
            f"JOIN wanted ON wanted.job_id = image.job_id WHERE sha256 IS NOT NULL AND attempt = {DELIVERING}"
        )

    def lost_images(self) -> list[StoredImage]:
        """Every image whose file was lost and has not come back, with the path and the hash that it had."""
        return list(self._images("WHERE sha256 IS NULL AND lost_sha256 IS NOT NULL"))

    def lost_and_wanted(self) -> list[StoredImage]:
        """Of those, the ones of jobs that once were complete and that the manifest asks for (again)."""
        return list(
            self._images(
                "JOIN wanted ON wanted.job_id = image.job_id JOIN job ON job.id = image.job_id"
                " WHERE sha256 IS NULL AND lost_sha256 IS NOT NULL AND image.attempt = job.attempt"
                " AND job.status IN ('done', 'partial')"
            )
        )

    def images_in_place(self, most: int) -> int:
        """How many images have their file under `images/`, counted up to so many."""
        (number,) = self.db.execute(
            "SELECT count(*) FROM (SELECT 1 FROM image WHERE sha256 IS NOT NULL AND path LIKE 'images/%' LIMIT ?)",
            (most,),
        ).fetchone()
        return int(number)

    def images_to_retire(self) -> Iterator[StoredImage]:
        """Images in the tree that are not wanted, or that a later attempt has replaced."""
        return self._images(
            "LEFT JOIN wanted ON wanted.job_id = image.job_id WHERE sha256 IS NOT NULL"
            f" AND path NOT LIKE 'retired/%' AND (wanted.job_id IS NULL OR attempt < {DELIVERING})"
        )

    def earlier_images(self, job_id: str, attempt: int) -> list[StoredImage]:
        """What the attempts of a job before this one left in the tree."""
        return list(
            self._images(
                "WHERE image.job_id = ? AND attempt < ? AND sha256 IS NOT NULL AND path NOT LIKE 'retired/%'",
                (job_id, attempt),
            )
        )

    def image_named(self, name: str) -> StoredImage | None:
        """The image whose scratch file has this name (job-attempt-index-marked), or None."""
        parts = name.split("-")
        if len(parts) != 4 or not all(part.isdigit() for part in parts[1:]):
            return None
        found = self._images(
            "WHERE image.job_id = ? AND attempt = ? AND idx = ? AND marked = ? AND sha256 IS NOT NULL",
            (parts[0], *map(int, parts[1:])),
        )
        return next(found, None)

    def wanted_images(self) -> Iterator[tuple[StoredImage, Job]]:
        """Every image that the manifest asks for and that is here, also in `retired/`, with its job."""
        jobs = self.db.cursor()
        job: Job | None = None
        for image in self._images(
            "JOIN wanted ON wanted.job_id = image.job_id"
            f" WHERE sha256 IS NOT NULL AND attempt = {DELIVERING} ORDER BY image.job_id, idx, marked"
        ):
            if job is None or job.id != image.job_id:
                (request,) = jobs.execute("SELECT request FROM job WHERE id = ?", (image.job_id,)).fetchone()
                job = Job.from_json(image.job_id, request)
            yield image, job

    def _images(self, where: str, values: tuple[object, ...] = ()) -> Iterator[StoredImage]:
        rows = self.db.execute(
            "SELECT image.job_id, image.attempt, idx, marked, coalesce(path, lost_path), coalesce(sha256, lost_sha256),"
            f" bytes, mtime_ns, image.attempt = {DELIVERING}, substr(url, 1, 5) = 'data:', lost_sha256"
            f" FROM image {where}",
            values,
        )
        for job_id, attempt, index, marked, path, sha256, size, mtime_ns, last_attempt, only_copy, lost in rows:
            check_inside(path, job_id)
            yield StoredImage(
                job_id=job_id,
                attempt=attempt,
                index=index,
                marked=bool(marked),
                path=path,
                sha256=sha256,
                bytes=size,
                mtime_ns=mtime_ns,
                last_attempt=bool(last_attempt),
                only_copy=bool(only_copy),
                lost_sha256=lost,
            )
