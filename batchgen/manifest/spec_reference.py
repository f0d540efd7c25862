"""The reference of the manifest for people, `docs/manifest.md`, from the same specification as the schema."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from batchgen.jobs import PARAMETER_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchgen.manifest.schema_file import Schema

_INTRODUCTION = """# The manifest

<!-- Made from batchgen/manifest/spec.yaml and the catalogue: `python -m batchgen.manifest.spec`. -->

A manifest is a YAML file (1.2): a mapping with the keys below. Unknown keys are errors. `batchgen validate FILE` checks
it, `batchgen schema` prints its JSON Schema for editors, and `batchgen models` lists models and accounts.
"""
_PARAMETERS = "Request parameters"
# The sections after the first: heading, and where in the schema.
_SECTIONS = (
    ("`matrix`: blocks of axes", "block"),
    ("`provider`: a pool of accounts", "pool"),
    (_PARAMETERS, "parameters"),
    ("Entries of an axis", "entry"),
    ("Entries of `prompt`", "prompt_mapping"),
    ("Entries of `zip`", "zip_entry"),
    ("`sample`", "sample"),
    ("`exclude`", "exclusion"),
    ("`include`", "inclusion"),
    ("`providers`: accounts", "provider"),
    ("`parameters` of an account", "parameter_schema"),
)
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/*-]*")
_TYPES = {"object": "mapping", "array": "list", "string": "text", "integer": "whole number", "boolean": "true or false"}


def reference_text(schema: Schema) -> str:
    """The whole document."""
    reference = _Reference(schema["$defs"])
    sections = [_INTRODUCTION, *reference.section(2, "Top level", {**schema, "description": ""})]
    for heading, name in _SECTIONS:
        sections += reference.section(2, heading, schema["$defs"][name])
    return "\n".join(sections)


class _Reference:
    """Writes the sections; a key whose value is a mapping of its own gets one below."""

    def __init__(self, definitions: Schema) -> None:
        self._definitions = definitions

    def section(self, level: int, heading: str, part: Schema) -> Iterator[str]:
        """A heading, the keys as a table, an example, and the sections of the mappings inside."""
        keys = {name: self._resolved(child) for name, child in part["properties"].items()}
        yield f"{'#' * level} {heading}\n"
        if part["description"]:
            yield f"{part['description']}\n"
        yield "| key | value | default | meaning |\n|---|---|---|---|"
        shared = PARAMETER_NAMES if heading != _PARAMETERS and keys.keys() >= set(PARAMETER_NAMES) else ()
        for name, child in keys.items():
            if name not in shared:
                yield self._row(name, child, required=name in part.get("required", ()))
        if shared:
            yield f"| {', '.join(f'`{name}`' for name in shared)} | | | see [request parameters](#request-parameters) |"
        yield ""
        if part.get("examples"):
            examples = "\n".join(_flow(example) for example in part["examples"])
            yield f"```yaml\n{examples}\n```\n"
        for name, child in keys.items():
            if "properties" in child and "$ref" not in part["properties"][name]:
                yield from self.section(level + 1, f"`{name}`", child)

    def _resolved(self, part: Schema) -> Schema:
        if "$ref" in part:
            return {**self._definitions[part["$ref"].rsplit("/", 1)[1]], **part}
        return part

    def _row(self, name: str, part: Schema, *, required: bool) -> str:
        meaning = part["description"]
        if "enumDescriptions" in part:
            pairs = zip(part["enum"], part["enumDescriptions"], strict=True)
            meaning += "<br>" + "<br>".join(f"`{_flow(word)}`: {about}" for word, about in pairs)
        elif "defaultSnippets" in part:
            words = [(snippet["label"], snippet["description"]) for snippet in part["defaultSnippets"]]
            meaning += "<br>" + "<br>".join(f"`{word}`: {about}" for word, about in words)
        default = f"`{_flow(part['default'])}`" if "default" in part else "required" if required else ""
        cells = (f"`{name}`", self._type(part), default, meaning)
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    def _type(self, part: Schema) -> str:
        if "enum" in part:
            return ", ".join(f"`{_flow(word)}`" for word in part["enum"])
        if "if" in part and "type" not in part and "else" in part:
            otherwise = self._type(self._resolved(part["else"]))
            return f"{otherwise}, or a {'list' if part['if'] == {'type': 'array'} else 'mapping'}"
        part = {**self._resolved(part.get("then", {})), **part}
        types = [part["type"]] if isinstance(part.get("type"), str) else part.get("type", ["any"])
        if {"string", "number", "boolean"} <= set(types):  # each is taken as it is written
            return "text"
        return " or ".join(_TYPES.get(name, name) for name in types) + _bounds(part)


def _bounds(part: Schema) -> str:
    low, high = part.get("minimum"), part.get("maximum")
    if low is not None and high is not None:
        return f", from {low} to {high}"
    if low is not None:
        return f", at least {low}"
    return f", more than {part['exclusiveMinimum']}" if "exclusiveMinimum" in part else ""


def _flow(value: Any) -> str:  # noqa: ANN401 - any value of JSON
    """A value as YAML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    is_plain = isinstance(value, str) and (_PLAIN.fullmatch(value) or re.fullmatch(r"\d+:\d+", value))
    return str(value) if is_plain else json.dumps(value, ensure_ascii=False)
