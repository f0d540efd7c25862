"""The way to an account's gateway; a local sandbox is started where it is asked for."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from batchgen.catalog import Account

SANDBOX_STATE = ".sandbox.jsonl"


def gateway_in(root: Path | None) -> Callable[[Account], AbstractAsyncContextManager[Account]]:
    """The way to an account's gateway; the sandbox is started here, and remembers its tasks in the output, if any."""

    @asynccontextmanager
    async def open_gateway(account: Account) -> AsyncIterator[Account]:
        if not account.is_local_sandbox:
            yield account
            return
        from batchgen.catalog import REHEARSED  # noqa: PLC0415
        from batchgen.sandbox.server import Sandbox  # noqa: PLC0415 - only where it is needed
        from batchgen.sandbox.settings import Settings  # noqa: PLC0415 - only where it is needed

        settings = Settings(
            profile=REHEARSED.get(account.wire, "sandbox"),
            models=account.models,
            wants_key=False,
            concurrency=account.concurrency,
            state=None if root is None else root / SANDBOX_STATE,
        )
        async with Sandbox(settings) as sandbox:
            yield replace(account, base_url=sandbox.base_url)

    return open_gateway
