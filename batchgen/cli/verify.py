"""`batchgen verify`: every file against the index: present, whole, the same sha256, and none besides."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from batchgen.cli import options as common
from batchgen.cli.found import found_output
from batchgen.errors import CommandError
from batchgen.ledger.store import FILE_NAME, reading
from batchgen.outputs.check import Fault, Finding, findings
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
        raise CommandError(f"There is no output in {root} to verify. Make it first, with `run` and the same options.")
    with reading(root / FILE_NAME) as ledger:
        found = list(findings(ledger, Tree(root)))
        images = ledger.images_in_index()
    if options.json:
        listed = [{"path": finding.path, "fault": finding.fault.value} for finding in found]
        print(json.dumps({"whole": not found, "images": images, "findings": listed}, ensure_ascii=False, indent=2))
    else:
        for finding in found:
            print(f"{finding.fault.value}: {finding.path}")
        print(_sentence(found, images, str(root)))
    return 1 if found else 0


def _sentence(found: list[Finding], images: int, root: str) -> str:
    if not found:
        return f"{images} images in {root} are present, whole and as they were fetched, and the index is theirs."
    foreign = sum(finding.fault is Fault.FOREIGN for finding in found)
    sentences = []
    if mended := len(found) - foreign:
        files = "1 file is" if mended == 1 else f"{mended} files are"
        sentences.append(f"{files} not as it should be; the next run brings back missing and changed ones, unpaid.")
    if foreign:
        files = "1 file is" if foreign == 1 else f"{foreign} files are"
        sentences.append(f"{files} not batchgen's; runs leave such files alone.")
    return " ".join(sentences)
