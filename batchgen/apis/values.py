"""Requests as templates: texts, lists and mappings with `{{ }}` in them.

A value that is one `{{ }}` keeps its type, and where that is nothing, its key is left out. What is inserted is never
read as a template, and in an address it is quoted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import quote

from batchgen import templates

Values: TypeAlias = Mapping[str, Any]
Node: TypeAlias = Any  # a Template, a list or mapping of nodes, or a constant

_MARKED = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_DOTTED = re.compile(r"\b(attempt|image)\.(\w+)")
_PATH = re.compile(r"\b(\w+)\s*\|\s*path\b")
_ONE = re.compile(r"\s*\{\{((?:(?!\{\{|\}\}).)*)\}\}\s*", re.DOTALL)
_NAME = re.compile(r"\s*([A-Za-z_]\w*)\s*")
_MAY_REPLACE_NOTHING = re.compile(r"\b(if|default|d)\b")
ABSENT: Any = object()  # stands for a key that is left out


@dataclass(frozen=True, slots=True)
class Template:
    """A text with names in it."""

    source: str
    names: frozenset[str]  # with `_` for the dot of `attempt.id`
    typed: Any = None  # the expression, where the text is one `{{ }}`
    name: str = ""  # the name, where the text is one `{{ name }}`

    def of(self, values: Values) -> Any:  # noqa: ANN401 - what it makes
        """What it makes; ABSENT where that is nothing. Raises TemplateInvalid."""
        if self.name:
            found = values[self.name]
        elif self.typed is None:
            return self.text(values)
        elif any(values[name] is None for name in self.names) and not _MAY_REPLACE_NOTHING.search(self.source):
            return ABSENT
        else:
            found = self.typed(values)
        return ABSENT if found is None else found

    def text(self, values: Values) -> str:
        """The text that it makes; nothing is an empty text. Raises TemplateInvalid."""
        return templates.read(self.source).render({name: _text(values[name]) for name in self.names})


def read(text: str, *, address: bool = False) -> Template:
    """A template from its text. Raises TemplateInvalid for what is not allowed in one."""
    source = _MARKED.sub(lambda mark: _plain_names(mark[0], address=address), text)
    if address or not (one := _ONE.fullmatch(source)):
        return Template(source, templates.read(source).names)
    names = templates.read(source).names
    if (name := _NAME.fullmatch(one[1])) and name[1] in names:
        return Template(source, names, name=name[1])
    return Template(source, names, typed=templates.read_expression(source, one[1]))


def _plain_names(mark: str, *, address: bool) -> str:
    mark = _DOTTED.sub(r"\1_\2", mark)
    return _PATH.sub(r"\1_path", mark) if address else mark


def rendered(node: Node, values: Values) -> Any:  # noqa: ANN401 - any value of JSON
    """A node with its values; ABSENT where it is a template of nothing, or a mapping of nothing but such ones."""
    if isinstance(node, Template):
        return node.of(values)
    if isinstance(node, list):
        return [each for child in node if (each := rendered(child, values)) is not ABSENT]
    if isinstance(node, dict):
        found = {name: each for name, child in node.items() if (each := rendered(child, values)) is not ABSENT}
        return found if found or not node else ABSENT
    return node


def addressed(template: Template, values: Values) -> str:
    """An address with its values: each as one step of a path, and NAME_path as several."""
    texts = {}
    for name in template.names:
        plain = name.removesuffix("_path")
        texts[name] = quote(_text(values[plain]), safe="" if plain == name else "/")
    return template.text(texts)


def quoted(values: Values) -> dict[str, str]:
    """The values as an address takes them: as one step of a path, and under NAME_path as several."""
    texts = {name: _text(value) for name, value in values.items()}
    steps = {name: quote(text, safe="") for name, text in texts.items()}
    return steps | {f"{name}_path": quote(text, safe="/") for name, text in texts.items()}


def _text(value: object) -> str:
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value)
