"""From a `Manifest` to a stream of `Job`s: lazily, in the manifest's order, in flat memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.manifest import product
from batchgen.manifest.product import slug

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchgen.jobs import Job
    from batchgen.manifest.model import Manifest

__all__ = ["expand", "slug"]


def expand(manifest: Manifest) -> Iterator[Job]:
    """Every job of a manifest in its order; equal ones come as often as they are written."""
    return product.expand(manifest)
