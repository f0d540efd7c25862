"""`batchgen status`: how a run stands, also while one is going; reads only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from batchgen.cli import options as common
from batchgen.cli.locate import find_output, unit_of
from batchgen.cli.status_report import as_text, exit_code, head, standing
from batchgen.errors import CommandError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def configure(parser: ArgumentParser) -> None:
    """Add the command's options."""
    common.add_manifest(parser)
    parser.add_argument(
        "--watch",
        action="store_true",
        help="look again every few seconds until the run ends: in place on a terminal, else a line for each change"
        " (--json: a JSON line for each look)",
    )
    parser.add_argument(
        "--interval", metavar="S", type=common.seconds, help="seconds between two looks of --watch (default: 2)"
    )
    common.add_json(parser)


def execute(options: Namespace) -> int:
    """1 when there are failed, rejected, unknown, gone or partial jobs, else 0."""
    root = find_output(options)
    if options.interval is not None and not options.watch:
        raise CommandError("--interval is the time between two looks of --watch: add --watch, or leave it out.")
    if options.watch:
        from batchgen.cli.watch import Watch  # noqa: PLC0415 - its rate comes with asyncio

        return Watch(root, interval=options.interval, as_json=options.json, unit=unit_of(options)).run()
    data = standing(root, unit_of(options))
    print(json.dumps(head(data) | data, indent=2) if options.json else as_text(data))
    return exit_code(data)
