"""The manifest's specification, `spec.yaml`, as a JSON Schema. `python -m batchgen.manifest.spec` writes the files.

Lists of values, limits and defaults come from the catalogue and from the values that the code itself uses.
"""

from __future__ import annotations

import json
from dataclasses import fields
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from batchgen.catalog import definitions
from batchgen.catalog.accounts import Account
from batchgen.catalog.load import builtin
from batchgen.jobs import Parameters
from batchgen.manifest.spec_reference import reference_text
from batchgen.source import document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchgen.manifest.schema_file import Schema

_SUBSCHEMAS = frozenset({"items", "propertyNames", "additionalProperties", "if", "then", "else", "not"})
_ABBREVIATIONS = frozenset({"keys", "values", "offers", "one_or_list_of", "mapping", "refused"})
_MODIFIERS = frozenset({"any_text", "others", "otherwise", "parameters", "nullable"})  # of an abbreviation
_ANNOTATIONS = frozenset({"hint", "missing", "unknown", "inside", "synonyms"})
_NULL = "takes a default away"


def build_schema() -> Schema:
    """The schema of manifests, from the specification and the catalogue."""
    text = resources.files("batchgen.manifest").joinpath("spec.yaml").read_text(encoding="utf-8")
    spec = document.parse(text, "spec.yaml").value
    builder = _Builder(spec.pop("parameters"))
    definitions = builder.parameters() | {name: builder.schema(part) for name, part in spec.pop("definitions").items()}
    _set_account_defaults(definitions["provider"]["properties"])
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {**draft, **builder.schema(spec), "$defs": definitions}


def _set_account_defaults(keys: Schema) -> None:
    defaults = {field.name: field.default for field in fields(Account)}
    for name, key in {**keys, **keys["limits"]["properties"]}.items():
        if name in {"concurrency", "model_field", "visibility_delay", "request_timeout"}:
            value = defaults[name]
            key["default"] = int(value) if isinstance(value, float) and value.is_integer() else value


