"""The table of results, in Markdown, so that it can be pasted into docs/benchmarks.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table. `reached` is None where nothing is aimed at."""

    figure: str
    aim: str = ""
    reached: bool | None = None
    note: str = ""


def show(name: str, line: Line) -> None:
    """Print one line."""
    verdict = {True: "reached", False: "**missed**", None: ""}[line.reached]
    print(f"| {name} | {line.figure} | {line.aim} | {verdict} | {line.note} |", flush=True)


def show_head() -> None:
    """Print the head of the table."""
    print("| row | figure | aim | | note |\n|---|---|---|---|---|")
