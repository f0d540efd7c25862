"""The connection to an account's gateway, in both directions; a local sandbox is started where it is needed."""

from __future__ import annotations

from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from batchgen.catalog.accounts import REHEARSED
from batchgen.errors import CommandError
from batchgen.ledger import lock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from batchgen.callbacks.endpoint import CallbackEndpoint
    from batchgen.catalog.accounts import Account
    from batchgen.manifest.model import Manifest

SANDBOX_STATE = ".sandbox.jsonl"


def callback_listener(manifest: Manifest, root: Path) -> AbstractContextManager[CallbackEndpoint | None]:
    """Where the account may call this run back; None where the manifest or the account has no callbacks.

    Raises CommandError where the port is not available, and OutputBusy where a run of this output has it.
    """
    from batchgen.callbacks.endpoint import CallbackEndpoint  # noqa: PLC0415 - only where it is needed

    callback = manifest.callback
    if callback is None or not any("callback_url" in account.fields for account in manifest.pool.accounts):
        return nullcontext()
    try:
        return CallbackEndpoint(callback.public_url, callback.host, callback.port)
    except CommandError:
        lock.check_free(root)
        raise


@asynccontextmanager
async def open_gateway(account: Account, root: Path | None) -> AsyncIterator[Account]:
    """The account as it can be reached; a sandbox is started here, and keeps its tasks in the output, if any."""
    if not account.is_local_sandbox:
        yield account
        return
    from batchgen.sandbox.server import Sandbox  # noqa: PLC0415 - aiohttp's server, only where it is needed
    from batchgen.sandbox.settings import Settings  # noqa: PLC0415

    settings = Settings(
        emulate=REHEARSED.get(account.protocol, "sandbox"),
        account=account if account.definition else None,
        models=account.models,
        further=frozenset(account.parameters),
        require_key=False,
        concurrency=account.concurrency,
        state=None if root is None else root / SANDBOX_STATE,
        journal_callbacks=False,  # they lead to this run, whose address is written nowhere
    )
    async with Sandbox(settings) as sandbox:
        yield replace(account, base_url=sandbox.base_url)
