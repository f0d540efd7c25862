"""One process of a check, and its answers as verdicts: whatever it does instead becomes a `CheckFailed`."""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import subprocess
import tempfile
import threading
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self, cast

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_MOST = 64 * 1024  # bytes of an answer
_MOST_TEXT = 1000  # characters
_MOST_SCORES = 100
_VERDICTS = ("", "keep", "reject")


class CheckFailed(Exception):
    """The check gave no verdict of an image; the text says why."""


class Verdict(NamedTuple):
    """What a check says of an image; `mark` is empty where it has nothing against it."""

    mark: str
    why: str
    scores: dict[str, float]


class CheckProcess:
    """Started when first needed, and again after a failure. Close it in the end: it is a context manager."""

    def __init__(self, command: Sequence[str], folder: Path, timeout: float) -> None:
        """`timeout`: seconds for one answer, and for the start before the first one."""
        self._command = command
        self._folder = folder
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._questions: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop()
        self._errors.close()

    def check(self, image: dict[str, Any]) -> Verdict:
        """The verdict of one image. Raises CheckFailed, after which the process is started anew."""
        try:
            return _verdict(self._answer(json.dumps(image).encode() + b"\n"))
        except queue.Empty:
            problem = f"gave no answer within {self._timeout:g} s"
        except CheckFailed as failure:
            problem = f"{failure}{self._last_words() if failure.args[0] == _ENDED else ''}"
        except OSError as error:
            problem = f"cannot be started: {self._command[0]}: {error.strerror or error}"
        self._stop()
        raise CheckFailed(problem)

    def _answer(self, question: bytes) -> bytes:
        process = self._process or self._start()
        if not self._answers.empty():  # or the verdicts would be those of other images
            raise CheckFailed(_ENDED if process.poll() is not None else "gave a line that nobody asked for")
        self._questions.put(question)
        return self._answers.get(timeout=self._timeout)

    def _start(self) -> subprocess.Popen[bytes]:
        self._answers = queue.SimpleQueue()
        self._errors.seek(0)
        self._errors.truncate()
        self._process = process = subprocess.Popen(  # noqa: S603 - the user's own command
            self._command,
            cwd=self._folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C is for batchgen, and what the command starts ends with it
        )
        self._questions = queue.SimpleQueue()
        threading.Thread(target=_read, args=(process.stdout, self._answers), daemon=True).start()
        threading.Thread(target=_write, args=(process.stdin, self._questions), daemon=True).start()
        return process

    def _stop(self) -> None:
        if (process := self._process) is None:
            return
        self._process = None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._questions.put(b"")
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):  # a question that was never read
                cast("IO[bytes]", stream).close()

    def _last_words(self) -> str:
        """The last line that the command wrote on standard error."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
        lines: list[str] = []
        with suppress(ValueError):  # closed by an interruption
            self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - _MOST))
            lines = self._errors.read().decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f": {last[:_MOST_TEXT]}" if last else ""


_ENDED = "ended without an answer"


def _read(output: IO[bytes], answers: queue.SimpleQueue[bytes]) -> None:
    """Pass each line on; an empty one where the output has ended."""
    with suppress(OSError, ValueError):  # closed meanwhile
        while line := output.readline(_MOST):
            answers.put(line)
    answers.put(b"")


def _write(stdin: IO[bytes], questions: queue.SimpleQueue[bytes]) -> None:
    """Pass each question on; a command that does not read holds up this thread alone."""
    with suppress(OSError, ValueError):  # it has ended
        while question := questions.get():
            stdin.write(question)
            stdin.flush()


def _verdict(line: bytes) -> Verdict:
    if not line:
        raise CheckFailed(_ENDED)
    try:
        answer = json.loads(line)
    except ValueError:
        raise CheckFailed(f"gave no JSON: {line[:80].decode('utf-8', 'replace').strip()}") from None
    if not isinstance(answer, dict):
        raise CheckFailed("gave JSON that is no object")
    mark, why, scores = answer.get("verdict") or "", answer.get("why") or "", answer.get("scores") or {}
    if mark not in _VERDICTS:
        raise CheckFailed(f"gave the verdict {str(mark)[:40]!r}, which is neither keep nor reject")
    if not isinstance(scores, dict) or len(scores) > _MOST_SCORES or not all(map(_is_score, scores.values())):
        raise CheckFailed("gave scores that are no mapping of names to numbers")
    return Verdict(mark, str(why)[:_MOST_TEXT], {_name(name): float(value) for name, value in scores.items()})


def _name(text: str) -> str:
    return "".join(sign if sign.isprintable() else "_" for sign in text[:80]).encode("utf-8", "replace").decode()


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
