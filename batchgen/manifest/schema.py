"""What of a document the schema refuses.

jsonschema-rs, where it is installed, decides (10,000 prompts in 6 ms instead of 2 s); jsonschema explains, and decides
without it. Both are imported when they are needed: they cost more than the rest of the start.
"""

from __future__ import annotations

import json
import re
from functools import cache, lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from batchgen.manifest import schema_errors
from batchgen.manifest.schema_errors import SchemaError
from batchgen.manifest.schema_file import manifest_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

    from batchgen.manifest.model import NodePath
    from batchgen.manifest.schema_file import Schema
    from batchgen.source.document import Value

MOST_EXPLAINED = 500
LONGEST_MATCHED = 200  # characters of a text that a pattern of the user's own is tried on


def check(value: Value, definition: str | None = None) -> list[SchemaError]:
    """What of a document the schema refuses; with `definition`, of a list of such values. Empty when nothing.

    Of a document, at most 500 errors are explained; then the last one is of the whole document.
    """
    if fast_validator(definition)(value):
        return []
    most = MOST_EXPLAINED if definition is None else None
    errors = list(islice(_explainer(definition).iter_errors(value), most))
    found = [refused for error in errors for refused in schema_errors.explain(error, value)]
    if len(errors) == most:
        found.append(SchemaError((), f"There are more than {MOST_EXPLAINED} errors.", "Fix the others first."))
    return found


def check_by(value: Value, own: Schema) -> list[SchemaError]:
    """What of a value a schema of the user's own refuses, which refers to no other one."""
    errors = islice(_validator_of(json.dumps(own, sort_keys=True)).iter_errors(value), MOST_EXPLAINED)
    return [refused for error in errors for refused in schema_errors.explain(error, value)]


@lru_cache(maxsize=256)
def _validator_of(schema: str) -> Validator:
    from jsonschema import Draft202012Validator, validators  # noqa: PLC0415 - costs 100 ms

    kind: type[Validator] = validators.extend(Draft202012Validator, {"pattern": _pattern})  # type: ignore[no-untyped-call]
    return kind(json.loads(schema))


def _pattern(_validator: object, pattern: str, instance: Value, _schema: Schema) -> Iterator[ValidationError]:
    """`pattern`, tried on short texts only: how long it takes grows with a power of their length."""
    from jsonschema.exceptions import ValidationError  # noqa: PLC0415 - see above

    if isinstance(instance, str) and (len(instance) > LONGEST_MATCHED or not re.search(pattern, instance)):
        yield ValidationError("")


def _schema_of(definition: str | None) -> Schema:
    schema = manifest_schema()
    if definition is None:
        return schema
    return {"type": "array", "items": {"$ref": f"#/$defs/{definition}"}, "$defs": schema["$defs"]}


@cache
def fast_validator(definition: str | None) -> Callable[[Value], bool]:
    """The fast validator; where there is none, nothing is known to be valid."""
    try:
        import jsonschema_rs  # noqa: PLC0415 - optional
    except ImportError:
        return lambda _: False
    validator = jsonschema_rs.validator_for(_schema_of(definition))

    def is_valid(value: Value) -> bool:
        try:
            return validator.is_valid(value)
        except ValueError:  # a number that it cannot hold
            return False

    return is_valid


@cache
def _explainer(definition: str | None) -> Validator:
    from jsonschema import Draft202012Validator, validators  # noqa: PLC0415 - costs 100 ms

    validator: type[Validator] = validators.extend(Draft202012Validator, {"items": _items})  # type: ignore[no-untyped-call]
    return validator(_schema_of(definition))


def _items(
    validator: Any,  # noqa: ANN401 - jsonschema does not type what a keyword gets
    items: Schema,
    instance: Value,
    schema: Schema,
) -> Iterator[ValidationError]:
    """`items`, passing over the prompts that are plain texts: 100,000 of them would take 25 s."""
    any_text = schema.get("x-any-text", False)
    if isinstance(instance, list):
        for index, item in enumerate(instance):
            if not (any_text and isinstance(item, str)):
                yield from validator.descend(item, items, path=index)


INVALID: Any = object()  # stands in a list where a value was refused, so that the others keep their numbers


def cleaned(value: Value, errors: list[SchemaError]) -> Value:
    """The value without what was refused, so that what follows can look at all the rest; None when nothing is left."""
    drops = {error.path for error in errors if error.drops}
    if () in drops:
        return None
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
