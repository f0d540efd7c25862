"""The connection to `state.sqlite3`: what SQLite refuses leaves here as an error of batchgen's, wherever it is met."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, Self

from batchgen.errors import CommandError, DiskRefused, ReasonCode, RunStopped, Unkeepable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_SECONDS = 30.0  # for which another program may hold the file
_FILES = ("", "-journal", "-wal", "-shm")  # the file and those that SQLite puts beside it


class LedgerHeld(RunStopped):
    """Another program has the ledger's file locked."""

    reason_code = ReasonCode.DISK


class LedgerDamaged(RunStopped):
    """The file is no database, or not a whole one."""

    reason_code = ReasonCode.DISK


_HELD = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
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
    """Open the file with SQLite's `mode`. Raises RunStopped and CommandError, here and in all that is asked of it."""
    check_no_links(path)
    try:
        # One thread at a time uses a connection: the run's own until the writer thread starts, then that.
        return sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=PATIENCE_SECONDS,
            factory=_Connection,
        )
    except sqlite3.Error as error:
        _translate(error)


def connect_to_nothing() -> sqlite3.Connection:
    """An empty scratch database, which SQLite deletes by itself."""
    return sqlite3.connect("", isolation_level=None, uri=True, factory=_Connection)


def check_no_links(path: Path) -> None:
    """Raise CommandError where the ledger is a symbolic link: SQLite would write to where it leads."""
    for end in _FILES:
        each = path.with_name(path.name + end)
        if each.is_symlink():
            raise CommandError(
                f"{each} is a symbolic link, and batchgen writes its own files into the output folder alone. Put the"
                " file itself there, or choose another --output."
            )


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Say what is wrong with a file that cannot be a ledger as CommandError."""
    try:
        yield
    except (sqlite3.DatabaseError, LedgerDamaged) as error:
        raise CommandError(
            f"{path} cannot be read as a ledger of batchgen ({error.__cause__ or error}). Nothing was changed; keep the"
            " file: it knows what was paid for."
        ) from error


class _Cursor(sqlite3.Cursor):
    def execute(self, sql: str, parameters: Any = (), /) -> Self:  # noqa: ANN401 - sqlite3's own signature
        try:
            return super().execute(sql, parameters)
        except _FOREIGN as error:
            _translate(error)

    def executemany(self, sql: str, parameters: Any, /) -> Self:  # noqa: ANN401
        try:
            return super().executemany(sql, parameters)
        except _FOREIGN as error:
            _translate(error)

    def executescript(self, sql: str, /) -> Self:
        try:
            super().executescript(sql)
        except _FOREIGN as error:
            _translate(error)
        return self

    def fetchone(self) -> Any:  # noqa: ANN401
        try:
            return super().fetchone()
        except _FOREIGN as error:
            _translate(error)

    def fetchall(self) -> list[Any]:
        try:
            return super().fetchall()
        except _FOREIGN as error:
            _translate(error)

    def __next__(self) -> Any:  # noqa: ANN401
        try:
            return super().__next__()
        except _FOREIGN as error:
            _translate(error)


class _Connection(sqlite3.Connection):
    def cursor(self, factory: Any = _Cursor) -> Any:  # noqa: ANN401 - sqlite3's own signature
        return super().cursor(factory)

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:  # noqa: ANN401
        return _Cursor(self).execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:  # noqa: ANN401
        return _Cursor(self).executemany(sql, parameters)

    def executescript(self, sql: str, /) -> sqlite3.Cursor:
        return _Cursor(self).executescript(sql)


def _translate(error: Exception) -> NoReturn:
    """Raise what the error means; what is left is a defect and passes as it is."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    if isinstance(error, _TOO_BIG) or code == sqlite3.SQLITE_TOOBIG:
        raise Unkeepable(f"The ledger cannot hold a value that the gateway gave: {error}.") from error
    if code in _HELD:
        raise LedgerHeld(
            "Another program holds the ledger (state.sqlite3), and does not let it be used. Nothing more is sent; close"
            " that program, then run again to go on."
        ) from error
    if code in _DAMAGED:
        raise LedgerDamaged(
            f"The ledger (state.sqlite3) is damaged ({error}). Nothing more is sent. Keep the file, put a whole copy in"
            " its place, and see with `batchgen audit` what that does not know."
        ) from error
    if code in _REFUSED:
        raise DiskRefused(
            f"The disk refused to keep the ledger (state.sqlite3): {error}. Nothing more is sent; free disk space or"
            " fix the file's permissions, then run again to go on."
        ) from error
    raise error
