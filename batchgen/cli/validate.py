"""`batchgen validate`: every fault of every manifest."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.cli import options as common
from batchgen.cli import problems
from batchgen.errors import ManifestInvalid

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from batchgen.errors import Problem


def configure(parser: ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("manifests", metavar="MANIFEST", nargs="+", type=Path, help="a manifest, a YAML file")
    parser.add_argument("--provider", metavar="NAME", help="check for another account than the manifest's")
    common.add_json(parser)
    parser.add_argument("--quiet", action="store_true", help="say nothing about manifests that are right")


def execute(options: Namespace) -> int:
    """0 when every manifest is right, else 2."""
    from batchgen.manifest.load import load_manifest  # noqa: PLC0415 - heavy
    from batchgen.matrix import expand  # noqa: PLC0415 - heavy

    found: list[Problem] = []
    for path in options.manifests:
        try:
            manifest = load_manifest(path, provider=options.provider)
        except ManifestInvalid as error:
            found += error.problems
            continue
        found += manifest.warnings
        if not options.quiet and not options.json:
            jobs = sum(1 for _ in expand(manifest))
            print(f"{path}: right; {jobs} {'job' if jobs == 1 else 'jobs'}.")
    wrong = any(not problem.warning for problem in found)
    if found and not options.json:
        print(problems.as_text(found, sys.stderr), file=sys.stderr)
    if options.json:
        print(json.dumps({"valid": not wrong, "problems": problems.as_data(found)}, ensure_ascii=False, indent=2))
    return ManifestInvalid.exit_code if wrong else 0
