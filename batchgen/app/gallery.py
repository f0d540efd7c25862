"""Writes the gallery of an output: the page, its data, its thumbnails."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from importlib import resources
from time import monotonic
from typing import TYPE_CHECKING

from batchgen.engine.counters import Counters
from batchgen.errors import CommandError
from batchgen.ledger.store import path_in, reading
from batchgen.reports.gallery.pages import write_pages
from batchgen.reports.gallery.thumbnails import make_thumbnails, missing_thumbnails, remove_unused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchgen.app.observer import Observer
    from batchgen.ledger.records import IndexRow
    from batchgen.reports.where import Where

FOLDER = "gallery"
_SIGN = b'<meta name="generator" content="batchgen">'  # without it, a page is somebody else's


@dataclass(slots=True)
class Gallery:
    """What was written; `unreadable` are paths of pictures that cannot be opened, and so have no thumbnail."""

    page: Path
    stamp: str = ""  # the digest of the data
    images: int = 0
    thumbnails_made: int = 0
    unreadable: list[str] = field(default_factory=list)


class GalleryWriter:
    """Writes the gallery of one output, as often as the output changes. `unit` is that of the costs."""

    def __init__(self, root: Path, where: Where, unit: str = "") -> None:
        self._root = root
        self._where = where
        self._unit = unit
        self._folder = root / FOLDER
        self._shown: dict[str, str] = {}  # paths by sha256
        self._known: set[str] = set()  # also of images that are not shown
        self._count = 0  # of images that are shown
        self._is_stopped = False

    def write_page(self) -> Gallery:
        """Write the page and its data. Raises CommandError where there is no output, or a file is in the way."""
        ledger_path = path_in(self._root, "show", merged=True)
        self._check_folder()
        self._shown.clear()
        self._known.clear()
        self._folder.mkdir(exist_ok=True)
        with reading(ledger_path) as ledger:
            name = self._root.resolve().name
            about = {"name": name, "output": ledger.meta("lineage") or name, "unit": self._unit}
            stamp = write_pages(self._select(ledger.index_rows()), self._folder / "data", about)
            images = self._count
        for file in resources.files("batchgen.reports.gallery").joinpath("static").iterdir():
            with resources.as_file(file) as path:
                shutil.copyfile(path, self._folder / file.name)
        return Gallery(page=self._folder / "index.html", stamp=stamp, images=images)

    def stop(self) -> None:
        """Let `write_thumbnails` end soon, with an error, in the thread where it runs."""
        self._is_stopped = True

    def write_thumbnails(self, gallery: Gallery, observer: Observer) -> Gallery:
        """Make the thumbnails that are missing, and remove those of no use. Raises OSError, CommandError."""
        thumbnails = self._folder / "thumbs"
        missing = missing_thumbnails(thumbnails, self._shown)
        counters = Counters(images_wanted=len(missing), note="thumbnails")
        latest = monotonic()

        def on_done(number: int) -> None:
            nonlocal latest
            if self._is_stopped:
                raise CommandError("Stopped before all thumbnails were made. Run the command again: it goes on.")
            counters.images_done = number
            if monotonic() - latest >= observer.interval:
                latest = monotonic()
                observer.on_progress(counters)

        if missing:
            observer.on_start(counters)
            try:
                gallery.unreadable = make_thumbnails(self._root, thumbnails, missing, on_done)
            finally:
                observer.on_end(counters)
        gallery.thumbnails_made = len(missing) - len(gallery.unreadable)
        remove_unused(thumbnails, self._known)
        return gallery

    def _select(self, rows: Iterator[IndexRow]) -> Iterator[IndexRow]:
        self._count = 0
        for row in rows:
            self._known.add(row.sha256)
            if self._where.takes(row):
                self._count += 1
                self._shown[row.sha256] = row.path
                yield row

    def _check_folder(self) -> None:
        """Raise CommandError where the folder is not ours to write."""
        for path in (self._folder, self._folder / "data", self._folder / "thumbs"):
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                raise CommandError(
                    f"{path} is not a folder of this output. Move it away; the gallery is written there."
                )
        page = self._folder / "index.html"
        if page.is_symlink() or (page.exists() and _SIGN not in page.read_bytes()[:2000]):
            raise CommandError(f"{page} is not a page of batchgen. Move it away; the gallery is written there.")
