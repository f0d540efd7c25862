"""Hands downloads to a crew in batches, and says what came of each. The coordinator judges: no answer here is final.

A worker may answer falsely (its network blocks what ours does not), late, or never. What is lost is reported as lost,
to be done by the coordinator itself. Only what was lost because its worker died is tried again here, alone, for the
coordinator might die of it too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import BrokenExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING

from batchgen.errors import CommandError, ImageBroken
from batchgen.storage.tree import scratch_name
from batchgen.workers import functions
from batchgen.workers.protocol import PROTOCOL, Answer, DownloadRequest, Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from batchgen.http.downloads import Reach
    from batchgen.jobs import ImageKey
    from batchgen.workers.crews import Crew

LARGEST_BATCH = 16  # after a death, so many are downloaded again
WITHIN_SECONDS = 60.0  # for a batch in a worker; what takes longer is downloaded by the coordinator, with its patience
GRACE_SECONDS = 30.0
START_SECONDS = 60.0  # for the first worker to answer
_DEATHS = 2  # so often an image may end its worker while nothing else is being done
DIED, HUNG, LOST, PRIVATE = "Died", "Hung", "Lost", "Private"  # kinds of failures, beside those that a worker reports


@dataclass(slots=True, eq=False)
class _Waiting:
    key: ImageKey
    request: DownloadRequest
    answer: asyncio.Future[Answer]


class Dispatcher:
    """One run's downloads at a crew. `open_dispatcher` starts it."""

    def __init__(self, crew: Crew, folder: Path, batch: int) -> None:
        self._crew = crew
        self._folder = folder.absolute()
        self._batch = max(1, min(batch, LARGEST_BATCH))
        self._waiting: deque[_Waiting] = deque()
        self._unanswered: set[_Waiting] = set()
        self._broken: Failure | None = None
        self._suspects: deque[_Waiting] = deque()  # whose worker died: each is tried again while nothing else is
        self._deadly: set[ImageKey] = set()
        self._out = 0
        self._generation = 0  # of workers
        self._ended_for: dict[int, str] = {}  # why all workers of a generation were ended
        self._changed = asyncio.Event()

    async def fetch(self, key: ImageKey, url: str, reach: Reach, idle_timeout: float) -> tuple[str, Answer]:
        """The name of the scratch file, and what a worker says of it.

        A Failure says nothing about the image: the caller downloads it itself. Raises ImageBroken where workers died of
        it, for whoever tries it would.
        """
        name = ""
        answer: Answer | None = self._refusal(reach)
        if answer is None and key not in self._deadly:
            waiting = _Waiting(key, _request(key, url, reach, idle_timeout), asyncio.get_running_loop().create_future())
            self._waiting.append(waiting)
            self._unanswered.add(waiting)
            self._changed.set()
            try:
                answer = await waiting.answer
            finally:
                self._unanswered.discard(waiting)
            name = waiting.request.name
        if answer is None or key in self._deadly:
            raise ImageBroken(
                "The image ended the workers that downloaded it: it may need more memory than there is. It is not tried"
                " again in this run."
            )
        return name, answer

    def _refusal(self, reach: Reach) -> Failure | None:
        """Why no worker is asked."""
        if reach.is_private and not self._crew.here:
            return Failure(kind=PRIVATE, message="Its link may lead into a network that is private to this machine.")
        return self._broken

    async def check(self) -> None:
        """Start the workers, and let them show that they can do what will be asked.

        Raises CommandError, before anything is paid for.
        """
        probe = self._folder / f"probe.{token_hex(8)}"
        content = token_hex(16)
        try:
            probe.write_text(content, encoding="ascii")
            arguments = (PROTOCOL, str(self._folder), probe.name, content)
            checks = [self._crew.submit(functions.check, *arguments) for _ in range(self._crew.slots)]
            async with asyncio.timeout(START_SECONDS):
                answers = [await asyncio.wrap_future(each) for each in checks]
        except Exception as error:
            detail = str(error) or f"no answer in {START_SECONDS:.0f} s"
            raise CommandError(f"No worker can be used ({type(error).__name__}: {detail}).") from error
        finally:
            probe.unlink(missing_ok=True)
        for failure in filter(None, answers):
            raise CommandError(failure.message)

    async def run(self) -> None:
        """Hand out what waits, as fast as the crew takes it; until it is cancelled, or the crew has no workers more."""
        try:
            await self._hand_out()
        except Exception as error:  # noqa: BLE001 - of a crew, which is anybody's code: all is downloaded here then
            cause = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
            self._broken = Failure(kind=LOST, message=f"No worker is left ({type(cause).__name__}: {cause}).")
            self._deadly.update(each.key for each in self._suspects)  # nobody can tell, so the next run tries
            for waiting in self._unanswered:
                _answer(waiting, self._broken)

    async def _hand_out(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                await self._changed.wait()
                self._changed.clear()
                if self._suspects:
                    if not self._out:
                        await self._try_alone(self._suspects[0])
                        self._suspects.popleft()
                        self._changed.set()
                    continue
                while self._waiting and self._out < self._crew.slots:
                    free = self._crew.slots - self._out
                    size = min(self._batch, -(-len(self._waiting) // free))
                    batch = [self._waiting.popleft() for _ in range(size)]
                    self._out += 1
                    group.create_task(self._carry(batch))

    async def _carry(self, batch: Sequence[_Waiting]) -> None:
        try:
            answers = await self._answers(batch)
        except Exception:
            self._suspects += batch
            raise
        else:
            for waiting, answer in zip(batch, answers, strict=True):
                if isinstance(answer, Failure) and answer.kind == DIED:
                    self._suspects.append(waiting)
                else:
                    _answer(waiting, answer)
        finally:
            self._out -= 1
            self._changed.set()

    async def _try_alone(self, suspect: _Waiting) -> None:
        """Again, while nothing else is out, and twice at most: whatever dies now, dies of this image."""
        answer: Answer | None = None
        for _ in range(_DEATHS):
            if suspect.answer.done():
                return
            before = suspect.request
            suspect.request = _request(suspect.key, before.url, before.reach, before.idle_timeout)
            (answer,) = await self._answers([suspect])
            if not (isinstance(answer, Failure) and answer.kind == DIED):
                break
        else:
            try:
                await self._check_lives()
            except Exception:
                self._suspects.clear()  # workers die without an image, too
                raise
            self._deadly.add(suspect.key)
        if answer is not None:
            _answer(suspect, answer)

    async def _check_lives(self) -> None:
        """The control: a worker that has no image must live, or it was not the image. Raises what a dead one raises."""
        future = self._crew.submit(functions.check, PROTOCOL, str(self._folder), "", "")
        async with asyncio.timeout(START_SECONDS):
            await asyncio.wrap_future(future)

    async def _answers(self, batch: Sequence[_Waiting]) -> Sequence[Answer]:
        generation = self._generation
        limit = 2 * WITHIN_SECONDS + GRACE_SECONDS  # another batch may be before it
        try:
            requests = tuple(each.request for each in batch)
            future = self._crew.submit(functions.fetch, PROTOCOL, requests, str(self._folder), WITHIN_SECONDS)
            answers = await asyncio.wait_for(asyncio.wrap_future(future), limit)
            if len(answers) == len(batch):
                return answers
            lost = Failure(kind=LOST, message="It answered for another number of images.")
        except TimeoutError:
            self._renew(generation, HUNG)
            lost = Failure(kind=HUNG, message=f"It did not answer in {limit:.0f} s.")
        except BrokenExecutor:
            self._renew(generation, DIED)
            lost = Failure(kind=self._ended_for[generation], message="It ended.")
        except Exception as error:  # noqa: BLE001 - a crew is anybody's code, and what it loses is downloaded here
            lost = Failure(kind=LOST, message=f"{type(error).__name__}: {error}")
        return [lost] * len(batch)

    def _renew(self, generation: int, reason: str) -> None:
        """New workers, once for all that the old ones lost."""
        if generation == self._generation:
            self._ended_for[generation] = reason
            self._generation += 1
            self._crew.renew()


def _request(key: ImageKey, url: str, reach: Reach, idle_timeout: float) -> DownloadRequest:
    """A try of its own: a late worker must not write to the file of another one."""
    return DownloadRequest(url=url, name=f"{scratch_name(key)}.{token_hex(8)}", reach=reach, idle_timeout=idle_timeout)


def _answer(waiting: _Waiting, answer: Answer) -> None:
    if not waiting.answer.done():  # else its download was cancelled
        waiting.answer.set_result(answer)


@asynccontextmanager
async def open_dispatcher(crew: Crew, folder: Path, *, batch: int) -> AsyncIterator[Dispatcher]:
    """Downloads at this crew, `batch` at a time in one call at most; the crew is closed at the end.

    Raises CommandError where its workers cannot be used.
    """
    dispatcher = Dispatcher(crew, folder, batch)
    try:
        await dispatcher.check()
        running = asyncio.create_task(dispatcher.run())
        try:
            yield dispatcher
        finally:
            running.cancel()
            await asyncio.wait([running])
    finally:
        await asyncio.to_thread(crew.close)
