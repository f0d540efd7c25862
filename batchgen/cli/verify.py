"""`batchgen verify`: every file against the index: present, whole, the same sha256, and none besides."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from batchgen.cli import options as common
from batchgen.cli.locate import find_output
from batchgen.cli.outcome import checked
from batchgen.errors import CommandError
from batchgen.ledger import lock
from batchgen.ledger.store import FILE_NAME, reading
from batchgen.reconcile.files import Fault, Finding, findings
from batchgen.reports.index import FAILURES, INDEX
from batchgen.storage.tree import Tree

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from pathlib import Path

_BETWEEN_SECONDS = 1.0  # between two looks beside a run


def configure(parser: ArgumentParser) -> None:
    """Add the command's options."""
    common.add_manifest(parser)
    common.add_json(parser)


def execute(options: Namespace) -> int:
    """0 when all is whole, 1 when anything is changed, missing or foreign."""
    root = find_output(options)
    if not (root / FILE_NAME).exists():
        raise CommandError(f"There is no output in {root} to verify. Make it first, with `run` and the same options.")
    running = lock.holder(root)
    found, images = _look(root)
    running = running or lock.holder(root)
    if running:
        found = _lasting(found, root)
    if options.json:
        listed = [{"path": finding.path, "fault": finding.fault.value} for finding in found]
        data = {**checked(ok=not found), "whole": not found, "images": images, "running": running, "findings": listed}
        print(json.dumps(data, ensure_ascii=False, indent=2))
    else:
        if running:
            print(f"A run is going ({running}): what it is at work on is not looked at, nor is the index.")
        for finding in found:
            print(f"{finding.fault.value}: {finding.path}")
        print(_sentence(found, images, str(root), running=bool(running)))
    return 1 if found else 0


def _look(root: Path) -> tuple[list[Finding], int]:
    with reading(root / FILE_NAME) as ledger:
        return list(findings(ledger, Tree(root))), ledger.images_in_index()


def _lasting(found: list[Finding], root: Path) -> list[Finding]:
    """What was found, and is still so in the ledger as it is now; a run that is going moves files and the index.

    A file is recorded before it is in its place, and its place may change: only what both looks find is wrong.
    """
    suspects = {finding for finding in found if finding.path not in {INDEX, FAILURES}}
    if not suspects:
        return []
    time.sleep(_BETWEEN_SECONDS)
    return [finding for finding in _look(root)[0] if finding in suspects]


def _sentence(found: list[Finding], images: int, root: str, *, running: bool) -> str:
    if not found:
        index = "" if running else ", and the index is theirs"
        return f"{images} images in {root} are present, whole and as they were fetched{index}."
    foreign = sum(finding.fault is Fault.FOREIGN for finding in found)
    sentences = []
    if mended := len(found) - foreign:
        files = "1 file is" if mended == 1 else f"{mended} files are"
        sentences.append(f"{files} not as it should be; the next run brings back missing and changed ones, unpaid.")
    if foreign:
        files = "1 file is" if foreign == 1 else f"{foreign} files are"
        sentences.append(f"{files} not batchgen's; runs leave such files alone.")
    return " ".join(sentences)
