"""`batchgen validate`: every error of every manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.app.load import load_manifest
from batchgen.cli import options as common
from batchgen.cli.outcome import checked, print_problems, print_result, problems_as_data
from batchgen.errors import CommandError, Diagnostic, ManifestInvalid, SourceLocation
from batchgen.formatting import counted
from batchgen.ledger.store import Ledger
from batchgen.matrix.expand import expand
from batchgen.planning.selection import Selection
from batchgen.planning.survey import check_any

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from batchgen.manifest.model import Manifest


EXAMPLES = """\
batchgen validate spring.yaml
batchgen validate spring.yaml summer.yaml --provider kapon
"""


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("manifests", metavar="MANIFEST", nargs="+", type=Path, help="a manifest, a YAML file")
    parser.add_argument("--provider", metavar="NAME", help="check for another account than the manifest's")
    common.add_json(parser)
    parser.add_argument("--quiet", action="store_true", help="print nothing about valid manifests")


def execute(options: Namespace) -> int:
    """0 when every manifest is valid, else 2."""
    found: list[Diagnostic] = []
    for path in options.manifests:
        try:
            manifest = load_manifest(path, provider=options.provider)
            check_any(manifest, Selection())
        except ManifestInvalid as error:
            found += error.problems
            continue
        except CommandError as error:  # of the file as a whole; the others are checked all the same
            found.append(Diagnostic(place=SourceLocation(file=str(path)), path="", message=str(error)))
            continue
        found += manifest.warnings
        if not options.quiet and not options.json:
            print(f"{path}: valid, {_jobs(manifest)}")
    valid = all(problem.warning for problem in found)
    if found and not options.json:
        print_problems(found)
    if options.json:
        head = checked(ok=valid, exit_code=ManifestInvalid.exit_code)
        print_result({**head, "valid": valid, "problems": problems_as_data(found)})
    return 0 if valid else ManifestInvalid.exit_code


def _jobs(manifest: Manifest) -> str:
    """How many jobs it asks for; identical ones are made once."""
    ledger = Ledger.preview(None)
    written = ledger.set_wanted_jobs(expand(manifest))
    jobs = sum(ledger.counts().values())
    ledger.close()
    equal = f" ({written} written, identical ones are made once)" if written > jobs else ""
    return f"{counted(jobs, 'job')}{equal}"
