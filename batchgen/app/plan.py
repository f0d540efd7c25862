"""Says what a run would do, without sending or writing anything."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from batchgen.app.run import check_output, loaded, output_folder
from batchgen.ledger.store import FILE_NAME, Ledger
from batchgen.planning.selection import Selection
from batchgen.planning.survey import Plan, check_any, survey

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from batchgen.app.run import ManifestLike
    from batchgen.manifest.model import Manifest


def plan(
    manifest: ManifestLike,
    *,
    output: Path | str | None = None,
    only: Sequence[str] = (),
    limit: int | None = None,
    remake: Literal["rejected"] | None = None,
    shard: str | None = None,
) -> Plan:
    """Count what `run` with the same arguments would make, finish and keep, and what it would cost.

    Raises CommandError, also ManifestInvalid, where the run would not start.
    """
    found = loaded(manifest, shard)
    selection = Selection.parse(only, found.selectable)
    with previewed(found, output_folder(found, output), selection, limit, remake=remake) as (made, _):
        return made


@contextmanager
def previewed(
    manifest: Manifest, root: Path, selection: Selection, limit: int | None, *, remake: str | None = None
) -> Iterator[tuple[Plan, Ledger]]:
    """A plan, and the preview of the ledger that it was made from."""
    check_any(manifest, selection)
    state = root / FILE_NAME
    check_output(root, manifest)
    ledger = Ledger.preview(state if state.exists() else None)
    try:
        yield survey(manifest, ledger, root, selection, limit, remake=remake is not None), ledger
    finally:
        ledger.close()
