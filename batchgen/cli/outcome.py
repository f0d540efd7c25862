"""How a command ended, as every JSON result, every summary and the exit code tell it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from batchgen.errors import BatchgenError, ReasonCode
from batchgen.redaction import redact

_FINE = frozenset({0, 5})  # 5: `plan --exit-code` found something to do, which is nothing wrong


def header(exit_code: int, reason_code: ReasonCode) -> dict[str, Any]:
    """What every JSON result begins with."""
    return {"ok": exit_code in _FINE, "exit_code": exit_code, "reason_code": reason_code.value}


def checked(*, ok: bool, exit_code: int = 1) -> dict[str, Any]:
    """The header of a command that looks for what is wrong."""
    return header(0, ReasonCode.COMPLETE) if ok else header(exit_code, ReasonCode.FINDINGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An end by an error: its exit code, its reason and the sentence for people."""

    exit_code: int
    reason_code: ReasonCode
    sentence: str
    is_defect: bool = False

    def as_data(self) -> dict[str, Any]:
        """For a summary."""
        return {**header(self.exit_code, self.reason_code), "reason": self.sentence}


def outcome_of(error: BaseException, *, running: bool) -> Outcome:
    """What an error means that nobody below has dealt with. `running`: the command was `run`."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, BatchgenError):
        return Outcome(exit_code=error.exit_code, reason_code=error.reason_code, sentence=str(error))
    interrupt = error if isinstance(error, KeyboardInterrupt) else error.__cause__
    if isinstance(interrupt, KeyboardInterrupt):  # Python 3.11 wraps it where a class is being made
        code = getattr(interrupt, "exit_code", 130)
        return Outcome(exit_code=code, reason_code=ReasonCode.INTERRUPTED, sentence=f"{_NAMES[code]}. {_GO_ON}")
    if isinstance(error, OSError):
        # A file or folder of the user's that cannot be read or written; what a run meets on its way it says itself.
        what = f"{error.filename}: " if error.filename else ""
        return Outcome(
            exit_code=3 if running else 2,
            reason_code=ReasonCode.DISK,
            sentence=f"{what}{error.strerror or error}. Fix it, then try again.",
        )
    return Outcome(exit_code=70, reason_code=ReasonCode.DEFECT, sentence=_defect(error), is_defect=True)


_GO_ON = "Run again to go on."
_NAMES = {129: "The terminal was closed", 130: "Interrupted", 143: "Terminated"}


def _defect(error: BaseException) -> str:
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = f" ({where.tb_frame.f_code.co_name}, line {where.tb_lineno})" if where else ""
    return (
        f"this is a defect of batchgen, not of your input: {type(error).__name__}: {redact(str(error))}{place}. Nothing"
        " paid for is lost: run again to go on. To report it, set BATCHGEN_TRACEBACK=1 and run once more."
    )
