"""Names of image files: a path template, and what it renders for one image.

A name must be valid on every file system that the output may be copied to, so the values of prompt ids and variables
are made portable here, and a name that is too long is cut, but never in the parts that make it unique.
Paths are relative to the output folder and use `/`.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from string import Formatter
from typing import TYPE_CHECKING

from batchgen.errors import BatchgenError, CommandError
from batchgen.jobs import ID_LENGTH, is_id

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from batchgen.jobs import Job

IMAGES = "images/"
WATERMARKED = "watermarked/"
RETIRED = "retired/"

LONGEST = 200  # bytes of UTF-8 of a whole name, `images/` included (contract)
PLACEHOLDERS = ("model", "aspect_ratio", "resolution", "prompt_id", "job_id", "index", "repeat", "ext")
DEFAULT_TEMPLATE = "{model}/{aspect_ratio}/{prompt_id}-{job_id}-{index}{ext}"

# An image keeps its name under `watermarked/` and `retired/`, whose own names are longer: the difference is
# left free, and where a template has no job id, the bytes that `retired` needs to add it.
_MAX_BYTES = LONGEST - (len(WATERMARKED) - len(IMAGES))
_MAX_BYTES_WITHOUT_ID = LONGEST - (len(RETIRED) - len(IMAGES)) - (ID_LENGTH + 1)
_KEPT = frozenset({"job_id", "index", "repeat", "ext"})  # these make a name unique and are never cut
_LONGEST_EXT = len(".webp")

_FORBIDDEN = re.compile(
    r'[/\\:*?"<>|\x00-\x1f\x7f-\x9f'
    r"\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"  # these reverse a name or break its line on screen
    r"\ud800-\udfff]"  # half of a character: has no UTF-8
)
_BLANKS = re.compile(r"\s+")
_DEVICE = re.compile(  # Windows opens the device whatever follows the first dot; every segment follows a `/`
    r"/(?=(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³]) *(?:[./]|$))", re.IGNORECASE
)
_PADDING = re.compile(r"0([1-9])d?")


class PathInvalid(BatchgenError):
    """A path template is invalid; the message says why and what to write instead."""

    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """A part of a template: fixed text, then at most one placeholder."""

    literal: str
    name: str = ""  # empty where no placeholder follows: at the end, or before a literal brace
    width: int = 0  # of a zero-padded index


@dataclass(frozen=True, slots=True, kw_only=True)
class PathTemplate:
    """A valid template, split once. Made by `parse`."""

    text: str
    fields: frozenset[str]
    pieces: tuple[_Piece, ...]

    @classmethod
    def parse(cls, text: str, known: Collection[str] = ()) -> PathTemplate:
        """Read a template; `known` are the names of variables besides the fixed placeholders.

        Raises `PathInvalid` for a path that could leave the output, or that some file system does not allow.
        """
        pieces = tuple(_split(text, {*PLACEHOLDERS, *known}))
        _check_shape(text, pieces)
        template = cls(text=text, fields=frozenset(p.name for p in pieces if p.name), pieces=pieces)
        if template._bytes_for_values() < 0:
            raise PathInvalid(
                f"The path {text!r} is too long: a name has at most {LONGEST} bytes, and its fixed"
                " text leaves too few of them. Shorten it."
            )
        return template

    def render(self, job: Job, index: int, ext: str) -> str:
        """The name of one image, `images/` first; `index` counts from 0, `ext` has its dot.

        A variable that this job does not have is `_`, as is a value without portable characters.
        """
        values = [_value(piece, job, index, ext) for piece in self.pieces]
        path = self._join(values)
        return path if len(path.encode()) <= self._max_bytes() else self._join(self._cut(values))

    def _join(self, values: Sequence[str]) -> str:
        parts = [piece.literal + value for piece, value in zip(self.pieces, values, strict=True)]
        # Normalised parts need not be normalised together.
        return _DEVICE.sub("/_", unicodedata.normalize("NFC", "".join([IMAGES, *parts])))

    def _max_bytes(self) -> int:
        return _MAX_BYTES if "job_id" in self.fields else _MAX_BYTES_WITHOUT_ID

    def _bytes_for_values(self) -> int:
        """The bytes for values that can be cut, beyond one for each; negative where the template is too long."""
        sizes = {"job_id": ID_LENGTH, "index": 3, "repeat": 4, "ext": _LONGEST_EXT}
        used = len(IMAGES)
        for piece in self.pieces:
            used += len(piece.literal.encode()) + max(piece.width, sizes.get(piece.name, 1 if piece.name else 0))
        return self._max_bytes() - used - self._segments()

    def _segments(self) -> int:
        """How many segments there are: each may get a `_` before the name of a device."""
        return 1 + sum(piece.literal.count("/") for piece in self.pieces)

    def _cut(self, values: Sequence[str]) -> list[str]:
        """Shorten the longest values first, all to the same level, until the name fits."""
        sizes = [len(value.encode()) for value in values]
        free = self._max_bytes() - self._segments() - len(IMAGES)
        free -= sum(len(piece.literal.encode()) for piece in self.pieces)
        free -= sum(size for piece, size in zip(self.pieces, sizes, strict=True) if piece.name in _KEPT)
        to_cut = [size for piece, size in zip(self.pieces, sizes, strict=True) if piece.name not in _KEPT]
        level = bisect_right(range(LONGEST), free, key=lambda most: sum(min(size, most) for size in to_cut)) - 1
        return [
            value if piece.name in _KEPT or size <= level else _head(value, level)
            for piece, value, size in zip(self.pieces, values, sizes, strict=True)
        ]


def is_inside(path: str) -> bool:
    """Whether a path from a ledger or an index is in the output's own image folders."""
    return path.startswith((IMAGES, RETIRED, WATERMARKED)) and "/../" not in f"{path}/" and "\0" not in path


