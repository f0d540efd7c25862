"""Links to images: how an answer writes them, and how the image host reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchgen.sandbox.tasks import Task

PREFIX = "/images/"
_WATERMARK = "-watermark"


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """The links of one answer. `origin` is as in http://127.0.0.1:8080."""

    origin: str
    ext: str
    query: str = ""

    def of(self, task: Task, index: int, *, watermark: bool = False) -> str:
        """The link of an image, or of its watermarked copy."""
        return f"{self.origin}{PREFIX}{task.id}/{index}{_WATERMARK if watermark else ''}{self.ext}{self.query}"


def read(path: str, ext: str) -> tuple[str, str, bool]:
    """Task id, index and whether it is the watermarked copy; the index is empty where this is no image's path."""
    task_id, _, name = path.removeprefix(PREFIX).partition("/")
    stem = name.removesuffix(ext)
    index = stem.removesuffix(_WATERMARK)
    return task_id, "" if stem == name else index, index != stem
