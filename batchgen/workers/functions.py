"""What a worker carries out. Each function answers for every image, and raises for none.

They can be repeated at any time: a file is written under a name that is of one try alone, and nothing here knows of
jobs, money or the ledger.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import TimeoutError as ResultTimeoutError
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen import __version__
from batchgen.http.downloads import Downloader, open_downloader
from batchgen.http.network_policy import GatewayResolver
from batchgen.storage.incoming import receive
from batchgen.storage.tree import finish_file
from batchgen.workers.protocol import OTHER_VERSION, PROTOCOL, TIMED_OUT, Answer, DownloadRequest, Failure

if TYPE_CHECKING:
    from batchgen.jobs import ReceivedImage

_CONNECTIONS = 64
_SPARE_SECONDS = 5.0  # for a thread that cannot be interrupted: a disk that hangs


def check(protocol: int, folder: str, name: str, content: str) -> Failure | None:
    """Whether this worker can work for the coordinator: the same protocol, and the same scratch folder."""
    if protocol != PROTOCOL:
        return _other_version(protocol)
    try:
        found = Path(folder, name).read_text(encoding="ascii")
    except (OSError, ValueError):
        found = ""
    if found == content:
        return None
    return Failure(
        kind="OtherFolder",
        message=f"A worker does not see the folder {folder} of this machine. Give --output a folder that both share.",
    )


def fetch(protocol: int, requests: tuple[DownloadRequest, ...], folder: str, within: float) -> tuple[Answer, ...]:
    """Download, check, hash and sync images into the scratch folder, together, within so many seconds."""
    if protocol != PROTOCOL:
        return (_other_version(protocol),) * len(requests)
    process = _this_process()
    future = asyncio.run_coroutine_threadsafe(process.fetch(requests, Path(folder), within), process.loop)
    try:
        return future.result(within + _SPARE_SECONDS)
    except ResultTimeoutError:
        future.cancel()
        return (_timed_out(within),) * len(requests)


class _Process:
    """The event loop of a worker process, in a thread of its own, with the connections that it keeps."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._connections = AsyncExitStack()
        self._downloader: Downloader | None = None
        threading.Thread(target=self.loop.run_forever, name="downloads", daemon=True).start()

    async def fetch(self, requests: tuple[DownloadRequest, ...], folder: Path, within: float) -> tuple[Answer, ...]:
        if self._downloader is None:
            self._downloader = await self._connections.enter_async_context(
                open_downloader(_CONNECTIONS, GatewayResolver())
            )
        async with asyncio.TaskGroup() as group:
            fetches = [group.create_task(_answer(self._downloader, each, folder, within)) for each in requests]
        return tuple(each.result() for each in fetches)


@cache
def _this_process() -> _Process:
    return _Process()


async def _answer(downloader: Downloader, request: DownloadRequest, folder: Path, within: float) -> Answer:
    try:
        async with asyncio.timeout(within):
            return await _download(downloader, request, folder / request.name)
    except TimeoutError:
        return _timed_out(within)
    except Exception as error:  # noqa: BLE001 - whatever happens here, the coordinator tries it itself
        return Failure(kind=type(error).__name__, message=str(error))


async def _download(downloader: Downloader, request: DownloadRequest, path: Path) -> ReceivedImage:
    async with downloader.within(request.reach, request.url, idle_timeout=request.idle_timeout) as body:
        chunks, first = await receive(body, path)
    return await asyncio.to_thread(finish_file, path, chunks, first=first)


def _timed_out(within: float) -> Failure:
    return Failure(kind=TIMED_OUT, message=f"The download took longer than {within:.0f} s.")


def _other_version(protocol: int) -> Failure:
    return Failure(
        kind=OTHER_VERSION,
        message=(
            f"A worker has another version of batchgen: {__version__}, which speaks protocol {PROTOCOL}, and this run"
            f" speaks {protocol}. Install the same version for both."
        ),
    )
