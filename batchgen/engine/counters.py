"""What a run counts while it goes on, for whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Counters:
    """What the engine counts. Nobody else writes it while a run is going."""

    images_wanted: int = 0
    images_done: int = 0
    images_to_fetch: int = 0  # made at the gateway, and not here yet
    jobs_wanted: int = 0
    jobs_done: int = 0
    jobs_failed: int = 0  # ended short for good
    slots_in_use: int = 0
    slots: int = 0
    waiting: int = 0  # jobs next in line for a slot, or waiting for their next attempt
    task_seconds: float | None = None  # how long a task lately took on the average; None: not known yet
    refusals: int = 0  # answers that said: too fast, or too many at once
    cost: int | None = None  # millionths of `unit`, spent or in flight; None: not known
    unit: str = ""
    note: str = ""  # what a watcher should know now, as why nothing moves
