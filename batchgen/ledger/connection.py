"""The connection to `state.sqlite3`, which raises batchgen's errors in place of SQLite's."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

from batchgen.errors import CommandError, DiskRefused, ReasonCode, RunStopped, Unkeepable
from batchgen.storage.tree import check_own_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BUSY_TIMEOUT = 30.0  # seconds for which another program may lock the file
P = ParamSpec("P")
T = TypeVar("T")


class LedgerLocked(RunStopped):
    """Another program locks the ledger's file."""

    reason_code = ReasonCode.DISK


class LedgerDamaged(RunStopped):
    """The file is no database, or a part of one."""

    reason_code = ReasonCode.DISK


_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_REFUSED = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_NOLFS,
    }
)
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_TOO_BIG = (OverflowError, UnicodeEncodeError, sqlite3.DataError, sqlite3.InterfaceError)
_FOREIGN = (sqlite3.Error, OverflowError, UnicodeEncodeError)


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open the file with SQLite's `mode`. Raises RunStopped and CommandError, here and in each later call."""
    check_own_names(path.parent)
    # One thread at a time uses a connection: the main thread until the writer starts its own, then that.
    return _translated(sqlite3.connect)(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_TIMEOUT,
        factory=_Connection,
    )


def connect_to_scratch() -> sqlite3.Connection:
    """An empty scratch database, which SQLite deletes by itself."""
    return sqlite3.connect("", isolation_level=None, uri=True, factory=_Connection)


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Raise CommandError where the file is no ledger."""
    try:
        yield
    except (sqlite3.DatabaseError, LedgerDamaged) as error:
        raise CommandError(
            f"{path} cannot be read as a ledger of batchgen ({error.__cause__ or error}). Nothing was changed; keep the"
            " file: it records what was paid for."
        ) from error


@contextmanager
def closed_on_error(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """The connection, closed where the body raises."""
    try:
        yield db
    except BaseException:
        db.close()
        raise


def _translated(call: Callable[P, T]) -> Callable[P, T]:
    """Make a method of sqlite3 raise batchgen's errors."""

    @wraps(call)
    def translated(*arguments: P.args, **named: P.kwargs) -> T:
        try:
            return call(*arguments, **named)
        except _FOREIGN as error:
            _translate_error(error)

    return translated


_next_row = _translated(sqlite3.Cursor.__next__)


class _Cursor(sqlite3.Cursor):
    execute = _translated(sqlite3.Cursor.execute)
    executemany = _translated(sqlite3.Cursor.executemany)
    executescript = _translated(sqlite3.Cursor.executescript)
    fetchone = _translated(sqlite3.Cursor.fetchone)
    fetchall = _translated(sqlite3.Cursor.fetchall)

    def __next__(self) -> Any:  # noqa: ANN401 - sqlite3's own signature
        return _next_row(self)


class _Connection(sqlite3.Connection):
    def cursor(self, factory: Any = _Cursor) -> Any:  # noqa: ANN401 - sqlite3's own signature
        return super().cursor(factory)

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:  # noqa: ANN401
        return _Cursor(self).execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:  # noqa: ANN401
        return _Cursor(self).executemany(sql, parameters)

    def executescript(self, sql: str, /) -> sqlite3.Cursor:
        return _Cursor(self).executescript(sql)


def _translate_error(error: Exception) -> NoReturn:
    """Raise batchgen's error for one of SQLite's; any other is a defect and is raised as it is."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    if isinstance(error, _TOO_BIG) or code == sqlite3.SQLITE_TOOBIG:
        raise Unkeepable(f"The ledger cannot hold a value that the gateway gave: {error}.") from error
    if code in _LOCKED:
        raise LedgerLocked(
            "Another program holds the ledger (state.sqlite3) locked. Nothing more is sent; close that program, then"
            " run again to go on."
        ) from error
    if code in _DAMAGED:
        raise LedgerDamaged(
            f"The ledger (state.sqlite3) is damaged ({error}). Nothing more is sent. Keep the file, put an intact copy"
            " in its place, and see with `batchgen audit` what the copy does not know."
        ) from error
    if code in _REFUSED:
        raise DiskRefused(
            f"The disk refused to keep the ledger (state.sqlite3): {error}. Nothing more is sent; free disk space or"
            " fix the file's permissions, then run again to go on."
        ) from error
    raise error
