"""A manifest from its file: read, then checked."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from batchgen.checks.combinations import check
from batchgen.errors import ManifestInvalid
from batchgen.manifest.load import read_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from batchgen.manifest.model import Manifest


def load_manifest(path: Path | str, *, provider: str | None = None) -> Manifest:
    """A manifest that is valid in every respect; `provider` replaces its own account.

    Raises ManifestInvalid with every problem, in the order of their places; CommandError when the file cannot be read.
    """
    manifest, problems = read_manifest(path, provider=provider)
    if manifest is not None:
        manifest = check(manifest, problems)
    if manifest is None or problems.errors:
        raise ManifestInvalid(problems.in_order())
    return replace(manifest, warnings=problems.in_order())
