"""Parameters that an account declares beyond batchgen's own: which declarations are valid, and which values.

A declaration is a part of JSON Schema (`spec.yaml`, `parameter_schema`): it refers to nothing, and no pattern of it can
take long on the texts that it is tried on.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from batchgen import templates
from batchgen.apis.compiler import OF_CREATE
from batchgen.jobs import PARAMETER_NAMES
from batchgen.manifest import schema
from batchgen.storage.paths import PLACEHOLDERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchgen.catalog.accounts import Account
    from batchgen.manifest.diagnostics import Diagnostics
    from batchgen.manifest.model import NodePath
    from batchgen.manifest.schema_errors import SchemaError
    from batchgen.manifest.schema_file import Schema
    from batchgen.source.document import Value

_OWN = frozenset(
    {
        *(*PARAMETER_NAMES, *PLACEHOLDERS, *OF_CREATE, "attempt", "task", "external_task_id"),
        *("id", "labels", "parameters", "vars", "block", "zip", "status", "message", "file_name"),  # of a job's row
    }
)
_OF_BODY = frozenset({"model_name", "size", "response_format", "stream"})  # of Kling's and OpenAI's: batchgen sets them
_MOST_PARTS = 500  # of one declaration, those of its parts included
_PATTERN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*,?\d*\}|\(\?:|.", re.DOTALL)
_TIMES = re.compile(r"\{(\d*),?(\d*)\}")
_MOST_WAYS = 10_000_000  # in which a pattern may be tried on a text of the greatest length


def faults_of(value: Value, declared: Schema) -> list[SchemaError]:
    """What is wrong with a value; empty where nothing is."""
    return schema.check_by(value, declared)


def check_declared(
    declared: Any,  # noqa: ANN401 - as written
    path: NodePath,
    diagnostics: Diagnostics,
    account: Account | None = None,
) -> None:
    """Report what the schema of declarations does not say: names that are taken, and patterns that may take long.

    `account` declares them in a manifest; without one, it is a definition, which is compiled besides.
    """
    is_body = account is not None and account.protocol != "declared"
    for name, part in declared.items() if isinstance(declared, dict) else ():
        at = (*path, name)
        if name in _OWN or (is_body and name in _OF_BODY) or templates.is_reserved(name):
            hint = "Only parameters beyond batchgen's own are declared."
            diagnostics.add(at, f"`{name}` is batchgen's own name.", hint, key=True)
        elif account is not None and not is_body and name not in account.fields:
            message = f"The definition of `{account.name}` does not send the parameter `{name}`."
            hint = f"Copy the definition and put `{{{{ {name} }}}}` into its `create`."
            diagnostics.add(at, message, hint, key=True)
        parts = list(_parts(part, at))
        if len(parts) > _MOST_PARTS:
            diagnostics.add(at, "This schema is too large.", f"It may have {_MOST_PARTS} parts.", key=True)
            continue
        for where, pattern in parts:
            if pattern is not None and (fault := _pattern_fault(pattern)):
                diagnostics.add(where, *fault)


def _parts(part: Any, path: NodePath) -> Iterator[tuple[NodePath, str | None]]:  # noqa: ANN401 - as written
    """Every schema in a declaration, with its pattern, if it has one."""
    if not isinstance(part, dict):
        return
    pattern = part.get("pattern")
    yield (*path, "pattern"), pattern if isinstance(pattern, str) else None
    keys, choices = part.get("properties"), part.get("anyOf")
    inside: list[tuple[NodePath, Any]] = [
        ((key,), part[key]) for key in ("items", "additionalProperties") if key in part
    ]
    inside += [(("properties", name), child) for name, child in (keys.items() if isinstance(keys, dict) else ())]
    inside += [(("anyOf", at), child) for at, child in enumerate(choices if isinstance(choices, list) else ())]
    for steps, child in inside:
        yield from _parts(child, (*path, *steps))


def _pattern_fault(pattern: str) -> tuple[str, str] | None:
    """Why a pattern is not taken: it is none, or has more ways to be tried than a machine can take."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"This is no regular expression: {error}.", "Write it as in ^[a-z]+$."
    longest = schema.LONGEST_MATCHED
    ways, before = 1 if pattern.startswith("^") and "|" not in pattern else longest, ""
    for part in _PATTERN.findall(pattern):
        times = _TIMES.fullmatch(part)
        if (before == ")" and (times or part in {"*", "+"})) or (before == "(" and part == "?"):
            return "A pattern may not repeat a group, nor look around.", "List the values with `enum` instead."
        if re.fullmatch(r"\\\d", part):
            return "A pattern may not refer back to a group.", "Write what it repeats."
        if part in {"*", "+"}:
            ways *= longest
        elif part in {"?", "|"}:
            ways *= 2
        elif times is not None and "," in part:
            ways *= min(int(times[2] or longest), longest) - min(int(times[1] or 0), longest) + 1
        before = part
    if ways > _MOST_WAYS:
        return "This pattern may take too long to try.", "Begin it with ^, and use fewer of * + ? {} and |."
    return None
