"""What is wrong with the labels of a block: two sources of one name, and a sample by one that no job has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.jobs import PARAMETER_NAMES
from batchgen.manifest.diagnostics import cut, meant

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from batchgen.manifest.diagnostics import Diagnostics
    from batchgen.manifest.model import Block, NodePath


def check_labels(block: Block, diagnostics: Diagnostics, further: Iterable[str] = ()) -> None:
    """Report each name that two sources give to one job: the prompts, an axis, the block, or a var.

    `further`: the parameters beyond batchgen's own, of which a sample may name one.
    """
    seen: dict[str, NodePath] = {name: axis.path for axis in block.vars for name in axis.vars}
    for places in _sources(block):
        for name, at in places.items():
            if (first := seen.get(name)) is not None:
                message = f"`{cut(name)}` is given twice to one job: here as a label, and by another part of the block."
                hint = "Rename one of them, or name only the columns that are wanted as labels: labels: [NAME, …]."
                diagnostics.add(at, message, hint, key=True, also=[first])
        seen = {**places, **seen}
    by = None if block.sample is None else block.sample.by
    known = {*block.placeholders, *PARAMETER_NAMES, *further}
    if by is not None and by not in known:
        message = f"The sample is by `{cut(by)}`, which is neither a label nor a parameter."
        diagnostics.add((*block.path, "sample", "by"), message, meant(by, sorted(known)))


def _sources(block: Block) -> Iterator[Mapping[str, NodePath]]:
    """The labels that each part of a block gives, with their places; prompts are alternatives to each other."""
    yield {name: (*block.path, "labels", name) for name in block.labels}
    yield {name: (*group.path, "labels", name) for group in block.prompts for name in sorted(group.label_names)}
    for axis in (*block.vars, *block.axes):
        yield {name: (*entry.path, "labels", name) for entry in axis.entries for name in entry.labels}
