"""`batchgen verify`: every file against the index: present, whole, the same sha256, and none besides."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from batchgen.cli import options as common
from batchgen.cli.found import found_output
from batchgen.errors import CommandError
from batchgen.ledger.store import FILE_NAME, Ledger
from batchgen.outputs.check import findings
from batchgen.outputs.tree import Tree

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def configure(parser: ArgumentParser) -> None:
    """Add the command's options."""
    common.add_manifest(parser)
    common.add_json(parser)


def execute(options: Namespace) -> int:
    """0 when all is whole, 1 when anything is changed, missing or foreign."""
    root = found_output(options)
    if not (root / FILE_NAME).exists():
        raise CommandError(f"There is no output in {root} to verify. Make it with: batchgen run {options.manifest}")
    ledger = Ledger.read(root / FILE_NAME)
    found = list(findings(ledger, Tree(root)))
    images = ledger.images_in_index()
    ledger.close()
    if options.json:
        listed = [{"path": finding.path, "fault": finding.fault.value} for finding in found]
        print(json.dumps({"whole": not found, "images": images, "findings": listed}, ensure_ascii=False, indent=2))
    else:
        for finding in found:
            print(f"{finding.fault.value}: {finding.path}")
        print(_sentence(len(found), images, root=str(root)))
    return 1 if found else 0


def _sentence(faults: int, images: int, root: str) -> str:
    if not faults:
        return f"{images} images in {root} are present, whole and as they were fetched."
    return (
        f"{faults} {'file is' if faults == 1 else 'files are'} not as fetched; the next run fetches missing and changed"
        " ones again, unpaid. Foreign files are left alone."
    )
