"""After a run: its summary as one JSON line in a file, and a command or a webhook that is told of it.

Whatever goes wrong here is said and changes no exit code: the images are made, and paid for.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchgen.manifest.model import Manifest

SECONDS = 30.0  # that a command or a webhook may take

OnFinish = tuple[str, ...] | str | None


class Finish:
    """Knows when the run began, whom to tell, and how to complain: `say(text, level=…)`."""

    def __init__(self, manifest: Manifest, summary: Path | None, say: Callable[..., None]) -> None:
        self._manifest = manifest
        self._summary = summary
        self._say = say
        self._began = datetime.now(UTC)

    def tell(self, ending: dict[str, Any]) -> None:
        """Append the summary, and hand it to `on_finish`. `ending` is a run's ending, or an error's code and words."""
        if self._summary is None and self._manifest.on_finish is None:
            return
        now = datetime.now(UTC)
        record = {
            "name": self._manifest.name,
            "manifest": str(self._manifest.path),
            "began": self._began.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "ended": now.isoformat(timespec="seconds").replace("+00:00", "Z"),
            **ending,
        }
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        if self._summary is not None:
            self._append(self._summary, line)
        self._hand_over(self._manifest.on_finish, line)

    def _append(self, path: Path, line: str) -> None:
        try:
            with path.open("a", encoding="utf-8") as file:  # one write of one line: runs may share a file
                file.write(line + "\n")
        except OSError as error:
            self._say(f"The summary could not be written to {path}: {error.strerror}.", level="warning")

    def _hand_over(self, to: OnFinish, line: str) -> None:
        problem = ""
        if isinstance(to, str):
            problem = _posted(to, line)
        elif to:
            problem = _run(to, line)
        if problem:
            self._say(f"on_finish: {problem}", level="warning")


def _run(words: tuple[str, ...], line: str) -> str:
    """Run a command with the summary on its stdin; what is wrong with it, or nothing. Its output goes to stderr."""
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own command, without a shell
            words, stdin=subprocess.PIPE, stdout=2, text=True, encoding="utf-8", start_new_session=True
        )
    except OSError as error:
        return f"{words[0]} could not be started: {error.strerror}."
    try:
        process.communicate(line + "\n", timeout=SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with whatever it has started
        process.wait()
        return f"{words[0]} took more than {SECONDS:.0f} seconds and was ended."
    return f"{words[0]} ended with {process.returncode}." if process.returncode else ""


def _posted(url: str, line: str) -> str:
    """POST the summary to a webhook; what is wrong with it, or nothing."""
    import asyncio  # noqa: PLC0415 - only where there is a webhook

    from batchgen.door import open_door  # noqa: PLC0415
    from batchgen.errors import BatchgenError  # noqa: PLC0415

    async def post() -> str:
        async with asyncio.timeout(SECONDS), open_door(1) as door:
            headers = {"Content-Type": "application/json"}
            answer = await door.send("POST", url, headers=headers, body=line.encode())
        return "" if 200 <= answer.status < 300 else f"the webhook answered HTTP {answer.status}."

    try:
        return asyncio.run(post())
    except TimeoutError:
        return f"the webhook took more than {SECONDS:.0f} seconds."
    except BatchgenError as error:
        return str(error)
