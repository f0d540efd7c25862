"""Where an export goes. A crash leaves the earlier export whole: new files are made beside it, then moved into place.

A folder says in `.batchgen-export.json` what is in it, so that a later export writes only what has changed, and
removes only what an export wrote.
"""

from __future__ import annotations

import fcntl
import filecmp
import json
import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from batchgen.errors import CommandError
from batchgen.storage.replacement import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STATE = ".batchgen-export.json"
STAGED = ".batchgen-export.new"
_MANY = 1000  # files
_WHAT = "what batchgen's last export of this folder wrote; the next one writes what has changed since"


@dataclass(slots=True, kw_only=True)
class State:
    """What an export wrote: the digest of each file, and the images of each shard in their order."""

    format: str
    shard_size: int = 0  # images
    files: dict[str, str] = field(default_factory=dict)
    shards: dict[str, list[str]] = field(default_factory=dict)


class FolderTarget:
    """A folder that holds an export, or nothing yet."""

    def __init__(self, path: Path, format_name: str) -> None:
        """Raise CommandError where the folder has something else in it."""
        self.path = path
        self._staged = path / STAGED
        if path.exists() and not path.is_dir():
            raise CommandError(f"{path} is a file, and {format_name} is written into a folder. Choose another --to.")
        self.state = self._read(format_name)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Hold the folder, and leave nothing unfinished in it. Raises CommandError where another export has it."""
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CommandError(f"Another export into {self.path} is going. Wait for it.") from None
            if (self._staged / STATE).exists():  # all of it was written, and not all moved
                self._move()
            shutil.rmtree(self._staged, ignore_errors=True)
            self.state = self._read(self.state.format)
            self._staged.mkdir()
            yield
        finally:
            shutil.rmtree(self._staged, ignore_errors=True)
            os.close(descriptor)
            with suppress(OSError):  # an export is in it
                self.path.rmdir()

    def has(self, name: str, digest: str) -> bool:
        """Whether the file is there as an export with the same digest wrote it."""
        return self.state.files.get(name) == digest and (self.path / name).is_file()

    def new(self, name: str) -> Path:
        """Where to write a file before `commit` moves it to its name."""
        path = self._staged / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def commit(self, state: State) -> int:
        """Put the new files into place and remove those that are no longer there; returns how many were removed."""
        files = [path for path in self._staged.rglob("*") if path.is_file()]
        if state == self.state and not files:
            return 0
        mine = {name for name in self.state.files if name not in state.files and (self.path / name).exists()}
        (self._staged / f"{STATE}.new").write_text(json.dumps({"": _WHAT, **asdict(state)}), encoding="utf-8")
        _sync([*files, self._staged / f"{STATE}.new"])  # from here on the next export finishes what is cut off
        (self._staged / f"{STATE}.new").replace(self._staged / STATE)
        self._move()
        return len(mine)

    def _move(self) -> None:
        before = self._read("").files
        after = json.loads((self._staged / STATE).read_text(encoding="utf-8"))["files"]
        for source in list(self._staged.rglob("*")):
            if source.is_file() and source != self._staged / STATE:
                target = self.path / source.relative_to(self._staged)
                target.parent.mkdir(parents=True, exist_ok=True)
                source.replace(target)
        for name in before.keys() - after.keys():
            self._remove(name)
        (self._staged / STATE).replace(self.path / STATE)

    def _remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)
        for folder in (self.path / name).parents:
            if folder == self.path:
                break
            with suppress(OSError):  # others are in it
                folder.rmdir()

    def _read(self, format_name: str) -> State:
        """What the folder holds; `format_name` is empty where any will do. Raises CommandError."""
        try:
            found = json.loads((self.path / STATE).read_text(encoding="utf-8"))
            state = State(**{name: found[name] for name in State.__dataclass_fields__})
        except FileNotFoundError:
            if self.path.is_dir() and {each.name for each in self.path.iterdir()} - {STAGED}:
                raise CommandError(
                    f"{self.path} is not empty, and what is in it is no export of batchgen. Choose another --to."
                ) from None
            return State(format=format_name)
        except (ValueError, KeyError, TypeError):
            raise CommandError(
                f"{self.path / STATE} cannot be read. Delete {self.path}, or choose another --to."
            ) from None
        if format_name and state.format != format_name:
            raise CommandError(
                f"{self.path} holds an export as {state.format}, not as {format_name}. Choose another --to."
            )
        if any(name.startswith("/") or ".." in name.split("/") for name in state.files):
            raise CommandError(f"{self.path / STATE} names files outside of its folder: batchgen did not write that.")
        return state


def _sync(files: list[Path]) -> None:
    """Have the disk keep the files; many of them at once, with all others of the machine."""
    if len(files) > _MANY:
        os.sync()
        return
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def are_same(new: Path, old: Path) -> bool:
    """Whether both are files with the same bytes."""
    return old.is_file() and filecmp.cmp(new, old, shallow=False)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A file beside `path` to be written, which then takes its place, unless both have the same bytes."""
    if path.is_dir():
        raise CommandError(f"{path} is a folder, and this format is one file. Choose another --to.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=True) as beside:
        yield beside
        if are_same(beside, path):
            beside.unlink()
