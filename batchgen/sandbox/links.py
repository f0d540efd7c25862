"""Where images are: the links that answers give, which may carry their end as an object store's do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from batchgen.sandbox.task import Task

_WATERMARK = "-watermark"


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """The links of one answer. `origin` is as in http://127.0.0.1:8080, `expires` in Unix milliseconds."""

    origin: str
    ext: str = ".png"
    expires: int | None = None

    def of(self, task: Task, index: int, *, marked: bool = False) -> str:
        """The link of an image, or of its watermarked copy."""
        end = "" if self.expires is None else f"?expires={self.expires}"
        return f"{self.origin}/images/{task.id}/{index}{_WATERMARK if marked else ''}{self.ext}{end}"


def read(path: str, ext: str) -> tuple[str, str, bool]:
    """Task, index and whether it is the copy, out of a link's path; the index is empty where it is no such path."""
    task_id, _, name = path.removeprefix("/images/").partition("/")
    stem = name.removesuffix(ext)
    number = stem.removesuffix(_WATERMARK)
    return task_id, "" if stem == name else number, number != stem


def has_expired(query: str, now: int) -> bool:
    """Whether a link that must carry its end is past it, or carries none; `now` in Unix milliseconds."""
    end = parse_qs(query).get("expires", [""])[0]
    return not (end.isascii() and end.isdecimal() and now < int(end[:20]))
