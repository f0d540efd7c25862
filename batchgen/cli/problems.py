"""Faults of a manifest, for people and as data."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

from batchgen.cli import terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchgen.errors import Diagnostic, SourceLocation


def tell(problems: Sequence[Diagnostic]) -> None:
    """Say them on standard error: with their source lines for people, as a record each in a log of JSON."""
    if terminal.is_log(sys.stderr):
        for problem in problems:
            print(problem, file=sys.stderr)
    else:  # its colours are ours; all else in it is harmless
        terminal.write(terminal.beneath(sys.stderr), as_text(problems, sys.stderr) + "\n")


def as_text(problems: Sequence[Diagnostic], stream: TextIO) -> str:
    """Each fault with its source line and a caret; in colour on a terminal only."""
    from batchgen.manifest.explain import render  # noqa: PLC0415 - only where there is something to explain

    color = stream.isatty() and "NO_COLOR" not in os.environ
    faults = sum(1 for problem in problems if not problem.warning)
    lines = [render(problem, color=color) for problem in problems]
    if faults > 1:
        lines.append(f"{faults} faults; nothing was sent and nothing was written.")
    return "\n".join(lines)


def as_data(problems: Sequence[Diagnostic]) -> list[dict[str, Any]]:
    """The same as values for JSON."""
    return [
        {
            **_place(problem.place),
            "path": problem.path,
            "severity": "warning" if problem.warning else "error",
            "message": problem.message,
            "hint": problem.hint,
            "also": [_place(place) for place in problem.also],
        }
        for problem in problems
    ]


def _place(place: SourceLocation) -> dict[str, Any]:
    return {"file": place.file, "line": place.line, "column": place.column}
