"""After a run: its summary as one JSON line in a file, and a command or a webhook that is told of it.

Whatever goes wrong here is said and changes no exit code: the images are made, and paid for.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from batchgen.cli import terminal
from batchgen.cli.outcome import header, outcome_of
from batchgen.errors import ReasonCode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from batchgen.cli.run_report import Ending
    from batchgen.manifest.model import Manifest

SECONDS = 30.0  # that a command or a webhook may take
MOMENT_SECONDS = 3.0  # that it may take where the process is to leave at once
_MOST_SAID = 65_536  # bytes of a command's output that a log of JSON takes in

OnFinish = tuple[str, ...] | str | None


class Finish:
    """The end of a run, as a context: however it comes, it is told. `path` is the manifest's, None where none was read.

    Who runs fills in what becomes known: the manifest as soon as it is read, `say` for complaints, the ending.
    """

    def __init__(self, path: Path | None, summary: Path | None) -> None:
        self.manifest: Manifest | None = None
        self.ending: Ending | None = None
        self.say: Callable[..., None] = _complain
        self._path = path
        self._summary = summary
        self._began = datetime.now(UTC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.end_by(error)
        elif self.ending is not None:
            self._tell(self.ending.as_data())

    def end_by(self, error: BaseException) -> None:
        """Tell of a run that ends by an error."""
        self._tell(outcome_of(error, running=True).as_data())

    def end_at_once(self, exit_code: int, reason: str) -> None:
        """Tell of a run whose process is about to leave: nobody is waited for longer than a moment."""
        line = self._line({**header(exit_code, ReasonCode.INTERRUPTED), "reason": reason})
        self._append(line)
        teller = threading.Thread(target=self._hand_over, args=(line, MOMENT_SECONDS), daemon=True)
        teller.start()
        teller.join(MOMENT_SECONDS + 1)

    def _tell(self, ending: dict[str, Any]) -> None:
        line = self._line(ending)
        self._append(line)
        self._hand_over(line, SECONDS)

    def _line(self, ending: dict[str, Any]) -> str:
        now = datetime.now(UTC)
        record = {
            "name": None if self.manifest is None else self.manifest.name,
            "manifest": None if self._path is None else str(self._path),
            "began": self._began.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "ended": now.isoformat(timespec="seconds").replace("+00:00", "Z"),
            **ending,
        }
        return terminal.harmless(json.dumps(record, ensure_ascii=False, separators=(",", ":")))

    def _append(self, line: str) -> None:
        path = self._summary
        if path is None:
            return
        try:
            with path.open("a", encoding="utf-8") as file:  # one write of one line: runs may share a file
                file.write(line + "\n")
        except OSError as error:
            self.say(f"The summary could not be written to {path}: {error.strerror}.", level="warning")

    def _hand_over(self, line: str, seconds: float) -> None:
        to: OnFinish = None if self.manifest is None else self.manifest.on_finish
        problem = ""
        if isinstance(to, str):
            problem = _posted(to, line, seconds)
        elif to:
            problem = _run(to, line, seconds)
        if problem:
            self.say(f"on_finish: {problem}", level="warning")


def _complain(message: str, **_: object) -> None:
    print(message, file=sys.stderr)


def _run(words: tuple[str, ...], line: str, seconds: float) -> str:
    """Run a command with the summary on its stdin; what is wrong with it, or nothing. Its output goes to stderr."""
    if not terminal.is_log(sys.stderr):
        return _run_into(words, line, 2, seconds)
    with tempfile.TemporaryFile() as file:  # no pipe: what the command leaves running would hold it open
        problem = _run_into(words, line, file.fileno(), seconds)
        file.seek(0)
        for said in file.read(_MOST_SAID).decode("utf-8", "replace").splitlines():
            terminal.write(terminal.beneath(sys.stderr), terminal.record(level="info", on_finish=said) + "\n")
    return problem


def _run_into(words: tuple[str, ...], line: str, output: int, seconds: float) -> str:
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own command, without a shell
            words,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
    except OSError as error:
        return f"{words[0]} could not be started: {error.strerror}."
    try:
        process.communicate(line + "\n", timeout=seconds)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with whatever it has started
        process.wait()
        return f"{words[0]} took more than {seconds:.3g} seconds and was ended."
    return f"{words[0]} ended with {process.returncode}." if process.returncode else ""


def _posted(url: str, line: str, seconds: float) -> str:
    """POST the summary to a webhook; what is wrong with it, or nothing."""
    import asyncio  # noqa: PLC0415 - only where there is a webhook

    from batchgen.errors import BatchgenError  # noqa: PLC0415
    from batchgen.http.client import open_http_client  # noqa: PLC0415

    async def post() -> str:
        async with asyncio.timeout(seconds), open_http_client(1) as client:
            headers = {"Content-Type": "application/json"}
            answer = await client.send("POST", url, headers=headers, body=line.encode())
        return "" if 200 <= answer.status < 300 else f"the webhook answered HTTP {answer.status}."

    try:
        return asyncio.run(post())
    except TimeoutError:
        return f"the webhook took more than {seconds:.3g} seconds."
    except BatchgenError as error:
        return str(error)