class _Builder:
    """Writes the abbreviations of `spec.yaml` out."""

    def __init__(self, parameters: Mapping[str, Schema]) -> None:
        self._parameters = parameters
        self._catalog = builtin()
        limits = self._catalog.limits
        self._limits = {
            "prompt_characters": f"{limits.prompt_characters:,}",
            "image_megabytes": limits.image_bytes >> 20,
            "image_side_pixels": limits.image_side_pixels,
            "image_ratio": limits.image_ratio,
        }

    def parameters(self) -> dict[str, Schema]:
        """Of each parameter: its value, an entry of its axis, and the axis."""
        defaults = {field.name: field.default for field in fields(Parameters)}
        found = {}
        for name, part in self._parameters.items():
            value = self.schema(part)
            if defaults[name] is not None:
                value["default"] = defaults[name]
            found[f"value_{name}"] = value
            found |= self._axis(name, value)
        return found

    def _axis(self, name: str, value: Schema) -> dict[str, Schema]:
        common = {"title": value["title"], "description": value["description"]}
        words = {word: about for word, about in self._words(self._parameters[name]).items() if word is not None}
        snippets = {"defaultSnippets": _snippets(words)} if words else {}
        is_entry: Schema = {"type": "object"}
        if "properties" in value:  # the value is a mapping itself
            is_entry["not"] = {"required": value["required"]}
        entry = {
            "title": common["title"],
            "description": f"{common['description']} A value, or a mapping whose key of the axis's name gives it.",
            **snippets,
            "if": is_entry,
            "then": {"$ref": "#/$defs/entry", "required": [name]},
            "else": _reference(f"value_{name}"),
        }
        axis = {
            "title": f"{common['title']} (axis)",
            "description": f"{common['description']} One value, or a list of values or entries: each is combined with"
            " every entry of the other axes.",
            **_one_or_list(f"entry_{name}", uniqueItems=True),
            **snippets,
        }
        return {f"entry_{name}": entry, f"axis_{name}": axis}

    def schema(self, part: Schema | str) -> Schema:
        """A part of the specification as a schema."""
        if isinstance(part, str):
            return _reference(part)
        found: Schema = {}
        for key, value in part.items():
            found |= self._keyword(key, value, part)
        if part.get("nullable"):
            _allow_null(found)
        return found

    def _keyword(self, key: str, value: Any, part: Schema) -> Schema:  # noqa: ANN401 - any value of JSON
        if key in _SUBSCHEMAS and not isinstance(value, bool):
            return {key: self.schema(value)}
        if key in _ABBREVIATIONS:
            written_out: Schema = getattr(self, f"_{key}")(part)
            return written_out
        if key in _ANNOTATIONS:
            return {f"x-{key}": value}
        if key == "description":
            return {key: Template(value).safe_substitute(self._limits)}
        return _reference(value) if key == "$ref" else {} if key in _MODIFIERS else {key: value}

    def _keys(self, part: Schema) -> Schema:
        keys = {name: self.schema(child) for name, child in part["keys"].items()}
        return {
            "type": "object",
            "properties": keys | self._of_parameters(part),
            "additionalProperties": self.schema(part["others"]) if "others" in part else False,
        }

    def _values(self, part: Schema) -> Schema:
        words = self._words(part)
        return {"enum": list(words), "enumDescriptions": list(words.values())}

    def _offers(self, part: Schema) -> Schema:
        words = self._words(part)
        described = "\n".join(f"- `{word}`: {about}" for word, about in words.items())
        return {
            "examples": list(words),
            "markdownDescription": f"{part['description']}\n\n{described}",
            "defaultSnippets": _snippets(words),
        }

    def _one_or_list_of(self, part: Schema) -> Schema:
        return _one_or_list(part["one_or_list_of"], **({"x-any-text": True} if "any_text" in part else {}))

    def _mapping(self, part: Schema) -> Schema:
        return {"if": {"type": "object"}, "then": _reference(part["mapping"]), "else": _reference(part["otherwise"])}

    def _refused(self, part: Schema) -> Schema:
        return {"x-refused": part["refused"], "patternErrorMessage": f"This {part['refused']}. {part['hint']}"}

    def _of_parameters(self, part: Schema) -> Schema:
        match part.get("parameters"):
            case None:
                return {}
            case "axes":
                return {name: _reference(f"axis_{name}") for name in self._parameters}
            case "matches":
                special = {"watermark_info": "match_watermark"}
                return {name: _reference(special.get(name, "match")) for name in self._parameters}
        return {name: _reference(f"value_{name}") for name in self._parameters}

    def _words(self, part: Schema) -> dict[Any, str]:
        """The values of a part, and what each means."""
        source: str | Schema = part.get("values") or part.get("offers") or {}
        if isinstance(source, str):
            listed = getattr(self._catalog, source)
            words = {word: about if isinstance(about, str) else about.about for word, about in listed.items()}
            return words | (_defined_apis() if source == "accounts" else {})
        return {document.scalar(word): about for word, about in source.items()}


def _defined_apis() -> dict[Any, str]:
    return {name: document.parse(definitions.text_of(name), name).value["about"] for name in definitions.names()}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _one_or_list(name: str, **more: bool) -> Schema:
    return {
        "if": {"type": "array"},
        "then": {"items": _reference(name), "minItems": 1, **more},
        "else": _reference(name),
    }


def _snippets(words: Mapping[str, str]) -> list[Schema]:
    return [{"label": word, "description": about, "body": word} for word, about in words.items()]


def _allow_null(schema: Schema) -> None:
    if "enum" in schema:
        schema["enum"].append(None)
        schema["enumDescriptions"].append(_NULL)
    else:
        types = schema["type"]
        schema["type"] = [*([types] if isinstance(types, str) else types), "null"]


def generated_files() -> dict[str, str]:
    """The files that are made from the specification: their path in a checkout, and their text."""
    schema = build_schema()
    return {
        "schemas/manifest.schema.json": json.dumps(schema, ensure_ascii=False, indent=2) + "\n",
        "docs/manifest.md": reference_text(schema),
    }


if __name__ == "__main__":
    for name, text in generated_files().items():
        (Path(__file__).resolve().parents[2] / name).write_text(text, encoding="utf-8")
