"""The tree of errors.

A class says how far its failure reaches (one job, one account, the whole run) and, where it ends the
command, with which exit code. Messages are sentences: what, where, what to do next. Nothing in
batchgen decides by matching on a message.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

from batchgen.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class ExitCode(IntEnum):
    """The exit codes of every command; a signal's is 128 plus its number."""

    OK = 0
    INCOMPLETE = 1
    INVALID = 2
    STOPPED = 3
    OUTPUT_BUSY = 4
    CHANGES = 5  # `plan --exit-code`: there is something to do
    ACCOUNT = 6
    DEFECT = 70
    BROKEN_PIPE = 141  # as if by SIGPIPE


class ReasonCode(StrEnum):
    """Why a command ended as it did: the closed set of `reason_code` in every JSON result and summary."""

    COMPLETE = "complete"  # exit 0
    INCOMPLETE = "incomplete"  # 1: a run finished, but some jobs failed, were rejected or are unknown
    FINDINGS = "findings"  # 1 (validate: 2): what was checked is not as it should be
    COMMAND_INVALID = "command_invalid"  # 2: an option, a missing file, a missing key
    MANIFEST_INVALID = "manifest_invalid"  # 2
    BUDGET = "budget"  # 3
    DEADLINE = "deadline"  # 3
    DISK = "disk"  # 3 (2 where it is no run): a disk refuses, or another program holds the ledger
    GATEWAY = "gateway"  # 3: it cannot be reached, or has refused for too long
    STOPPED = "stopped"  # 3: another cause outside the jobs
    OUTPUT_BUSY = "output_busy"  # 4
    CHANGES = "changes"  # 5: `plan --exit-code`, there is something to do
    ACCOUNT = "account"  # 6: key refused, account empty or closed: only a person can help
    DEFECT = "defect"  # 70
    INTERRUPTED = "interrupted"  # 129, 130, 143: by a signal


class BatchgenError(Exception):
    """The root: everything that batchgen raises on purpose."""

    exit_code: int = ExitCode.INCOMPLETE
    reason_code = ReasonCode.INCOMPLETE

    def __str__(self) -> str:
        """Its sentence, without our keys: it may quote what came from elsewhere."""
        return redact(super().__str__())


# --- the command ends, before anything was sent or written ------------------------------------------------


class CommandError(BatchgenError):
    """The command cannot be carried out as given: a wrong option, a missing file, a missing key."""

    exit_code = ExitCode.INVALID
    reason_code = ReasonCode.COMMAND_INVALID


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLocation:
    """A place in a text file; line and column count from 1, 0 means the whole file or line."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        """`file:line:column`, as editors and terminals make it a link."""
        parts = [self.file, *(str(number) for number in (self.line, self.column) if number)]
        return ":".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One fault of a manifest or of a file it names: where, what is wrong, what to do."""

    place: SourceLocation
    path: str  # as in `matrix.aspect_ratio[2]`; empty for the file as a whole
    message: str
    hint: str = ""
    also: tuple[SourceLocation, ...] = ()  # the other places of a fault that comes from two
    warning: bool = False

    def __str__(self) -> str:
        """One line for a terminal or a log."""
        kind = "warning: " if self.warning else ""
        where = f"{self.path}: " if self.path else ""
        hint = f" {self.hint}" if self.hint else ""
        also = f" (see also {', '.join(map(str, self.also))})" if self.also else ""
        return f"{self.place}: {kind}{where}{self.message}{hint}{also}"


