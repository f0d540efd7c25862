"""`batchgen check`: lets the checks of a manifest look at the images of its output, also while a run goes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from batchgen.app.check import run_checks
from batchgen.app.load import load_manifest
from batchgen.app.review import refresh_index
from batchgen.cli import options as common
from batchgen.cli.outcome import checked, print_result
from batchgen.engine.shutdown import signals_raised
from batchgen.errors import CommandError
from batchgen.ledger.store import path_in

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


EXAMPLES = """\
batchgen check spring.yaml
batchgen check spring.yaml --json
"""


def configure(parser: ArgumentParser) -> None:
    common.add_manifest(parser)
    common.add_json(parser)


def execute(options: Namespace) -> int:
    """Return 0 when every image has a verdict of every check, whatever it is; 1 when a check failed."""
    manifest = load_manifest(options.manifest, provider=options.provider)
    root = common.output_folder(options, manifest.name)
    if not manifest.checks:
        raise CommandError(f"{options.manifest} has no `checks`. Add for instance: checks: [blank]")
    path_in(root, "check")
    try:
        with signals_raised():
            reports = run_checks(manifest.checks, root, lambda sentence, _: print(sentence, file=sys.stderr))
    finally:
        refresh_index(root, escape_formulas=manifest.spreadsheet_safe)
    ok = not any(report.error for report in reports)
    if options.json:
        print_result({**checked(ok=ok), "checks": [report.as_data() for report in reports]})
    elif not any(report.sentence for report in reports):
        print("Nothing to do: every image has been checked.")
    return 0 if ok else 1
