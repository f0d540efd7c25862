"""After a run: its summary as one JSON line in a file, as metrics, and on the stdin of a command or in a webhook.

A failure here is reported and changes no exit code, because the images are made and paid for.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from batchgen.cli import terminal
from batchgen.cli.outcome import header, outcome_of
from batchgen.errors import BatchgenError, ReasonCode
from batchgen.formatting import utc

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from batchgen.app.run_result import RunResult
    from batchgen.cli.metrics import MeteredProgress
    from batchgen.manifest.model import Manifest

TIMEOUT_SECONDS = 30.0  # for a command or a webhook
EXIT_TIMEOUT_SECONDS = 3.0  # where the process is about to exit
_MAX_OUTPUT = 65_536  # bytes of a command's output that a log of JSON takes in


class RunHooks:
    """Reports the end of a run, however it ends. `path` is the manifest's, None where none was read.

    The caller fills in what becomes known: the manifest as soon as it is read, `notify` for warnings, the metrics once
    their file is checked, the result.
    """

    def __init__(self, path: Path | None, summary: Path | None) -> None:
        self.manifest: Manifest | None = None
        self.result: RunResult | None = None
        self.notify: Callable[..., None] = _print_warning
        self.metrics: MeteredProgress | None = None
        self._path = path
        self._summary = summary
        self._started = datetime.now(UTC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.report_error(error)
        elif self.result is not None:
            self._report(self.result.as_data())

    def report_error(self, error: BaseException) -> None:
        self._report(outcome_of(error, running=True).as_data())

    def before_exit(self, exit_code: int, reason: str) -> None:
        """Report a run whose process is about to exit, without waiting for anybody longer than a moment."""
        line = self._written({**header(exit_code, ReasonCode.INTERRUPTED), "reason": reason})
        thread = threading.Thread(target=self._call, args=(line, EXIT_TIMEOUT_SECONDS), daemon=True)
        thread.start()
        thread.join(EXIT_TIMEOUT_SECONDS + 1)

    def _report(self, outcome: dict[str, Any]) -> None:
        self._call(self._written(outcome), TIMEOUT_SECONDS)

    def _written(self, outcome: dict[str, Any]) -> str:
        """Write the files about the run; returns its summary as a line of JSON."""
        record = {
            "name": None if self.manifest is None else self.manifest.name,
            "manifest": None if self._path is None else str(self._path),
            "started_at": utc(self._started, timespec="seconds"),
            "ended_at": utc(timespec="seconds"),
            **outcome,
        }
        if self.metrics is not None:
            self.metrics.write(record)
        line = terminal.harmless(json.dumps(record, ensure_ascii=False, separators=(",", ":")))
        self._append(line)
        return line

    def _append(self, line: str) -> None:
        path = self._summary
        if path is None:
            return
        try:
            with path.open("a", encoding="utf-8") as file:  # one write of one line: runs may share a file
                file.write(line + "\n")
        except OSError as error:
            self.notify(f"The summary could not be written to {path}: {error.strerror}.", level="warning")

    def _call(self, line: str, timeout: float) -> None:
        """Run the command, or call the webhook, that the manifest names in `on_finish`."""
        hook = None if self.manifest is None else self.manifest.on_finish
        if not hook:
            return
        problem = _post(hook, line, timeout) if isinstance(hook, str) else _run(hook, line, timeout)
        if problem:
            self.notify(f"on_finish: {problem}", level="warning")


def report_usage_error(error: BaseException, summary: str | None, metrics: str | None) -> None:
    """Report a run whose command line cannot be read, in the files that it names."""
    hooks = RunHooks(None, Path(summary) if summary else None)
    if metrics:
        from batchgen.cli.metrics import MeteredProgress  # noqa: PLC0415

        hooks.metrics = MeteredProgress(Path(metrics), None)
        try:
            hooks.metrics.check()
        except BatchgenError:
            hooks.metrics = None
    hooks.report_error(error)


def _print_warning(message: str, **_: object) -> None:
    print(message, file=sys.stderr)


def _run(words: tuple[str, ...], line: str, timeout: float) -> str:
    """Run a command with the summary on its stdin; its output goes to stderr. Returns the problem, or nothing."""
    if not terminal.is_log(sys.stderr):
        return _run_into(words, line, 2, timeout)
    with tempfile.TemporaryFile() as file:  # no pipe: what the command leaves running would hold it open
        problem = _run_into(words, line, file.fileno(), timeout)
        file.seek(0)
        for text in file.read(_MAX_OUTPUT).decode("utf-8", "replace").splitlines():
            terminal.write(terminal.beneath(sys.stderr), terminal.record(level="info", on_finish=text) + "\n")
    return problem


def _run_into(words: tuple[str, ...], line: str, output: int, timeout: float) -> str:
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
        process.communicate(line + "\n", timeout=timeout)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with whatever it has started
        process.wait()
        return f"{words[0]} took more than {timeout:.3g} seconds and was ended."
    return f"{words[0]} ended with {process.returncode}." if process.returncode else ""


def _post(url: str, line: str, timeout: float) -> str:
    """POST the summary to a webhook. Returns the problem, or nothing."""
    import asyncio  # noqa: PLC0415 - only where there is a webhook

    from batchgen.http.client import HttpClient  # noqa: PLC0415

    async def post() -> str:
        async with asyncio.timeout(timeout), HttpClient(1) as client:
            headers = {"Content-Type": "application/json"}
            answer = await client.send("POST", url, headers=headers, body=line.encode())
        return "" if 200 <= answer.status < 300 else f"the webhook answered HTTP {answer.status}."

    try:
        return asyncio.run(post())
    except TimeoutError:
        return f"the webhook took more than {timeout:.3g} seconds."
    except BatchgenError as error:
        return str(error)
