"""Queries of the ledger about images and their files. Every answer is a value; no caller sees SQL."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from batchgen.jobs import ImageLink, Job
from batchgen.ledger.records import StoredImage, read_rows
from batchgen.ledger.transitions import REHEARSED, refusal_key
from batchgen.storage.paths import check_inside

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterator, Sequence

    from batchgen.jobs import ImageKey

DELIVERING = (
    "(SELECT max(attempt) FROM image AS latest WHERE latest.job_id = image.job_id AND latest.sha256 IS NOT NULL)"
)


class ImageReader:
    """Queries about images on one connection to the ledger."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def meta(self, key: str) -> str | None:
        """A value of the table `meta`."""
        value = self._value("SELECT value FROM main.meta WHERE key = ?", (key,))
        return None if value is None else str(value)

    def _value(self, query: str, values: tuple[object, ...] = ()) -> Any:  # noqa: ANN401 - of any column
        """The first value of the first row; None where there is no row."""
        return next(iter(self.db.execute(query, values).fetchone() or ()), None)

    def links_to_fetch(self, job_id: str, attempt: int) -> list[tuple[ImageLink, bool]]:
        """The images of an attempt that are not here yet; the flag is set for the watermarked copy."""
        rows = self.db.execute(
            "SELECT idx, marked, url FROM image WHERE job_id = ? AND attempt = ? AND sha256 IS NULL"
            " ORDER BY idx, marked",
            (job_id, attempt),
        )
        return [(ImageLink(index=index, url=url), bool(watermarked)) for index, watermarked, url in rows]

    def links_of(self, job_id: str, attempt: int) -> list[ImageLink]:
        """Every image that an attempt is known to have made, here or not, without the watermarked copies."""
        rows = self.db.execute(
            "SELECT idx, url FROM image WHERE job_id = ? AND attempt = ? AND marked = 0 ORDER BY idx", (job_id, attempt)
        )
        return [ImageLink(index=index, url=url) for index, url in rows]

    def lost_sha256(self, key: ImageKey) -> str | None:
        """The hash that an image had before its file was lost; None where it was not."""
        found: str | None = self._value(
            "SELECT lost_sha256 FROM image WHERE job_id = ? AND attempt = ? AND idx = ? AND marked = ?", key
        )
        return found

    def refused_since(self, job_id: str, attempt: int) -> int | None:
        """Since when (Unix ms) a host refuses the images of an attempt that the gateway names; None: it does not."""
        since = self.meta(refusal_key(job_id, attempt))
        return None if since is None else int(since)

    def known_images(self, ids: Sequence[str]) -> set[tuple[str, int]]:
        """The images (job id, index) of these jobs that the ledger knows, whether their files are here or not."""
        marks = ",".join("?" * len(ids))
        return set(self.db.execute(f"SELECT job_id, idx FROM image WHERE marked = 0 AND job_id IN ({marks})", ids))

    def known_hashes(self, hashes: Collection[str]) -> set[str]:
        """Those of these hashes that an image of this output has or had."""
        rows = self.db.execute("SELECT sha256 FROM image UNION ALL SELECT lost_sha256 FROM image")
        return {sha256 for (sha256,) in rows if sha256 in hashes}

    def stored_images(self) -> Iterator[StoredImage]:
        """Every image whose file was put into place."""
        return self._images("WHERE sha256 IS NOT NULL")

    def current_images(self) -> Iterator[StoredImage]:
        """The images that the manifest asks for and that are stored: a run restores those whose file is lost."""
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

    def count_in_place(self, most: int = -1) -> int:
        """How many images have their file under `images/`; counts up to `most`, where that is given."""
        in_place = "SELECT 1 FROM image WHERE sha256 IS NOT NULL AND path LIKE 'images/%' LIMIT ?"
        return int(self._value(f"SELECT count(*) FROM ({in_place})", (most,)))

    def images_to_retire(self) -> Iterator[StoredImage]:
        """Stored images that are not wanted, or that a later attempt has replaced."""
        return self._images(
            "LEFT JOIN wanted ON wanted.job_id = image.job_id WHERE sha256 IS NOT NULL"
            f" AND path NOT LIKE 'retired/%' AND (wanted.job_id IS NULL OR attempt < {DELIVERING})"
        )

    def earlier_images(self, job_id: str, attempt: int) -> list[StoredImage]:
        """The stored images of a job's attempts before this one, without the retired ones."""
        return list(
            self._images(
                "WHERE image.job_id = ? AND attempt < ? AND sha256 IS NOT NULL AND path NOT LIKE 'retired/%'",
                (job_id, attempt),
            )
        )

    def rehearsed_images(self, base_urls: Sequence[str]) -> list[StoredImage]:
        """The stored images that another sandbox than the accounts at these addresses made."""
        return list(
            self._images(
                "JOIN attempt AS made ON made.job_id = image.job_id AND made.number = image.attempt"
                f" WHERE {REHEARSED} AND sha256 IS NOT NULL AND path NOT LIKE 'retired/%' ORDER BY image.job_id",
                (json.dumps(base_urls),),
            )
        )

    def image_named(self, name: str) -> StoredImage | None:
        """The image whose scratch file has this name (job-attempt-index-watermarked), or None."""
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
        job: Job | None = None
        for image in self._images(
            "JOIN wanted ON wanted.job_id = image.job_id"
            f" WHERE sha256 IS NOT NULL AND attempt = {DELIVERING} ORDER BY image.job_id, idx, marked"
        ):
            if job is None or job.id != image.job_id:
                job = Job.from_json(image.job_id, self._value("SELECT request FROM job WHERE id = ?", (image.job_id,)))
            yield image, job

    def _images(self, where: str, values: tuple[object, ...] = ()) -> Iterator[StoredImage]:
        rows = self.db.execute(
            "SELECT image.job_id, image.attempt, idx, marked, coalesce(path, lost_path), coalesce(sha256, lost_sha256),"
            f" bytes, mtime_ns, image.attempt = {DELIVERING}, substr(url, 1, 5) = 'data:', lost_sha256"
            f" FROM image {where}",
            values,
        )
        for image in read_rows(StoredImage, rows):
            check_inside(image.path, image.job_id)
            yield image