class ManifestInvalid(CommandError):
    """The manifest has faults; all of them are in `problems`."""

    reason_code = ReasonCode.MANIFEST_INVALID

    def __init__(self, problems: Sequence[Diagnostic]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


# --- the run stops before the end, for a cause outside the jobs -------------------------------------------


class RunStopped(BatchgenError):
    """Nothing more is begun; what is in flight is collected; a later run goes on from there."""

    exit_code: int = ExitCode.STOPPED
    reason_code = ReasonCode.STOPPED


class BudgetSpent(RunStopped):
    """The manifest's budget, or this run's, is too small for the next task."""

    reason_code = ReasonCode.BUDGET


class DeadlinePassed(RunStopped):
    """The time has come after which nothing more is to be begun."""

    reason_code = ReasonCode.DEADLINE


class DiskRefused(RunStopped):
    """The disk does not take what has to be kept, or another program holds the ledger."""

    reason_code = ReasonCode.DISK


class GatewayUnavailable(RunStopped):
    """The gateway cannot be reached, or has refused everything for too long."""

    reason_code = ReasonCode.GATEWAY


class OutputBusy(BatchgenError):
    """Another run of the same output is going."""

    exit_code = ExitCode.OUTPUT_BUSY
    reason_code = ReasonCode.OUTPUT_BUSY


class AccountStopped(RunStopped):
    """No job of this account can succeed now: key wrong, balance empty, address not allowed. A person has to act."""

    exit_code = ExitCode.ACCOUNT
    reason_code = ReasonCode.ACCOUNT


class PoolStopped(RunStopped):
    """The accounts of a pool have stopped, and jobs are left. It ends as the one that the clock or a retry cures."""

    def __init__(self, reasons: Mapping[str, RunStopped]) -> None:
        best = min(reasons.values(), key=lambda reason: reason.exit_code)
        self.exit_code, self.reason_code = best.exit_code, best.reason_code
        why = " ".join(f"{name}: {reason}" for name, reason in reasons.items())
        super().__init__(f"No account of the pool goes on with the jobs that are left. {why}")


class _Answered(BatchgenError):
    """With the gateway's `code` (a string, empty where it gave none) and the first bytes of its answer."""

    def __init__(self, message: str, *, code: str = "", body_excerpt: str = "") -> None:
        self.code = code
        self.body_excerpt = body_excerpt
        super().__init__(message)


# --- one attempt or one job ends --------------------------------------------------------------------------


class JobError(_Answered):
    """A job's attempt ended without its images."""


class JobRejected(JobError):
    """Refused by policy: final, the same request will be refused again."""


class JobRefused(JobError):
    """Refused for its parameters or for a permission: final until something else changes.

    Where many jobs are refused alike and none is accepted, it may be the account that is refused.
    """


class OwnRefusal(JobRefused):
    """Refused for what is certainly this job's: its model, its file. It says nothing about the account."""


class PageReceived(JobRefused):
    """A create was answered with a page or a redirect, not by the gateway's API: a firewall, or another server."""


class AttemptFailed(JobError):
    """The gateway says that this attempt failed and made nothing; another attempt may succeed."""


class RefusedOrTaken(JobRefused):
    """Refused for its parameters, of which the external id is one: if the gateway has that task, adopt it."""


class TaskNotFound(JobError):
    """The gateway does not know the task that was asked for."""


class Unkeepable(BatchgenError):
    """The ledger cannot hold a value: it ends its job, not the run."""


# --- what a request met on its way ------------------------------------------------------------------------


class NotSent(BatchgenError):
    """The request certainly did not reach the gateway: connection refused, name not found."""


class NameNotFound(NotSent):
    """The host's name has no address."""


class TlsFailed(NotSent):
    """The host answers, but not over TLS, or with a certificate that is not valid."""


class ProxyFailed(NotSent):
    """The proxy that the environment names cannot be reached, or let the request go no further."""


class RequestBlocked(NotSent):
    """Our own client blocked the request: only GET requests may be sent here, and it is none."""


class Unclear(_Answered):
    """The request may have reached the gateway: connection lost, timed out, an answer that says nothing.

    After a create this is the `unknown` outcome; after a query it is merely a reason to ask again.
    """


class NoSuchPath(Unclear):
    """404 or 405 to a question, and not in words that speak of the task: it says nothing about a task."""


class Throttled(BatchgenError):
    """Refused for now, nothing was made; does not use up an attempt. `retry_after` is in seconds."""

    def __init__(self, message: str, *, code: str = "", retry_after: float | None = None) -> None:
        self.code = code
        self.retry_after = retry_after
        super().__init__(message)


class TooFast(Throttled):
    """Too many requests in a time (1302)."""


class ProxyBusy(TooFast):
    """A proxy in front of the gateway sent the request back itself: too fast, or nobody behind it is free."""


class TooManyRunning(Throttled):
    """The account's concurrency is used up (1303)."""


# --- an image -----------------------------------------------------------------------------------------------


class ImageBroken(BatchgenError):
    """What was downloaded is not a whole image."""


class TooFewDescriptors(BatchgenError):
    """The process may open no more files or connections; no fault of the image, nor of its host."""


class LinkExpired(BatchgenError):
    """The image is no longer at its link; a new query may give a new one."""


class LinkRefused(BatchgenError):
    """The image's link leads where batchgen does not go; a new query may give another one."""
