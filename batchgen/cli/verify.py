"""`batchgen verify`: compares every file with the ledger: present, unchanged, and no other files."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from batchgen.cli import options as common
from batchgen.cli.outcome import checked, print_result
from batchgen.formatting import counted
from batchgen.ledger import lock
from batchgen.ledger.store import FILE_NAME, path_in, reading
from batchgen.reconcile.files import Fault, Finding, findings
from batchgen.reports.index import FAILURES, INDEX
from batchgen.storage.tree import Tree

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from pathlib import Path

EXAMPLES = """\
batchgen verify spring.yaml
batchgen verify spring.yaml --output /srv/images/spring
"""
_RECHECK_AFTER_SECONDS = 1.0  # while a run is going


def configure(parser: ArgumentParser) -> None:
    common.add_manifest(parser)
    common.add_json(parser)


def execute(options: Namespace) -> int:
    """Return 0 when all files are whole, 1 when one is changed, missing or foreign."""
    root = common.find_output(options)
    path_in(root, "verify")
    running = lock.holder(root)
    found, images = _check(root)
    running = running or lock.holder(root)
    if running:
        found = _rechecked(found, root)
    if options.json:
        listed = [{"path": finding.path, "fault": finding.fault.value} for finding in found]
        head = checked(ok=not found)
        print_result({**head, "whole": not found, "images": images, "running": running, "findings": listed})
    else:
        if running:
            print(f"A run is going ({running}): the files that it is writing and the index are not checked.")
        for finding in found:
            print(f"{finding.fault.value}: {finding.path}")
        print(_sentence(found, images, str(root), running=bool(running)))
    return 1 if found else 0


def _check(root: Path) -> tuple[list[Finding], int]:
    with reading(root / FILE_NAME) as ledger:
        return list(findings(ledger, Tree(root))), ledger.images_in_index()


def _rechecked(found: list[Finding], root: Path) -> list[Finding]:
    """The findings that a second check confirms: a run that is going moves files, and writes the index.

    A file is recorded before it is moved into place, so only what both checks find is wrong.
    """
    suspects = {finding for finding in found if finding.path not in {INDEX, FAILURES}}
    if not suspects:
        return []
    time.sleep(_RECHECK_AFTER_SECONDS)
    return [finding for finding in _check(root)[0] if finding in suspects]


def _sentence(found: list[Finding], images: int, root: str, *, running: bool) -> str:
    if not found:
        index = "" if running else ", and the index matches"
        return f"{images} images in {root} are present and unchanged{index}."
    foreign = sum(finding.fault is Fault.FOREIGN for finding in found)
    sentences = []
    if restorable := len(found) - foreign:
        sentences.append(f"{counted(restorable, 'file')} missing or changed; the next run restores them, unpaid.")
    if foreign:
        sentences.append(f"{counted(foreign, 'file')} not batchgen's; runs leave such files alone.")
    return " ".join(sentences)
