"""What shows whose a declared API's request is: a key, a token that a command prints, or a signature by a package."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, TypeAlias

from batchgen.catalog.accounts import Auth
from batchgen.errors import AccountStopped, CommandError
from batchgen.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batchgen.apis.definition import Definition
    from batchgen.catalog.accounts import Account
    from batchgen.providers.base import Secrets

GROUP = "batchgen.signers"
_LONGEST = 16 * 1024  # bytes that a command may print
_SECONDS = 60.0  # for a command
_END_SECONDS = 1.0  # for its end, once it is killed
_AGAIN_SECONDS = 60.0  # after which a command that failed is run again, while its last token may still be good


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as a signer gets it, with all headers that are sent but the connection's own.

    `keys` are the values of the variables that `auth.env` of the definition names; `time` is Unix seconds.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    keys: Mapping[str, str] = field(repr=False)
    time: float


Signer: TypeAlias = "Callable[[Request], Mapping[str, str]]"


class Credentials:
    """Those of one account. A request that is refused with 401 may be sent again where `can_renew`."""

    def __init__(self, account: Account, definition: Definition, secrets: Secrets) -> None:
        """Raise CommandError where no installed package provides the signer."""
        self._header, self._prefix = definition.header, definition.prefix
        self._key = secrets[account.api_key_env] if account.key_settings else ""
        is_signed = account.auth is Auth.SIGN  # a sandbox that plays the definition needs nothing
        runs = account.auth is Auth.COMMAND
        self._command = TokenCommand(definition.command, definition.token_lasts) if runs else None
        self._sign = signer(definition.signer) if is_signed else None
        self._keys = {name: secrets[variable] for name, variable in definition.signer_keys.items() if is_signed}

    @property
    def can_renew(self) -> bool:
        """Whether a refused request may be accepted with another token."""
        return self._command is not None

    async def headers(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, *, refused: str = ""
    ) -> dict[str, str]:
        """The headers with those that show whose the request is; `refused` is a value of them that was refused.

        Raises AccountStopped where there is none; nothing was sent then.
        """
        if self._sign is not None:
            request = Request(
                method=method, url=url, headers=headers, body=body or b"", keys=self._keys, time=time.time()
            )
            return {**headers, **_signed(self._sign, request)}
        key = self._key
        if self._command is not None:
            key = await self._command.token(refused=refused.removeprefix(self._prefix))
        return {**headers, self._header: f"{self._prefix}{key}"} if key else dict(headers)

    def shown_in(self, headers: Mapping[str, str]) -> str:
        """The value that a request showed."""
        return headers.get(self._header, "")


class TokenCommand:
    """A command that prints a token, which is then good for `lasts` seconds, unless it is refused before."""

    def __init__(self, command: Sequence[str], lasts: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._command = command
        self._lasts = lasts
        self._clock = clock
        self._lock = asyncio.Lock()  # many requests need it at the same time: it is run once
        self._token = ""
        self._until = 0.0

    async def token(self, *, refused: str = "") -> str:
        """A token that is not the refused one, as far as the command has another. Raises AccountStopped."""
        async with self._lock:
            is_good = bool(self._token) and self._token != refused
            if is_good and self._clock() < self._until:
                return self._token
            try:
                self._token = await self._run()
                self._until = self._clock() + self._lasts
            except AccountStopped:
                if not is_good:
                    raise
                self._until = self._clock() + _AGAIN_SECONDS
            return self._token

    async def _run(self) -> str:
        """What the command prints, which is shown nowhere, nor what it says of a failure: that may hold a secret."""
        try:
            async with asyncio.timeout(_SECONDS):
                printed, code = await _output(self._command)
        except TimeoutError:
            raise self._failed(f"did not end within {_SECONDS:g} s") from None
        except OSError as error:
            raise self._failed(f"cannot be started ({error.strerror or error})") from None
        if code:
            raise self._failed(f"ended with exit code {code}")
        token = printed.decode("utf-8", "replace").strip()
        if not token or not token.isascii() or not token.isprintable() or len(printed) >= _LONGEST:
            raise self._failed("printed no token: one line of text is expected")
        redact.add([token])
        return token

    def _failed(self, how: str) -> AccountStopped:
        return AccountStopped(
            f"The command {self._command[0]!r}, which prints the account's token, {how}. Its output is not shown:"
            " run the command of `auth` by hand, then run again."
        )


async def _output(command: Sequence[str]) -> tuple[bytes, int]:
    """The first bytes that a command prints, and its exit code. It is ended with all that it started."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for batchgen
    )
    try:
        printed = b""
        if process.stdout is not None:
            try:
                printed = await process.stdout.readexactly(_LONGEST)
            except asyncio.IncompleteReadError as error:  # the usual case: it ended before
                return error.partial, await process.wait()
        return printed, 0
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await process.wait()
        # asyncio may take it to run as long as its pipe is open, and a full one that nobody reads stays open.
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001


def _signed(sign: Signer, request: Request) -> dict[str, str]:
    """The signer's headers. Raises AccountStopped for whatever else it does: nothing was sent yet."""
    try:
        headers = dict(sign(request))
    except Exception as error:  # noqa: BLE001 - anybody's package; its words may hold a key
        what = type(error).__name__
        raise AccountStopped(f"The account's signer raised {what}. Update or fix its package.") from None
    texts: list[object] = [*headers, *headers.values()]
    if not all(isinstance(text, str) and text.isprintable() for text in texts):
        raise AccountStopped("The account's signer returned no headers. Update or fix its package.")
    return headers


def signer(name: str) -> Signer:
    """The signer of an installed package. Raises CommandError."""
    for entry in entry_points(group=GROUP, name=name):
        try:
            found: Signer = entry.load()
        except Exception as error:
            raise CommandError(
                f"The signer {name!r} ({entry.value}) cannot be loaded: it raised {type(error).__name__}."
            ) from error
        return found
    known = ", ".join(sorted(entry_points(group=GROUP).names)) or "none"
    raise CommandError(f"No installed package provides the signer {name!r}. Known signers: {known}.")


def check(account: Account) -> None:
    """Raise CommandError where the account's command or its signer is not there; neither is run."""
    auth = account.definition.get("auth") or {}
    if account.auth is Auth.SIGN:
        signer(auth["sign"])
    if account.auth is Auth.COMMAND and shutil.which(auth["command"][0]) is None:
        raise CommandError(
            f"The account {account.name!r} gets its token from the command {auth['command'][0]!r}, which is not found."
        )
