"""`batchgen validate`: every fault of every manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.cli import options as common
from batchgen.cli import problems
from batchgen.cli.outcome import checked
from batchgen.errors import CommandError, Diagnostic, ManifestInvalid, SourceLocation
from batchgen.ledger.store import Ledger
from batchgen.manifest.load import load_manifest
from batchgen.matrix.expand import expand
from batchgen.plan.selection import Selection
from batchgen.plan.survey import check_any

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from batchgen.manifest.model import Manifest


def configure(parser: ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("manifests", metavar="MANIFEST", nargs="+", type=Path, help="a manifest, a YAML file")
    parser.add_argument("--provider", metavar="NAME", help="check for another account than the manifest's")
    common.add_json(parser)
    parser.add_argument("--quiet", action="store_true", help="say nothing about manifests that are right")


def execute(options: Namespace) -> int:
    """0 when every manifest is right, else 2."""
    found: list[Diagnostic] = []
    for path in options.manifests:
        try:
            manifest = load_manifest(path, provider=options.provider)
            check_any(manifest, Selection())
        except ManifestInvalid as error:
            found += error.problems
            continue
        except CommandError as error:  # of the file as a whole; the others are looked at all the same
            found.append(Diagnostic(place=SourceLocation(file=str(path)), path="", message=str(error)))
            continue
        found += manifest.warnings
        if not options.quiet and not options.json:
            print(f"{path}: right; {_jobs(manifest)}.")
    wrong = any(not problem.warning for problem in found)
    if found and not options.json:
        problems.tell(found)
    if options.json:
        head = checked(ok=not wrong, exit_code=ManifestInvalid.exit_code)
        data = {**head, "valid": not wrong, "problems": problems.as_data(found)}
        print(json.dumps(data, ensure_ascii=False, indent=2))
    return ManifestInvalid.exit_code if wrong else 0


def _jobs(manifest: Manifest) -> str:
    """How many jobs it asks for; equal ones are made once."""
    ledger = Ledger.preview(None)
    written = ledger.preview_wanted_jobs(expand(manifest))
    jobs = sum(ledger.counts().values())
    ledger.close()
    equal = f" ({written} written, equal ones are made once)" if written > jobs else ""
    return f"{jobs} {'job' if jobs == 1 else 'jobs'}{equal}"
