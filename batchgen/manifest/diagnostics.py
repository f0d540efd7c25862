"""Collects the diagnostics of a manifest, each with its place; words for their sentences."""

from __future__ import annotations

import difflib
from operator import attrgetter
from typing import TYPE_CHECKING

from batchgen.errors import Diagnostic, SourceLocation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batchgen.manifest.model import NodePath
    from batchgen.source.document import Document


class Diagnostics:
    """The errors and warnings of one manifest and its files."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Diagnostic] = []
        self._said: set[tuple[SourceLocation, str]] = set()

    def add(
        self,
        path: NodePath,
        message: str,
        hint: str = "",
        *,
        key: bool = False,
        also: Sequence[NodePath | SourceLocation] = (),
        place: SourceLocation | None = None,
        warning: bool = False,
    ) -> None:
        """Add one at `path` of the manifest (at its key, with `key`), or at `place` of another file."""
        places = (other if isinstance(other, SourceLocation) else self.document.place(other) for other in also)
        found = Diagnostic(
            place=place or self.document.place(path, key=key),
            path=written_path(path),
            message=message,
            hint=hint,
            also=tuple(places),
            warning=warning,
        )
        self.extend([found])

    def extend(self, found: Iterable[Diagnostic]) -> None:
        """Add diagnostics; one that repeats the message of another at the same place is left out."""
        for diagnostic in found:
            said = (diagnostic.place, diagnostic.message)
            if said not in self._said:
                self._said.add(said)
                self.problems.append(diagnostic)

    @property
    def errors(self) -> int:
        """How many of them are errors."""
        return sum(not found.warning for found in self.problems)

    def in_order(self) -> tuple[Diagnostic, ...]:
        """All of them, the manifest's before those of other files, by place."""
        own, place = self.document.file, attrgetter("place.file", "place.line", "place.column")
        return tuple(sorted(self.problems, key=lambda found: (found.place.file != own, *place(found))))


def written_path(path: NodePath) -> str:
    """A path as people write it: `matrix.aspect_ratio[2]`."""
    parts = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in path]
    return "".join(parts).removeprefix(".")


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant, or an empty text."""
    words = list(known)
    folded = {other.casefold(): other for other in words}
    if word.casefold() in folded:
        return folded[word.casefold()]
    found = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return found[0] if found else ""


def meant(word: str, known: Iterable[str], *, allowed: str = "Allowed are") -> str:
    """The hint that names the nearest word, else all that are allowed."""
    words = list(known)
    if guess := nearest(word, words):
        return f"Did you mean `{guess}`?"
    return f"{allowed} {listed(words)}." if words else ""


def listed(words: Iterable[object], most: int = 20) -> str:
    """Words as a sentence has them: `a, b and c`."""
    texts = [str(word) for word in words]
    if len(texts) > most:
        texts = [*texts[:most], f"{len(texts) - most} more"]
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else "".join(texts)


def cut(value: object, length: int = 60) -> str:
    """A value short enough for a message."""
    text = value if isinstance(value, str) else repr(value)
    text = text.replace("\n", "⏎")
    return text if len(text) <= length else text[: length - 1] + "…"
