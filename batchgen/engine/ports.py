"""What the engine needs from outside: somebody who records events, and somebody who keeps images.

The engine opens no file. Whoever starts it passes these in; inside it, the poller and the slots of an account are
replaceable in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.engine.timings import Phase
    from batchgen.jobs import ImageKey, Job, Parameters, ReceivedImage
    from batchgen.ledger.events import Event
    from batchgen.providers.base import Task


class Recorder(Protocol):
    """Writes events to the ledger."""

    async def record(self, *events: Event, after_commit: Callable[[], None] | None = None) -> None:
        """Return when the events are on disk, and `then` was called. Raises RunStopped where the disk refuses."""


class Permit(Protocol):
    """Slots of an account that one attempt holds."""

    def enter(self, phase: Phase) -> None:
        """Note what holds the slots from now on."""

    def give(self) -> None:
        """Give the slots back; a second call does nothing."""


class Poller(Protocol):
    """Waits for tasks at the gateway."""

    async def ended(self, task_id: str, parameters: Parameters, external_id: str) -> Task:
        """Return the task once it has ended. Raises TaskNotFound, and Unclear where nobody can say."""


class ImageStorage(Protocol):
    """Where images are kept."""

    async def fetch(self, url: str, key: ImageKey, *, base_url: str, idle_timeout: float) -> ReceivedImage:
        """Download one image and check it. `idle_timeout`: seconds without a byte.

        Raises LinkExpired, LinkRefused, ImageBroken, Unclear or NotSent where it does not arrive whole,
        TooFewDescriptors where this process may open no more files, and RunStopped where the disk refuses.
        """

    async def keep(self, job: Job, key: ImageKey, image: ReceivedImage, *, wanted: bool, warning: str) -> str:
        """Record the image, then put it at its place, and return that. Raises RunStopped where the disk refuses.

        `wanted`: whether the manifest asks for the job; if not, its name may be another job's by now.
        """

    async def retire_earlier(self, job_id: str, attempt: int) -> None:
        """Move the images of earlier attempts out of the way: nothing that was paid for is overwritten."""
