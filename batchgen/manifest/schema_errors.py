"""A validator's errors as sentences: what is wrong, what was probably meant, what is allowed.

What is particular to a key is an annotation of its schema: `x-hint`, `x-refused`, `x-missing`, `x-unknown`, `x-inside`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchgen.catalog.load import builtin
from batchgen.manifest.diagnostics import cut, listed, nearest
from batchgen.manifest.schema_file import manifest_schema
from batchgen.source.document import scalar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jsonschema.exceptions import ValidationError

    from batchgen.manifest.model import NodePath
    from batchgen.manifest.schema_file import Schema
    from batchgen.source.document import Value

_TYPES = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "a mapping (keys with values)",
    "array": "a list",
}
_EMPTY = {
    "minLength": ("This is empty.", "Write a text, or take the key out."),
    "minProperties": ("This mapping is empty.", "Write at least one key, or take it out."),
    "minItems": ("This list is empty.", "Write at least one entry, or take the key out."),
}
_API_KEY = re.compile(r"(api|access|secret)?_?(key|token)|secret|password|authorization|bearer|ak|sk")
_VARIABLE_KEYS = frozenset({"api_key_env", "access_key_env", "secret_key_env"})
_SET_BY_BATCHGEN = frozenset({"external_task_id", "callback_url"})
_BOUNDS = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "more than",
    "exclusiveMaximum": "less than",
}
_JOBS = {"parameters", "n"}  # keys of what describes jobs
_RATIO = re.compile(r"([1-9][0-9]{0,3}):([1-9][0-9]{0,3})")
_FEW_KEYS = 12
MOST_UNKNOWN = 50  # keys of one mapping that are reported one by one, each with what was probably meant


@dataclass(frozen=True, slots=True)
class SchemaError:
    """What the schema refuses, and where; `drops` when the value at `path` is of no further use."""

    path: NodePath
    message: str
    hint: str = ""
    key: bool = False  # whether it is the key at `path` that is refused
    drops: bool = True


@dataclass(frozen=True, slots=True)
class _Failure:
    """What a validator reports: a value that does not satisfy a keyword of its schema."""

    path: NodePath
    value: Value
    keyword: str
    bound: Any  # the keyword's own value
    schema: Schema  # with the keyword and the annotations beside it


def explain(error: ValidationError, root: Value) -> list[SchemaError]:
    """An error of jsonschema in sentences: one, or one for each key that is unknown or missing."""
    path: NodePath = tuple(error.absolute_path)
    schema = error.schema if isinstance(error.schema, dict) else {}
    failure = _Failure(path, error.instance, str(error.validator), error.validator_value, schema)
    if failure.keyword == "additionalProperties":
        return _unknown_keys(failure, root)
    if failure.keyword == "required":
        return _missing_keys(failure)
    empty = _EMPTY.get(failure.keyword) if not failure.value else None
    message, hint = empty or _EXPLANATIONS.get(failure.keyword, _other)(failure)
    if "propertyNames" in error.absolute_schema_path:
        return [SchemaError((*path, str(failure.value)), message, hint, key=True)]
    return [SchemaError(path, message, hint, drops=failure.keyword != "uniqueItems")]


def is_secret(path: NodePath) -> bool:
    """Whether a value at this path may be a key, which no message may show."""
    if path[2:3] == ("headers",) and path[-1] == "env":
        return True
    names = [step for step in path if isinstance(step, str)]
    return any(_API_KEY.fullmatch(_folded(name)) or name in _VARIABLE_KEYS for name in names)


def _folded(key: str) -> str:
    return key.casefold().replace("-", "_")


# --- keys -------------------------------------------------------------------------------------------------


def _unknown_keys(failure: _Failure, root: Value) -> list[SchemaError]:
    if text := _text_with_colon(failure.value, failure.schema):
        (key,) = failure.value
        message = 'A text that contains ": " must be in quotes: this is read as a key and its value.'
        return [SchemaError((*failure.path, key), message, f'Write "{text}".', key=True)]
    unknown = [key for key in failure.value if key not in failure.schema.get("properties", {})]
    if cut_off := _cut_off(failure.value, unknown):
        key, text = cut_off
        message = f"A comma ends a text inside {{ }}, so that `{cut(unknown[0])}` is read as a key."
        return [
            SchemaError(
                (*failure.path, unknown[0]), message, f'Quote the text: {key}: "{cut(text)}".', key=True, drops=False
            )
        ]
    found = [
        SchemaError((*failure.path, key), *_unknown(key, failure, root), key=True) for key in unknown[:MOST_UNKNOWN]
    ]
    if len(unknown) > MOST_UNKNOWN:
        message = f"There are {len(unknown) - MOST_UNKNOWN:,} more unknown keys here."
        found.append(SchemaError(failure.path, message, "Fix the others first."))
    return found


def _unknown(key: str, failure: _Failure, root: Value) -> tuple[str, str]:
    folded = _folded(key)
    if _API_KEY.fullmatch(folded):
        variable = _variable(folded, failure.path, root)
        return "A key is never written into a manifest.", f"Put it into the environment variable {variable}."
    if folded in _SET_BY_BATCHGEN:
        return f"`{key}` is set by batchgen.", "Leave it out."
    if message := failure.schema.get("x-unknown", {}).get(key):
        return message, ""
    return f"Unknown key `{cut(key)}`.", _suggest_key(key, folded, failure.schema)


def _text_with_colon(value: Value, schema: Schema) -> str:
    """A prompt such as `A cat: black`, which YAML reads as a mapping; empty where the value is none."""
    known = schema.get("properties", {})
    if not isinstance(value, dict) or len(value) != 1 or "from" not in known:
        return ""
    ((key, rest),) = value.items()
    is_text = not isinstance(rest, dict | list) and key not in known and (" " in key or not nearest(key, known))
    return cut(f"{key}: {'' if rest is None else rest}".rstrip()) if is_text else ""


def _cut_off(value: Value, unknown: Sequence[str]) -> tuple[str, str] | None:
    """The key and the text that a comma cut off in `{prompt: A mug, white}`; None where that is not the fault."""
    if not unknown or any(value[key] is not None for key in unknown):
        return None
    keys = list(value)
    at = keys.index(unknown[0])
    before = keys[at - 1] if at else ""
    if (
        before not in {"prompt", "negative_prompt"}
        or not isinstance(value[before], str)
        or keys[at : at + len(unknown)] != list(unknown)
    ):
        return None
    return before, ", ".join([value[before], *unknown])


def _suggest_key(key: str, folded: str, schema: Schema) -> str:
    """The hint that says where the key belongs, or which one was probably meant."""
    whole, known = manifest_schema(), list(schema.get("properties", {}))
    for parent, definition in schema.get("x-inside", {}).items():
        if folded in whole["$defs"][definition]["properties"]:
            return f"`{folded}` belongs inside `{parent}`: {parent}: {{{folded}: …}}."
    synonym = whole["x-synonyms"].get(folded, "")
    if guess := nearest(key, known) or (synonym if synonym in known else ""):
        return f"Did you mean `{guess}`?"
    further = f"What the account declares goes into parameters: {{{cut(key)}: …}}. " if {*known} >= _JOBS else ""
    return f"{further}Known keys are {listed(known, 30)}."


def _variable(key: str, path: NodePath, root: Value) -> str:
    """The variable that an account reads such a key from."""
    name = str(path[1]) if path[:1] == ("providers",) else ""
    settings = root["providers"].get(name) if name else None
    base = settings.get("use", name) if isinstance(settings, dict) else name
    account = builtin().raw_accounts.get(str(base or root.get("provider")), {})
    names = (*(["secret_key_env"] if key.startswith("s") else []), "api_key_env", "access_key_env")
    return next((str(account[name]) for name in names if name in account), "that the account names with `api_key_env`")


def _missing_keys(failure: _Failure) -> list[SchemaError]:
    if failure.bound == ["prompt"] and _text_with_colon(failure.value, manifest_schema()["$defs"]["prompt_mapping"]):
        return []  # its only key is reported as what it is
    hints = failure.schema.get("x-missing", {})
    return [
        SchemaError(
            failure.path,
            f"The key `{name}` is missing.",
            hints.get(name, f"Add `{name}: …`."),
            drops=bool(failure.path),
        )
        for name in failure.bound
        if name not in failure.value
    ]


# --- values -----------------------------------------------------------------------------------------------


def _type(failure: _Failure) -> tuple[str, str]:
    if is_secret(failure.path):
        return "This must be the name of an environment variable.", ""
    names = [failure.bound] if isinstance(failure.bound, str) else [name for name in failure.bound if name != "null"]
    message = f"This must be {' or '.join(_TYPES[name] for name in names)}, not {_kind(failure.value)}."
    return message, _suggest_ratio(failure) or _type_hint(failure, names)


def _suggest_ratio(failure: _Failure) -> str:
    """16:9 is 969 to tools that read it as a number in base 60."""
    ratio = "{}:{}".format(*divmod(failure.value, 60)) if isinstance(failure.value, int) else ""
    known = ratio in failure.schema.get("examples", ())
    return f"Was this an unquoted {ratio}, which other YAML tools read as a number?" if known else ""


def _type_hint(failure: _Failure, names: list[str]) -> str:
    value, schema = failure.value, failure.schema
    is_number = isinstance(value, (int, float))
    quoted = str(value).lower() if isinstance(value, bool) else str(value)
    if "string" in names and is_number and re.search(schema.get("pattern", ""), quoted):
        return f'Write it in quotes: "{quoted}".'
    if "x-hint" in schema:
        return str(schema["x-hint"])
    if isinstance(value, str) and {"integer", "number"} & set(names) and type(scalar(value)) in {int, float}:
        return f"Write it without quotes: {value}."
    if names == ["array"]:
        return "Begin each entry with a dash, or write [ … ]."
    known = list(schema.get("properties", ()))
    return f"Known keys are {listed(known)}." if 0 < len(known) <= _FEW_KEYS else ""


def _kind(value: Value) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return f'the text "{cut(value)}"'
    return "a mapping" if isinstance(value, dict) else "a list"


def _quoted(value: Value) -> str:
    return f'"{cut(value)}"' if isinstance(value, str) else _kind(value).capitalize()


def _enum(failure: _Failure) -> tuple[str, str]:
    value, schema = failure.value, failure.schema
    if "x-refused" in schema:
        return f"{_quoted(value)} {schema['x-refused']}.", schema["x-hint"]
    message, allowed = f"{_quoted(value)} is not allowed here.", [word for word in failure.bound if word is not None]
    if isinstance(value, bool) and "yes" in allowed:
        return message, f"Write {'yes' if value else 'no'}; true and false are other words in YAML."
    return message, not_allowed_hint(value, allowed)


def not_allowed_hint(value: Value, allowed: Sequence[Value]) -> str:
    """The nearest of the allowed values, and all of them; no ratio is near another, for it is another shape."""
    is_word = isinstance(value, str) and not _RATIO.fullmatch(value)
    guess = nearest(value, [word for word in allowed if isinstance(word, str)]) if is_word else ""
    return f"{f'Did you mean {guess}? ' if guess else ''}Allowed are {listed(allowed)}."


def _pattern(failure: _Failure) -> tuple[str, str]:
    if is_secret(failure.path):
        hint = "Put the key into an environment variable, and the variable's name here."
        return "This must be the name of an environment variable, not a key.", hint
    value, schema = failure.value, failure.schema
    hint = schema.get("x-hint", "" if "x-refused" in schema else f"It must match {cut(schema['pattern'], 100)}")
    ratio = value.casefold().replace("x", ":").replace("/", ":").replace("×", ":").replace(" ", "")
    if re.search(schema["pattern"], ratio) and _RATIO.fullmatch(ratio):
        hint = f"Did you mean {ratio}? {hint}"
    return f'"{cut(value)}" {schema.get("x-refused", "is not allowed here")}.', hint


def _bound(failure: _Failure) -> tuple[str, str]:
    low, high = failure.schema.get("minimum"), failure.schema.get("maximum")
    if low is not None and high is not None:
        hint = f"It may be from {low} to {high}."
    else:
        hint = f"It must be {_BOUNDS[failure.keyword]} {failure.bound}."
    return f"{failure.value} is too {'large' if 'aximum' in failure.keyword else 'small'}.", hint


def _other(failure: _Failure) -> tuple[str, str]:
    bound = cut(json.dumps(failure.bound, ensure_ascii=False), 200)
    return f"{_quoted(failure.value)} does not fit.", f"It must fit {failure.keyword}: {bound}."


def _long(failure: _Failure) -> tuple[str, str]:
    return f"This is {len(str(failure.value)):,} characters long.", f"It may be at most {failure.bound}."


def _twice(failure: _Failure) -> tuple[str, str]:
    items = failure.value
    item = next(item for number, item in enumerate(items) if item in items[:number])
    return f"{_quoted(item)} is in this list twice.", "Take one of them out."


_EXPLANATIONS = {
    "type": _type,
    "enum": _enum,
    "pattern": _pattern,
    "minimum": _bound,
    "maximum": _bound,
    "exclusiveMinimum": _bound,
    "exclusiveMaximum": _bound,
    "maxLength": _long,
    "uniqueItems": _twice,
}
