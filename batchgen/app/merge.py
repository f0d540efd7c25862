"""Puts the indexes of several outputs together: one folder to export, to look at and to report on.

The images stay where they are, unless copies are asked for; nothing of the outputs is changed.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchgen.errors import CommandError
from batchgen.ledger import lock
from batchgen.ledger.merging import Source, write_merged
from batchgen.ledger.store import MERGED_NAME, Ledger
from batchgen.reports.index import write_views
from batchgen.storage.paths import IMAGES
from batchgen.storage.tree import Tree, disk_refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path


_NOTHING = "Nothing was written."
_IGNORED = frozenset({".lock", f".{MERGED_NAME}.new", f".{MERGED_NAME}.new-journal"})  # of a merge that was killed


@dataclass(slots=True, kw_only=True)
class Merged:
    """What was put together. `unfinished`: jobs that are still to be made or to be fetched."""

    folder: Path
    outputs: Mapping[str, Path]  # by their names in paths
    images: int = 0
    unfinished: int = 0
    missing: list[str] = field(default_factory=list)  # images that could not be copied
    running: list[str] = field(default_factory=list)  # outputs in which a run is going


def merge(
    outputs: Sequence[Path], to: Path, *, copy: bool = False, incomplete: bool = False, mixed: bool = False
) -> Merged:
    """Write a folder with the images of all these outputs; a folder that an earlier merge wrote is brought up to date.

    `copy`: with copies of the images, into a new folder. `incomplete`: shards may be absent. `mixed`: the outputs may
    be of different manifests. Raises CommandError where the outputs do not belong together.
    """
    sources = [Source.read(root) for root in outputs]
    _check_different(sources)
    if not mixed:
        _check_same_manifest(sources)
    if not incomplete:
        _check_complete(sources)
    _check_target(to, sources, copy=copy)
    named = list(zip(_names(sources), sources, strict=True))
    merged = Merged(
        folder=to,
        outputs={name: source.root for name, source in named},
        unfinished=sum(source.unfinished for source in sources),
        running=[str(root) for root in outputs if lock.holder(root)],
    )
    to.mkdir(parents=True, exist_ok=True)
    try:
        with lock.held(to):
            write_merged(to, named, in_order=not mixed)
            with closing(Ledger.open(to / MERGED_NAME)) as ledger:
                if copy:
                    merged.missing = _copy_images(ledger, to, merged.outputs)
                else:
                    _link_images(to, merged.outputs)
                write_views(ledger, Tree(to), escape_formulas=any(source.escapes_formulas for source in sources))
                merged.images = ledger.images_in_index()
    finally:
        with suppress(OSError):  # something was written
            to.rmdir()
    return merged


# --- do they belong together --------------------------------------------------------------------------------


def _check_different(sources: Iterable[Source]) -> None:
    seen: dict[str, Path] = {}
    for source in sources:
        other = seen.setdefault(source.lineage, source.root)
        if other is not source.root:
            raise CommandError(f"{other} and {source.root} are the same output, or one is a copy. {_NOTHING}")


def _check_same_manifest(sources: Sequence[Source]) -> None:
    first = sources[0]
    for source in sources[1:]:
        if source.digest != first.digest:
            raise CommandError(
                f"{first.root} and {source.root} were not made of the same manifest by the same batchgen, as far as"
                " their last runs say. Run each once more, which pays for nothing that is there; or merge them all the"
                f" same, one after the other, with --mixed. {_NOTHING}"
            )


def _check_complete(sources: Iterable[Source]) -> None:
    found: dict[int, set[int]] = defaultdict(set)
    for shard in filter(None, (source.shard for source in sources)):
        found[shard.of].add(shard.number)
    for of, numbers in found.items():
        if absent := sorted({*range(1, of + 1)} - numbers):
            first = ", ".join(f"{number}/{of}" for number in absent[:5])
            raise CommandError(
                f"These shards are missing: {first}{' …' if len(absent) > 5 else ''}. Name their outputs too, or merge"
                f" without them with --incomplete. {_NOTHING}"
            )


def _check_target(to: Path, sources: Iterable[Source], *, copy: bool) -> None:
    if to.exists() and not to.is_dir():
        raise CommandError(f"{to} is a file, and a folder is written. Choose another --to. {_NOTHING}")
    for source in sources:
        if to.resolve().is_relative_to(source.root.resolve()):
            raise CommandError(f"{to} is in the output {source.root}. Choose a --to outside of it. {_NOTHING}")
    is_merged = (to / MERGED_NAME).exists()
    if to.is_dir() and not is_merged and {each.name for each in to.iterdir()} - _IGNORED:
        raise CommandError(f"{to} is not empty, and `batchgen merge` did not write it. Choose another --to. {_NOTHING}")
    if is_merged and copy:
        raise CommandError(f"Copies are made into a new folder, and {to} is there already. Delete it. {_NOTHING}")
    folder = to / IMAGES
    if folder.is_symlink() or (folder.is_dir() and not all(each.is_symlink() for each in folder.iterdir())):
        raise CommandError(
            f"{folder} has more than links to outputs, such as copies of images. Delete {to}, or choose another --to."
            f" {_NOTHING}"
        )


# --- images -------------------------------------------------------------------------------------------------


def _names(sources: Iterable[Source]) -> list[str]:
    """The names of the folders, with a number where two are the same."""
    names: list[str] = []
    for number, source in enumerate(sources, 1):
        name = source.root.resolve().name.lstrip(".") or "output"
        while name.casefold() in {each.casefold() for each in names}:
            name = f"{name}-{number}"
        names.append(name)
    return names


def _link_images(to: Path, outputs: Mapping[str, Path]) -> None:
    """Link the image folder of each output; relative, so that all of them can move together."""
    folder = to / IMAGES
    try:
        folder.mkdir(exist_ok=True)
        for link in folder.iterdir():
            link.unlink()
        for name, root in outputs.items():
            images = (root / IMAGES).resolve()
            (folder / name).symlink_to(os.path.relpath(images, folder.resolve()), target_is_directory=True)
    except OSError as error:
        raise disk_refused(error, folder) from error


def _copy_images(ledger: Ledger, to: Path, outputs: Mapping[str, Path]) -> list[str]:
    """Copy every image of the index; the paths of those that are not there."""
    missing = []
    for row in ledger.index_rows():
        top, name, rest = row.path.split("/", 2)
        target = to / row.path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(outputs[name] / top / rest, target)
        except FileNotFoundError:
            missing.append(str(outputs[name] / top / rest))
        except OSError as error:
            raise disk_refused(error, target) from error
    return missing
