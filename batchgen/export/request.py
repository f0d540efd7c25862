"""What to export, and how: the formats, the options, and which of them go together."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from batchgen.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_DEFAULT_NAMES = {
    "zip": "{prompt_id}-{model}-{index}{ext}",
    "imagefolder": "{job_id}-{index}{ext}",  # `datasets` takes words such as train and test in a name for splits
}
SHARD_SIZE = 500
_SPLIT = re.compile(r"\s*(?P<name>\w[\w-]*)\s*=\s*(?P<part>[0-9.]+)\s*")
_TOTAL_TOLERANCE = 1e-6


class Format(NamedTuple):
    """What a format is like: the endings of its file (none: it is a folder), and what it can have."""

    name: str
    about: str
    endings: tuple[str, ...] = ()
    has_images: bool = True
    has_splits: bool = True
    needs: tuple[str, ...] = ()  # packages of the extra `export`


FORMATS = {
    each.name: each
    for each in (
        Format("imagefolder", "a folder of images and metadata.jsonl, for Hugging Face's datasets"),
        Format("webdataset", "a folder of tar archives with images, prompts and JSON"),
        Format("parquet", "a folder of Parquet files with the images in them", needs=("pyarrow",)),
        Format("jsonl", "a table of the index as JSON lines, without images", (".jsonl",), has_images=False),
        Format("csv", "the same for spreadsheets, without formulas", (".csv",), has_images=False),
        Format("zip", "an archive of the images", (".zip",)),
        Format(
            "contact-sheet",
            "pages of small images with captions",
            (".pdf", ".png"),
            has_splits=False,
            needs=("fpdf", "uharfbuzz", "pypdfium2"),
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to export, and how."""

    format: Format
    to: Path
    where: Sequence[str] = ()
    split: str = ""
    drop_duplicates: str = ""  # sha256 or perceptual; empty: none are dropped
    names: str | None = None
    resize: int | None = None
    encode: str | None = None
    quality: int | None = None
    strip: bool = False
    embed: bool = False
    shard_size: int = SHARD_SIZE
    columns: int = 4
    fonts: Sequence[Path] = ()

    def check(self, root: Path) -> None:
        """Raise CommandError for options that do not go together."""
        kind = self.format
        if kind.endings and self.to.suffix.lower() not in kind.endings:
            raise CommandError(f"--to {self.to}: as {kind.name}, the file's name ends in {' or '.join(kind.endings)}.")
        changes = {"--resize": self.resize, "--encode": self.encode, "--strip": self.strip, "--embed": self.embed}
        for option in (name for name, value in changes.items() if value and not kind.has_images):
            raise CommandError(f"{option} changes images, and {kind.name} holds none. Leave it out.")
        if self.split and not kind.has_splits:
            raise CommandError(f"--split is not for {kind.name}. Choose images with --where.")
        if self.names and (not kind.has_images or kind.name in {"webdataset", "contact-sheet"}):
            raise CommandError(f"--names is not for {kind.name}: it is for imagefolder, parquet and zip.")
        if self.names and kind.name == "imagefolder" and "/" in self.names:
            raise CommandError("--names: in an imagefolder, folders are splits. Write a template without /.")
        if self.quality and not (self.encode or self.resize):
            raise CommandError("--quality is of images that are encoded anew: add --encode webp or --resize.")
        for font in (font for font in self.fonts if not font.is_file()):
            raise CommandError(f"--font {font}: there is no such file.")
        if self.to.resolve().is_relative_to(root.resolve()):
            raise CommandError(f"--to {self.to} is in the output folder {root}. Choose a path outside of it.")
        if missing := [name for name in kind.needs if find_spec(name) is None]:
            raise CommandError(
                f"{kind.name} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed:"
                " pip install 'batchgen[export]'"
            )

    @property
    def splits(self) -> Splits:
        return Splits(self.split or ("" if self.format.endings else "train=1"))  # as `datasets` calls it

    @property
    def template(self) -> str | None:
        """Of the names; None: as in the output."""
        return self.names or _DEFAULT_NAMES.get(self.format.name)


class Splits:
    """`train=0.8,test=0.2`: the split of an image follows from its prompt alone, so no prompt is in two."""

    def __init__(self, text: str = "") -> None:
        """Read the option. Raises CommandError for what cannot be read, or does not add up to 1."""
        self._bounds: list[tuple[float, str]] = []
        total = 0.0
        for part in text.split(",") if text else []:
            found = _SPLIT.fullmatch(part)
            if found is None or found["part"].count(".") > 1 or found["part"] == ".":
                raise CommandError(f"--split {text}: write NAME=FRACTION,…, such as train=0.8,test=0.2.")
            total += float(found["part"])
            self._bounds.append((total, found["name"]))
        names = [name.casefold() for _, name in self._bounds]
        if len(set(names)) < len(names):
            raise CommandError(f"--split {text}: two splits have the same name.")
        if self._bounds and abs(total - 1) > _TOTAL_TOLERANCE:
            raise CommandError(f"--split {text}: the fractions add up to {total:g}; they have to add up to 1.")

    def of(self, prompt: str) -> str:
        """The split of a prompt; empty where there are no splits. Prompts are compared after Unicode NFC."""
        if not self._bounds:
            return ""
        digest = hashlib.sha256(b"batchgen split\0" + unicodedata.normalize("NFC", prompt).encode()).digest()
        point = int.from_bytes(digest[:7], "big") / 2**56
        return next((name for bound, name in self._bounds if point < bound), self._bounds[-1][1])
