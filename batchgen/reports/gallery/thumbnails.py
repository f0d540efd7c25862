"""Thumbnails: small WebP files, each named by the sha256 of its image, made once in processes of their own.

A picture that Pillow cannot open gets an empty file, for which the page shows a placeholder: it is not tried again.
"""

from __future__ import annotations

import os
import re
import signal
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from PIL.Image import Image

EDGE = 384  # pixels of the longer edge: sharp at 200 on most screens
_NAME = re.compile(r"[0-9a-f]{64}\.webp")
_CHUNK = 8  # images that a process takes at once


def thumbnail_path(folder: Path, sha256: str) -> Path:
    """Where the thumbnail of an image is; 256 folders, so that none has 100,000 files."""
    return folder / sha256[:2] / f"{sha256}.webp"


def missing_thumbnails(folder: Path, images: Mapping[str, str]) -> dict[str, str]:
    """Of these images (path by sha256), those without a thumbnail."""
    there = {path.stem for path in folder.glob("??/*.webp")}
    return {sha256: path for sha256, path in images.items() if sha256 not in there}


def make_thumbnails(root: Path, folder: Path, images: Mapping[str, str], on_done: Callable[[int], None]) -> list[str]:
    """Make a thumbnail of each image (path by sha256); returns the paths of those that cannot be opened.

    `on_done` gets the number that are done. Raises OSError where the disk refuses, CommandError where a process ends.
    """
    for start in {sha256[:2] for sha256 in images}:
        (folder / start).mkdir(parents=True, exist_ok=True)
    tasks = [(str(root / path), str(thumbnail_path(folder, sha256))) for sha256, path in images.items()]
    if not tasks:
        return []
    workers = max(1, min(os.cpu_count() or 1, len(tasks) // _CHUNK))
    # not forked: that would copy threads and locks of whoever calls
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_leave_interrupts_to_the_parent)
    unreadable = []
    try:
        for number, ((_, target), made) in enumerate(
            zip(tasks, pool.map(_make, tasks, chunksize=_CHUNK), strict=True), 1
        ):
            if not made:
                unreadable.append(images[Path(target).stem])
            on_done(number)
    except BrokenProcessPool as error:
        raise CommandError(
            "A process that makes thumbnails has ended, perhaps for lack of memory. Run the command again: it goes on."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
    return unreadable


def remove_unused(folder: Path, used: Collection[str]) -> int:
    """Remove the thumbnails of images that are not in the output any more; returns how many."""
    unused = [path for path in folder.glob("??/*") if _NAME.fullmatch(path.name) and path.stem not in used]
    for path in unused:
        path.unlink(missing_ok=True)
    return len(unused)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _make(task: tuple[str, str]) -> bool:
    """Make one thumbnail; False where the image cannot be opened. A file that is missing is left out."""
    from PIL import Image  # noqa: PLC0415 - 50 ms, in the worker alone

    source, target = Path(task[0]), Path(task[1])
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    if not source.is_file():
        return True
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(source) as image:  # of a large image
            small = _small(image)
    except Exception:  # noqa: BLE001 - decoders raise errors of every kind
        small = None
    if small is None:
        beside.touch()
    else:
        small.save(beside, "WEBP", quality=78)
    beside.replace(target)
    return small is not None


def _small(image: Image) -> Image:
    from PIL import ImageOps  # noqa: PLC0415

    image.draft("RGB", (EDGE, EDGE))  # a JPEG is decoded at a fraction of its size
    image.thumbnail((EDGE, EDGE), reducing_gap=2.0)
    image = ImageOps.exif_transpose(image)
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    return image.convert("RGBA" if has_alpha else "RGB")
