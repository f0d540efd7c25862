"""The schema of manifests: where it lies, whether a document keeps to it, and in our words why not.

jsonschema-rs, where it is installed, decides (some hundred times faster); jsonschema explains, and decides
without it. Both are imported when they are needed: they cost more than the rest of the start.
"""

from __future__ import annotations

import copy
import json
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from batchgen.manifest import schema_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchgen.manifest.model import NodePath
    from batchgen.manifest.schema_errors import SchemaFault
    from batchgen.source.document import Value

MOST_EXPLAINED = 500
_Schema: TypeAlias = dict[str, Any]


def schema_text(name: str) -> str:
    """A schema by its file's name; in the wheel it lies in the package, in a checkout beside it."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "schemas", package.parent / "schemas"):
        file = folder / name
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise FileNotFoundError(name)


@cache
def manifest_schema() -> _Schema:
    """The schema of manifests."""
    schema: _Schema = json.loads(schema_text("manifest.schema.json"))
    return schema


def check(value: Value, definition: str | None = None) -> list[SchemaFault]:
    """What of a document's value the schema (or one of its definitions) refuses; empty when nothing."""
    schema = manifest_schema()
    if definition is not None:
        schema = {**_of_definition(definition), "$defs": schema["$defs"]}
    if _is_valid(schema, value):
        return []
    return _explained(schema, value)


def _of_definition(definition: str) -> _Schema:
    return {
        "type": "array",
        "items": {"$ref": f"#/$defs/{definition}"},
        "minItems": 1,
    }


def _is_valid(schema: _Schema, value: Value) -> bool:
    """Whether the fast validator passes it; False also where there is none."""
    try:
        import jsonschema_rs  # noqa: PLC0415 - optional
    except ImportError:
        return False
    try:
        return bool(jsonschema_rs.validator_for(schema).is_valid(value))
    except ValueError:  # a number that it cannot hold
        return False


def _explained(schema: _Schema, value: Value) -> list[SchemaFault]:
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - costs 100 ms

    pruned, kept = _prune(value)
    errors = list(islice(Draft202012Validator(schema).iter_errors(pruned), MOST_EXPLAINED))
    faults: dict[tuple[NodePath, bool, str], SchemaFault] = {}
    types: set[NodePath] = set()
    for error in errors:
        for fault in schema_errors.of_error(error, value):
            path = _restored(fault.path, kept)
            if fault.of_type and path in types:
                continue  # said already: both arms of an `if` know the type
            if fault.of_type:
                types.add(path)
            faults.setdefault((path, fault.key, fault.message), fault.at(path))
    if len(errors) < MOST_EXPLAINED:
        return list(faults.values())
    message = f"There are more than {MOST_EXPLAINED} faults."
    return [*faults.values(), schema_errors.SchemaFault((), message, "Mend the others first.", ends=True)]


_Kept: TypeAlias = dict["NodePath", list[int]]


def _prune(value: Value) -> tuple[Value, _Kept]:
    """The document without the prompts that are plain texts: there may be 100,000, and all of them pass."""
    if not isinstance(value, dict) or "matrix" not in value:
        return value, {}
    kept: _Kept = {}
    matrix = value["matrix"]
    blocks = list(enumerate(matrix)) if isinstance(matrix, list) else [(None, matrix)]
    pruned = copy.copy(value)
    new_blocks = []
    for number, block in blocks:
        new_block = block
        prompts = block.get("prompt") if isinstance(block, dict) else None
        if isinstance(prompts, list) and len(prompts) > 100:
            path: NodePath = ("matrix", "prompt") if number is None else ("matrix", number, "prompt")
            indexes = [i for i, prompt in enumerate(prompts) if not isinstance(prompt, str)] or [0]
            kept[path] = indexes
            new_block = {**block, "prompt": [prompts[i] for i in indexes]}
        new_blocks.append(new_block)
    pruned["matrix"] = new_blocks if isinstance(matrix, list) else new_blocks[0]
    return pruned, kept


def _restored(path: NodePath, kept: Mapping[NodePath, list[int]]) -> NodePath:
    for prefix, indexes in kept.items():
        size = len(prefix)
        if len(path) > size and path[:size] == prefix:
            return (*prefix, indexes[int(path[size])], *path[size + 1 :])
    return path


class Faulty:
    """Stands in a list where a value was refused, so that the others keep their numbers."""

    def __repr__(self) -> str:
        """For messages of tests."""
        return "INVALID"


INVALID = Faulty()


def cleaned(value: Value, faults: list[SchemaFault]) -> Value:
    """The value without what was refused, so that what follows can look at all the rest."""
    drops = {fault.path for fault in faults if fault.drops}
    return _without(value, (), drops) if drops else value


def _without(value: Value, path: NodePath, drops: set[NodePath]) -> Value:
    if isinstance(value, dict):
        return {key: _without(child, (*path, key), drops) for key, child in value.items() if (*path, key) not in drops}
    if isinstance(value, list):
        return [
            INVALID if (*path, number) in drops else _without(child, (*path, number), drops)
            for number, child in enumerate(value)
        ]
    return value