def check_inside(path: str, job_id: str) -> None:
    """Raise CommandError for a path or an id in a ledger that leads out of the output: batchgen did not write it."""
    if not (is_inside(path) and is_id(job_id)):
        raise CommandError(
            f"The ledger names the file {path!r} of the job {job_id!r}, which is not in the output's own folders:"
            " batchgen did not write that. Nothing was changed; choose another --output."
        )


def watermarked(path: str) -> str:
    """The path of the watermarked copy of an image: the same name in another folder."""
    return WATERMARKED + path.removeprefix(IMAGES)


def retired(path: str, job_id: str) -> str:
    """The path of an image that is no longer wanted: its name, with the job's id where that is not in it.

    With the id, images of different jobs that had the same name do not collide.
    """
    name = path.removeprefix(IMAGES)
    if job_id in name:
        return RETIRED + name
    stem, dot, ext = name.rpartition(".")
    return f"{RETIRED}{stem}-{job_id}{dot}{ext}"


def folded(path: str) -> str:
    """The key of a name that is equal for names which some file system takes for one: without case, composed."""
    return unicodedata.normalize("NFC", path.casefold())


# --- reading a template ------------------------------------------------------------------------------------


def _split(text: str, known: Collection[str]) -> list[_Piece]:
    try:
        parsed = list(Formatter().parse(text))
    except ValueError as error:
        raise PathInvalid(
            f"The path {text!r} cannot be read: {error}. Write a placeholder as {{model}}, and a literal brace twice."
        ) from error
    return [
        _Piece(literal=literal)
        if name is None
        else _Piece(literal=literal, name=_known(name, known, conversion), width=_width(name, spec or ""))
        for literal, name, spec, conversion in parsed
    ]


