"""Prints what is wrong with a manifest, for people and as data."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from batchgen.cli import terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchgen.errors import Diagnostic, SourceLocation


def report(problems: Sequence[Diagnostic]) -> None:
    """Print them on standard error: with their source lines for people, or as one record each in a log of JSON."""
    if terminal.is_log(sys.stderr):
        print(*problems, sep="\n", file=sys.stderr)
        return
    from batchgen.manifest.explain import render  # noqa: PLC0415 - only where there is something to explain

    color = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    lines = [render(problem, color=color) for problem in problems]
    if (errors := sum(not problem.warning for problem in problems)) > 1:
        lines.append(f"{errors} errors; nothing was sent and nothing was written.")
    # Only the colours are control characters, and they are ours.
    terminal.write(terminal.beneath(sys.stderr), "\n".join(lines) + "\n")


def as_data(problems: Sequence[Diagnostic]) -> list[dict[str, Any]]:
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
