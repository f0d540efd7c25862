"""`batchgen merge`: one folder with the indexes of several outputs, such as the shards of a manifest."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from batchgen.app.merge import Merged, merge
from batchgen.cli import options as common
from batchgen.cli.outcome import checked, print_result
from batchgen.formatting import counted
from batchgen.reports.index import INDEX

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

EXAMPLES = """\
batchgen merge outputs/spring-1 outputs/spring-2 outputs/spring-3 --to outputs/spring-all
batchgen merge machine-*/outputs/spring --to spring-all --copy
"""
_SHOWN = 20


def configure(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("outputs", metavar="OUT", nargs="+", type=common.folder, help="an output folder; it is only read")
    add(
        "--to",
        metavar="FOLDER",
        required=True,
        type=common.folder,
        help="the folder to write, for `export`, `gallery` and `report` with --output FOLDER; a merged one is updated",
    )
    add("--copy", action="store_true", help="copy the images; otherwise FOLDER links to those of the outputs")
    add("--incomplete", action="store_true", help="merge although shards are missing")
    add("--mixed", action="store_true", help="merge outputs of different manifests, one after the other")
    common.add_json(parser)


def execute(options: Namespace) -> int:
    """0, or 1 where an image could not be copied because its file is missing."""
    done = merge(options.outputs, options.to, copy=options.copy, incomplete=options.incomplete, mixed=options.mixed)
    if options.json:
        print_result(_as_data(done))
    else:
        for path in done.missing[:_SHOWN]:
            print(f"{path}: missing", file=sys.stderr)
        print("\n".join(_lines(done)))
    return 1 if done.missing else 0


def _as_data(done: Merged) -> dict[str, object]:
    return {
        **checked(ok=not done.missing),
        "to": str(done.folder),
        "outputs": {name: str(root) for name, root in done.outputs.items()},
        "images": done.images,
        "unfinished_jobs": done.unfinished,
        "missing": done.missing,
        "running": done.running,
    }


def _lines(done: Merged) -> list[str]:
    outputs = counted(len(done.outputs), "output")
    lines = [f"{counted(done.images, 'image')} of {outputs} in {done.folder}; the index is {done.folder / INDEX}."]
    if done.unfinished:
        lines.append(f"Not finished yet: {counted(done.unfinished, 'job')}. Merge again when they are.")
    if done.running:
        lines.append(f"A run is going in {', '.join(done.running)}.")
    if done.missing:
        missing = counted(len(done.missing), "image")
        lines.append(f"Missing, and not copied: {missing}. The next runs of their outputs restore them, unpaid.")
    return lines
