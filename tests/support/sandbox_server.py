"""The sandbox in a thread of the test's own process, for tests that neither kill it nor read what it prints."""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self
from unittest.mock import patch
from urllib.request import urlopen

from batchgen.cli.sandbox import configure, settings_from
from batchgen.sandbox.server import Sandbox

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchgen.sandbox.settings import Settings


class SandboxServer:
    """Started when made, with the options of `batchgen sandbox`, on a free port unless `--port` is among them.

    It stands in for a real account, unless it is `marked` as the sandbox that it is. `base_url` is what an account's
    `base_url` is to be.
    """

    def __init__(self, *options: str, env: Mapping[str, str] | None = None, marked: bool = False) -> None:
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, str]] = Future()
        self._thread = threading.Thread(target=self._run, args=(_settings(options, env or {}, marked),), name="sandbox")
        self._thread.start()
        self._loop, self._end, self.base_url = self._started.result(timeout=20)

    def usage(self, *, tasks: bool = True) -> dict[str, Any]:
        """What was asked and billed so far."""
        url = f"{self.base_url.removesuffix('/kling')}/_usage?tasks={int(tasks)}"
        with urlopen(url, timeout=30) as answer:  # noqa: S310 - our own server's
            return json.load(answer)

    def stop(self) -> None:
        """Stop listening. A second call does nothing."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()

    def _run(self, settings: Settings) -> None:
        try:
            asyncio.run(self._serve(settings))
        except Exception as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self, settings: Settings) -> None:
        end = asyncio.Event()
        async with Sandbox(settings) as sandbox:
            self._started.set_result((asyncio.get_running_loop(), end, sandbox.base_url))
            await end.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()


def _settings(options: tuple[str, ...], env: Mapping[str, str], marked: bool) -> Settings:  # noqa: FBT001
    parser = argparse.ArgumentParser()
    configure(parser)
    port = () if "--port" in options else ("--port", "0")
    unmarked = () if marked else ("--unmarked",)
    with patch.dict("os.environ", env):
        return settings_from(parser.parse_args([*port, *unmarked, *options]))
