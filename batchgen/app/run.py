"""Runs a manifest: the Python API's `run` and `run_async`, which the command line uses as well."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Unpack

from batchgen.app.gateway import callback_listener
from batchgen.app.load import load_manifest
from batchgen.app.observer import Observer
from batchgen.app.run_session import RunArguments, RunSession
from batchgen.errors import CommandError
from batchgen.ledger import lock
from batchgen.ledger.mounts import shared_kind
from batchgen.ledger.sharding import check_shard, keep_shard
from batchgen.ledger.store import FILE_NAME, Ledger, check_not_merged
from batchgen.manifest.model import Manifest
from batchgen.planning.selection import Selection
from batchgen.planning.survey import check_any, unpriced
from batchgen.providers import registry
from batchgen.reports.index import INDEX
from batchgen.shards import shard_of
from batchgen.storage.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from decimal import Decimal

    from batchgen.app.run_result import RunResult

ManifestLike: TypeAlias = Manifest | Path | str


def run(
    manifest: ManifestLike,
    *,
    observer: Observer | None = None,
    handle_signals: bool = False,
    before_exit: Callable[[int, str], None] | None = None,
    **arguments: Unpack[RunArguments],
) -> RunResult:
    """Make what a manifest asks for; run again, it goes on where it stood. Prints nothing.

    `handle_signals`: Ctrl-C and SIGTERM stop the run gracefully, and a second one ends the process after
    `before_exit(exit_code, reason)`; otherwise Ctrl-C raises KeyboardInterrupt.

    What stops the jobs is in the result. Raises CommandError (also ManifestInvalid) before anything is sent, OutputBusy
    where another run has the output, RunStopped where the disk refuses before or after the jobs.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise CommandError("batchgen.run() needs a thread without an event loop; use: await batchgen.run_async(...)")
    with _session(manifest, observer or Observer(), arguments) as session:
        if session.has_work:  # otherwise no network is needed, and aiohttp takes 0.1 s to load
            asyncio.run(session.make_images(handle_signals=handle_signals, before_exit=before_exit))
        while session.check():
            asyncio.run(session.make_images(handle_signals=handle_signals, before_exit=before_exit))
        return session.finish()


async def run_async(
    manifest: ManifestLike,
    *,
    observer: Observer | None = None,
    handle_signals: bool = False,
    **arguments: Unpack[RunArguments],
) -> RunResult:
    """Do the same as `run` inside an event loop, such as a notebook's.

    What comes before and after the jobs (reconciling files, writing the index) runs on the loop's thread.
    """
    with _session(manifest, observer or Observer(), arguments) as session:
        if session.has_work:
            await session.make_images(handle_signals=handle_signals)
        while await asyncio.to_thread(session.check):  # the caller's loop goes on meanwhile
            await session.make_images(handle_signals=handle_signals)
        return session.finish()


def loaded(manifest: ManifestLike, shard: str | None = None) -> Manifest:
    """The manifest, read from its file where that is given. Raises ManifestInvalid and CommandError."""
    found = shard_of(shard)
    return (manifest if isinstance(manifest, Manifest) else load_manifest(manifest)).of_shard(found)


def output_folder(manifest: Manifest, output: Path | str | None) -> Path:
    """Where a manifest's output is: `output` always wins, and a rehearsal has a folder of its own."""
    if output is not None:
        return Path(output)
    is_rehearsal = manifest.provider == "sandbox" and manifest.rule_accounts != (manifest.account,)
    return Path("outputs") / f"{manifest.name}{'-sandbox' if is_rehearsal else ''}"


def check_output(root: Path, manifest: Manifest) -> None:
    """Raise CommandError where the folder is no output of this manifest's shard, or its ledger is missing."""
    check_not_merged(root)
    Ledger.check_not_lost(root / FILE_NAME, root / INDEX, manifest.shard)
    check_shard(root / FILE_NAME, manifest.shard)


def _check_prices(manifest: Manifest, max_cost: Decimal | float | None) -> None:
    """A bound in money cannot be kept where a price is not known. Raises CommandError."""
    pool = manifest.pool
    if max_cost is not None and pool.unit is None:
        raise CommandError(
            "--max-cost cannot be kept: the prices of the pool are in different units, which cannot be added up. Give"
            " each account its own `budget` in the manifest."
        )
    is_bounded = max_cost is not None or manifest.budget.max_cost is not None
    bounded = [account for account in pool.accounts if is_bounded or account.max_cost is not None]
    if bounded and (missing := sorted(unpriced(manifest, bounded))):
        account, model, _ = missing[0]
        names = ", ".join(f"{model} at {resolution}" for name, model, resolution in missing if name == account)
        raise CommandError(
            f"A bound in money cannot be kept: the price of {names} is not known for the account {account!r}. Give it"
            f" in the manifest, for instance providers: {{{account}: {{prices: {{{model}: 0.02}}}}}}, or bound the"
            " images with budget.max_images."
        )


@contextmanager
def _session(source: ManifestLike, observer: Observer, arguments: RunArguments) -> Iterator[RunSession]:
    """The output folder, made and locked, with its ledger open and its files reconciled."""
    manifest = loaded(source, arguments.get("shard"))
    selection = Selection.parse(arguments.get("only", ()), manifest.selectable)
    for account in manifest.pool.accounts:
        registry.check(account)
    _check_prices(manifest, arguments.get("max_cost"))
    check_any(manifest, selection)
    for warning in manifest.warnings:
        observer.on_message(str(replace(warning, warning=False)), "warning")
    budget = manifest.budget
    if manifest.shard is not None and (budget.max_images is not None or budget.max_cost is not None):
        observer.on_message(
            f"`budget` holds for shard {manifest.shard} alone: each shard may spend as much.", "warning"
        )
    tree = Tree(output_folder(manifest, arguments.get("output")))
    check_output(tree.root, manifest)
    with callback_listener(manifest, tree.root) as address:
        tree.prepare()
        if kind := shared_kind(tree.root):
            observer.on_message(
                f"{tree.root} is on a network file system ({kind}): the ledger is kept in a slower, safer way. Start"
                " runs of this output on one machine only: locks between machines cannot be trusted there.",
                "warning",
            )
        with lock.held(tree.root):
            ledger = Ledger.open(tree.root / FILE_NAME)
            try:
                keep_shard(ledger, tree.root / FILE_NAME, manifest.shard)  # it was free until now
                session = RunSession(manifest, arguments, selection, tree, ledger, observer, address)
                session.prepare()
                yield session
            finally:
                ledger.close()