def _known(name: str, known: Collection[str], conversion: str | None) -> str:
    if conversion:
        raise PathInvalid(f"The placeholder {{{name}!{conversion}}} has a conversion: write {{{name}}}.")
    if name in known:
        return name
    from difflib import get_close_matches  # noqa: PLC0415 - only an error needs it

    nearest = get_close_matches(name, known, n=1, cutoff=0.5)
    meant = f"Did you mean {{{nearest[0]}}}? " if nearest else ""
    listed = ", ".join(sorted(known))
    raise PathInvalid(f"The path has no placeholder {{{name}}}. {meant}There are: {listed}.")


def _width(name: str, spec: str) -> int:
    """The width of `{index:03}`; no other format is allowed, so that a name depends on values alone."""
    if not spec:
        return 0
    match = _PADDING.fullmatch(spec)
    if name != "index" or match is None:
        raise PathInvalid(
            f"The placeholder {{{name}:{spec}}} has a format: write {{{name}}}. Only {{index:03}} is padded."
        )
    return int(match[1])


def _check_shape(text: str, pieces: Sequence[_Piece]) -> None:
    for piece in pieces:
        _check_literal(text, piece.literal)
    if not pieces or pieces[-1].name != "ext" or [p.name for p in pieces].count("ext") > 1:
        raise PathInvalid(f"The path {text!r} must end in {{ext}}, and have it only there.")
    skeleton = "".join(piece.literal + ("x" if piece.name else "") for piece in pieces).removesuffix("x")
    if skeleton.startswith("/"):
        raise PathInvalid(f"The path {text!r} is absolute: it must be relative to the folder {IMAGES}.")
    for segment in skeleton.split("/"):
        _check_segment(text, segment)


def _check_literal(text: str, literal: str) -> None:
    bad = sorted(set(_FORBIDDEN.findall(literal.replace("/", ""))))
    if bad or not literal.isprintable():
        shown = " ".join(c for c in bad if c.isprintable()) or "a control character or an unusual space"
        raise PathInvalid(f"The path {text!r} has characters that some systems do not allow in a name: {shown}.")
    if literal and unicodedata.category(literal[0]).startswith("M"):
        raise PathInvalid(f"The path {text!r} has an accent that would change the value before it. Remove it.")


def _check_segment(text: str, segment: str) -> None:
    if segment in {".", ".."}:
        raise PathInvalid(f"The path {text!r} steps out of its folder with {segment!r}: remove that.")
    if not segment:
        raise PathInvalid(f"The path {text!r} has an empty name between its slashes or before {{ext}}.")
    if segment.endswith(".") and text.endswith(segment[-1:] + "{ext}"):
        raise PathInvalid(f"The path {text!r} has a dot before {{ext}}, which has its own: remove it.")
    if segment[0] in " ." or segment[-1] in " .":
        raise PathInvalid(f"The path {text!r} has a name that begins or ends with a dot or a space: remove it.")


# --- values ------------------------------------------------------------------------------------------------


def _value(piece: _Piece, job: Job, index: int, ext: str) -> str:
    name = piece.name
    if name == "job_id":
        return job.id
    if name in {"index", "repeat"}:
        return str(index if name == "index" else job.repeat).zfill(piece.width)
    if name == "ext":
        return ext
    if name == "prompt_id":
        return _portable(job.prompt_id)
    if not name:
        return ""
    value = job.labels.get(name)  # an axis entry's own `id` takes precedence over its value
    if value is None:
        value = getattr(job.parameters, name) if name in PLACEHOLDERS else ""
    return _portable(value.replace(":", "x") if name == "aspect_ratio" else value)


@lru_cache(maxsize=4096)
def _portable(value: str) -> str:
    """A value as part of a name. It is never empty, and neither begins nor ends with a dot or a space."""
    value = _FORBIDDEN.sub("-", _BLANKS.sub(" ", unicodedata.normalize("NFC", value))).strip(" .")
    if value and unicodedata.category(value[0]).startswith("M"):
        return "_" + value  # an accent would combine with the character before it
    return value or "_"


def _head(value: str, size: int) -> str:
    """The beginning of a value, of at most `size` bytes, whole characters only."""
    return value.encode()[:size].decode(errors="ignore").rstrip(" .") or "_"
