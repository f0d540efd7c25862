"""Takes the callbacks of one run: each names an attempt by its address, and goes to the scheduler of its account."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from batchgen.callbacks import addresses
from batchgen.errors import RunStopped
from batchgen.formatting import counted
from batchgen.jobs import attempt_named
from batchgen.ledger.store import CALLBACK_SECRET

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from batchgen.callbacks.endpoint import CallbackEndpoint
    from batchgen.catalog.accounts import Account
    from batchgen.engine.context import Context
    from batchgen.engine.scheduler import AccountScheduler
    from batchgen.ledger.store import Ledger


class RunCallbacks:
    """The callbacks of an output, whose secret is in its ledger: addresses of earlier runs are recognised too."""

    def __init__(self, endpoint: CallbackEndpoint, ledger: Ledger) -> None:
        if (secret := ledger.meta(CALLBACK_SECRET)) is None:
            ledger.set_meta(CALLBACK_SECRET, secret := addresses.new_secret())
        self._endpoint = endpoint
        self._addresses = addresses.CallbackAddresses(
            public_url=endpoint.public_url, local_url=endpoint.local_url, secret=secret
        )

    def urls_of(self, account: Account) -> Callable[[str], str] | None:
        """The addresses of an account's attempts; a sandbox in this process reaches us without the public one."""
        if "callback_url" not in account.fields:
            return None
        return partial(self._addresses.of, local=account.is_local_sandbox)

    @asynccontextmanager
    async def receiving(self, schedulers: Mapping[str, AccountScheduler], context: Context) -> AsyncIterator[None]:
        """Take callbacks, and report when none came: a wrong address would go unnoticed otherwise."""
        from batchgen.callbacks.server import open_callback_server  # noqa: PLC0415 - aiohttp takes 0.1 s to load

        async def receive(external_id: str, call: Mapping[str, Any]) -> None:
            named = attempt_named(external_id)
            sent = None if named is None else context.reader.sent_attempt(*named)
            if sent is not None and sent.account not in schedulers:
                raise RunStopped(f"The account {sent.account!r} is not in the manifest any more.")
            for name, scheduler in schedulers.items():
                if sent is None or sent.account == name:  # one of no attempt may be of any account
                    await scheduler.on_callback(call, sent)

        async with open_callback_server(self._endpoint.sockets, self._addresses, receive) as server:
            yield
        if not server.received and context.stats.fetched_jobs:
            context.notify(
                "No callback arrived: check that callback.public_url leads to callback.listen."
                " The tasks were queried as without it, so nothing that can be queried is lost."
            )
        if server.received and not any(scheduler.calls_understood for scheduler in schedulers.values()):
            context.notify(
                f"{counted(server.received, 'callback')} arrived, and none named a task: check `callback` of the API's"
                " definition. The tasks were queried as without it."
            )
