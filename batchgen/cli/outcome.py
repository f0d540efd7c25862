"""How a command ended: in every JSON result, in every summary, and as the exit code."""

from __future__ import annotations

import errno
import json
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from batchgen.cli import terminal
from batchgen.errors import BatchgenError, ExitCode, ReasonCode
from batchgen.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchgen.errors import Diagnostic, SourceLocation

_SUCCESSES = frozenset({ExitCode.OK, ExitCode.CHANGES})
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})
_SIGNALS = {129: "The terminal was closed", 130: "Interrupted", 143: "Terminated"}


def header(exit_code: int, reason_code: ReasonCode) -> dict[str, Any]:
    """The first keys of every JSON result."""
    return {"ok": exit_code in _SUCCESSES, "exit_code": int(exit_code), "reason_code": reason_code.value}


def checked(*, ok: bool, exit_code: int = ExitCode.INCOMPLETE) -> dict[str, Any]:
    """The header of a command that looks for problems."""
    return header(ExitCode.OK, ReasonCode.COMPLETE) if ok else header(exit_code, ReasonCode.FINDINGS)


def print_result(data: Mapping[str, Any]) -> None:
    """Print the one JSON document of `--json`."""
    print(json.dumps(data, ensure_ascii=False, indent=2))


class Outcome(NamedTuple):
    """The end of a command by an error: its exit code, its reason and a sentence for people."""

    exit_code: int
    reason_code: ReasonCode
    sentence: str

    def as_data(self) -> dict[str, Any]:
        return {**header(self.exit_code, self.reason_code), "reason": self.sentence}


def outcome_of(error: BaseException, *, running: bool) -> Outcome:
    """What an error means for the command. `running`: the command is `run`."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, BatchgenError):
        return Outcome(error.exit_code, error.reason_code, str(error))
    interrupt = error if isinstance(error, KeyboardInterrupt) else error.__cause__
    if isinstance(interrupt, KeyboardInterrupt):  # Python 3.11 wraps it where a class is being made
        code = getattr(interrupt, "exit_code", 130)
        return Outcome(code, ReasonCode.INTERRUPTED, f"{_SIGNALS[code]}. Run again to go on.")
    if isinstance(error, OSError) and is_about_a_file(error):
        what = f"{error.filename}: " if error.filename else ""
        sentence = f"{what}{error.strerror or error}. Fix it, then try again."
        return Outcome(ExitCode.STOPPED if running else ExitCode.INVALID, ReasonCode.DISK, sentence)
    return Outcome(ExitCode.DEFECT, ReasonCode.DEFECT, _defect(error))


def is_about_a_file(error: OSError) -> bool:
    """Whether it names a file, or is a disk's refusal: the user can fix that. Any other one is a defect."""
    return bool(error.filename) or error.errno in _DISK_ERRORS


def _defect(error: BaseException) -> str:
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = f" ({where.tb_frame.f_code.co_name}, line {where.tb_lineno})" if where else ""
    return (
        f"this is a defect of batchgen, not of your input: {type(error).__name__}: {redact(str(error))}{place}. Nothing"
        " paid for is lost: run again to go on. To report it, set BATCHGEN_TRACEBACK=1 and run once more."
    )


def print_problems(problems: Sequence[Diagnostic]) -> None:
    """Print them on standard error: with their source lines for people, or as one record each in a log of JSON."""
    if terminal.is_log(sys.stderr):
        print(*problems, sep="\n", file=sys.stderr)
        return
    from batchgen.manifest.explain import render  # noqa: PLC0415 - only where there is something to explain

    color = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    lines = [render(problem, color=color) for problem in problems]
    if (errors := sum(not problem.warning for problem in problems)) > 1:
        lines.append(f"{errors} errors; nothing was sent and nothing was written.")
    # Only the colours are control characters, and they are ours.
    terminal.write(terminal.beneath(sys.stderr), "\n".join(lines) + "\n")


def problems_as_data(problems: Sequence[Diagnostic]) -> list[dict[str, Any]]:
    return [
        {
            **_place(problem.place),
            "path": problem.path,
            "severity": "warning" if problem.warning else "error",
            "message": problem.message,
            "hint": problem.hint,
            "also": [_place(place) for place in problem.also],
        }
        for problem in problems
    ]


def _place(place: SourceLocation) -> dict[str, Any]:
    return {"file": place.file, "line": place.line, "column": place.column}
