"""The shard of an output: the ledger keeps it from its first job on.

With another number of shards a job would be in another output's ledger, and would be paid for again there.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from batchgen.errors import CommandError
from batchgen.ledger import versions
from batchgen.ledger.connection import closed_on_error, connect, opening
from batchgen.ledger.reader import LedgerReader
from batchgen.ledger.store import SHARD
from batchgen.shards import Shard

if TYPE_CHECKING:
    from pathlib import Path

    from batchgen.ledger.store import Ledger


def check_shard(path: Path, shard: Shard | None) -> None:
    """Raise CommandError where the ledger at this path has jobs of another shard. Reads only, also an older ledger."""
    if path.exists() and path.stat().st_size:
        with opening(path), closed_on_error(connect(path, "ro")) as db:
            versions.check(db, path, oldest=1)
        with opening(path), closing(db):
            _check(LedgerReader(db), path, shard)


def keep_shard(ledger: Ledger, path: Path, shard: Shard | None) -> None:
    """Keep the shard in a ledger that is open for writing. Raises CommandError as `check_shard` does."""
    _check(ledger, path, shard)
    text = "" if shard is None else str(shard)
    if (ledger.meta(SHARD) or "") != text:
        ledger.set_meta(SHARD, text)


def _check(ledger: LedgerReader, path: Path, shard: Shard | None) -> None:
    kept, asked = ledger.meta(SHARD) or "", "" if shard is None else str(shard)
    if kept == asked or not ledger.has_jobs():
        return  # of an output without a job, nothing is paid for yet
    held = f"shard {kept} of its manifest's jobs" if kept else "its manifest's jobs without a shard"
    if shard is not None and kept and Shard.parse(kept).of == shard.of:
        other = "Each shard has an --output of its own."
    else:
        other = (
            "The number of shards cannot change once jobs were made: with another --output, jobs that are here would be"
            " paid for again."
        )
    raise CommandError(
        f"The output {path.parent} holds {held}, and this command asks for {f'shard {asked}' if asked else 'all jobs'}."
        f" Nothing was sent and nothing was changed. Go on here with {f'--shard {kept}' if kept else 'no --shard'}."
        f" {other}"
    )
