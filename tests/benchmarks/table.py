"""The table: one line a figure, beside what is aimed at."""

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
    verdict = {True: "reached", False: "MISSED", None: ""}[line.reached]
    print(f"{name:<11}{line.figure:<38}{line.aim:<23}{verdict:<9}{line.note}", flush=True)


def show_head() -> None:
    """Print what the columns are."""
    print(f"{'row':<11}{'figure':<38}{'aim':<23}{'':<9}note")
