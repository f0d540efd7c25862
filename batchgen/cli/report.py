"""`batchgen report`: an HTML page about an output: what was made, what it cost, how long it took, what went wrong."""

from __future__ import annotations

from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.cli import options as common
from batchgen.cli.outcome import checked, print_result
from batchgen.errors import CommandError
from batchgen.ledger.store import path_in, reading
from batchgen.reports import charts, page, report
from batchgen.storage.replacement import replacing

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

EXAMPLES = """\
batchgen report spring.yaml
batchgen report spring.yaml --since 24h --to nightly.html
"""
_PAGE = "report.html"
_BEGINS = b"<!doctype html>"


def configure(parser: ArgumentParser) -> None:
    common.add_manifest(parser)
    parser.add_argument("--to", metavar="FILE", type=Path, help=f"the page (default: {_PAGE} in the output folder)")
    parser.add_argument(
        "--since", metavar="WHEN", type=common.past, help="only attempts since 24h ago, 22:00 or 2027-01-31T06:00"
    )
    common.add_json(parser)


def execute(options: Namespace) -> int:
    """Write the page, or with `--json` print its figures; both where `--to` is given too."""
    root = common.find_output(options)
    ledger_path = path_in(root, "report on", merged=True)
    target = options.to or (None if options.json else root / _PAGE)
    if target is not None:
        charts.plotting_library()
    unit_of = cache(partial(common.unit_of, options))
    with reading(ledger_path) as ledger, ledger.transaction():
        data = report.report_data(ledger, unit_of, options.since)
    if target is not None:
        _write(target, page.html(data, root.name))
    if options.json:
        print_result({**checked(ok=True), "page": None if target is None else str(target), **data})
    else:
        print(f"The report is {target}.")
    return 0


def _write(path: Path, text: str) -> None:
    """Write beside the file, then put it in its place; its old content stays whole where that fails."""
    if path.is_dir():
        raise CommandError(f"{path} is a folder. Name a file, such as --to {path / _PAGE}.")
    with suppress(OSError), path.open("rb") as file:
        if file.read(len(_BEGINS)) not in {b"", _BEGINS}:
            raise CommandError(f"{path} is no report, and would be replaced. Name another file with --to.")
    try:
        with replacing(path) as beside:
            beside.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise CommandError(f"The page could not be written to {path}: {error.strerror}.") from error
