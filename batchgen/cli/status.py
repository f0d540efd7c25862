"""`batchgen status`: the state of an output, also while a run is going; reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.cli import options as common
from batchgen.cli.outcome import checked, print_result
from batchgen.errors import CommandError
from batchgen.ledger.sharding import check_shard
from batchgen.ledger.store import FILE_NAME, check_not_merged
from batchgen.reports.status import as_text, exit_code, status_report

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


EXAMPLES = """\
batchgen status spring.yaml
batchgen status spring.yaml --watch --interval 5
"""


def configure(parser: ArgumentParser) -> None:
    common.add_manifest(parser)
    common.add_shard(parser)
    parser.add_argument(
        "--watch",
        action="store_true",
        help="refresh every few seconds until the run ends: in place on a terminal, else a line for each change"
        " (--json: a JSON line each time)",
    )
    parser.add_argument(
        "--interval", metavar="S", type=common.seconds, help="seconds between two refreshes of --watch (default: 2)"
    )
    common.add_json(parser)


def execute(options: Namespace) -> int:
    """1 when there are failed, rejected, unknown, gone or partial jobs, else 0."""
    root = common.find_output(options)
    check_not_merged(root)
    if options.shard is not None:
        check_shard(root / FILE_NAME, options.shard)
    if options.interval is not None and not options.watch:
        raise CommandError("--interval is an option of --watch: add --watch, or leave it out.")
    if options.watch:
        from batchgen.cli.watch import Watch  # noqa: PLC0415 - its import of asyncio takes time

        return Watch(root, interval=options.interval, as_json=options.json, unit=common.unit_of(options)).run()
    data = status_report(root, common.unit_of(options))
    code = exit_code(data)
    if options.json:
        print_result(checked(ok=code == 0) | data)
    else:
        print(as_text(data))
    return code
