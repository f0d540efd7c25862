"""The way to an account's gateway, and back; a local sandbox is started where it is asked for."""

from __future__ import annotations

from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from batchgen.errors import CommandError
from batchgen.ledger import lock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from pathlib import Path

    from batchgen.callbacks.endpoint import CallbackEndpoint
    from batchgen.catalog.catalog import Account
    from batchgen.manifest.model import Manifest

SANDBOX_STATE = ".sandbox.jsonl"


def way_back(manifest: Manifest, root: Path) -> AbstractContextManager[CallbackEndpoint | None]:
    """Where the account may call this run back, or None where it cannot or is not to.

    Raises CommandError where its port cannot be had, and OutputBusy where that is because the output's run has it.
    """
    from batchgen.callbacks.endpoint import CallbackEndpoint  # noqa: PLC0415 - only where it is needed

    callback = manifest.callback
    if callback is None or "callback_url" not in manifest.account.fields:
        return nullcontext()
    try:
        return CallbackEndpoint(callback.public_url, callback.host, callback.port)
    except CommandError:
        lock.check_free(root)
        raise


def gateway_in(root: Path | None) -> Callable[[Account], AbstractAsyncContextManager[Account]]:
    """The way to an account's gateway; the sandbox is started here, and remembers its tasks in the output, if any."""

    @asynccontextmanager
    async def open_gateway(account: Account) -> AsyncIterator[Account]:
        if not account.is_local_sandbox:
            yield account
            return
        from batchgen.catalog.catalog import REHEARSED  # noqa: PLC0415
        from batchgen.sandbox.server import Sandbox  # noqa: PLC0415 - only where it is needed
        from batchgen.sandbox.settings import Settings  # noqa: PLC0415 - only where it is needed

        settings = Settings(
            emulate=REHEARSED.get(account.protocol, "sandbox"),
            models=account.models,
            wants_key=False,
            concurrency=account.concurrency,
            state=None if root is None else root / SANDBOX_STATE,
            keeps_callbacks=False,  # they lead to this run, whose address is written nowhere
        )
        async with Sandbox(settings) as sandbox:
            yield replace(account, base_url=sandbox.base_url)

    return open_gateway
