"""The schema of manifests as its file holds it, and the defaults that it states."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]


def schema_text(name: str) -> str:
    """A schema by its file's name; in the wheel it lies in the package, in a checkout beside it."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "schemas", package.parent / "schemas"):
        file = folder / name
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise FileNotFoundError(name)


@cache
def manifest_schema() -> Schema:
    """The schema of manifests."""
    schema: Schema = json.loads(schema_text("manifest.schema.json"))
    return schema


def default(*keys: str) -> Any:  # noqa: ANN401 - any value of JSON
    """What a manifest has where the key at this path is absent, as in `default("run", "grace")`."""
    part = manifest_schema()
    for key in keys:
        part = part["properties"][key]
    return part["default"]
