"""What a run counts while it is under way, for whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Counters:
    """What the engine counts. Nobody else writes it during a run."""

    images_wanted: int = 0
    images_done: int = 0
    images_to_fetch: int = 0  # made at the gateway, and not downloaded yet
    jobs_wanted: int = 0
    jobs_done: int = 0
    jobs_failed: int = 0  # ended without all their images
    slots_in_use: int = 0
    slots: int = 0
    waiting: int = 0  # jobs next in line for a slot, or waiting for their next attempt
    task_seconds: float | None = None  # mean duration of recent tasks; None: not known yet
    refusals: int = 0  # answers that refused a create for now: too fast, or too many at once
    cost: int | None = None  # millionths of `unit`, spent or reserved; None: not known
    unit: str | None = ""  # None: accounts count in several units, and `cost` means nothing
    note: str = ""  # what a watcher should know now, such as why nothing moves
