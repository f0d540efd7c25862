"""A manifest from its file."""

from __future__ import annotations

from batchgen.manifest.load import load_manifest

__all__ = ["load_manifest"]
