"""Texts with `{{ }}`: prompts, rendered for each combination of vars, and the requests of declared APIs.

Templates are Jinja2's, of which a small, harmless part is allowed: names, conditions, comparison, `~` and a few
filters. Without loops, calls and arithmetic, none can run long or produce a huge text. Most templates only put names
into a text; those are split once and joined, without Jinja2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from batchgen.errors import BatchgenError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import jinja2

LONGEST_TEMPLATE = 20_000  # characters
LONGEST_RESULT = 100_000  # of a filter, long before a prompt's own bound matters

_NAME = re.compile(r"\{\{[ \t\n]*([A-Za-z_][A-Za-z0-9_]*)[ \t\n]*\}\}")
_MARKS = re.compile(r"\{\{|\}\}|\{%|%\}|\{#")
_RESERVED = frozenset({
    "true", "false", "none", "True", "False", "None", "not", "and", "or", "if", "else", "elif", "endif", "is", "in",
    "for", "endfor", "set", "block", "import", "include", "from", "macro", "call", "filter", "raw", "self", "loop",
    "super", "namespace", "caller", "varargs", "kwargs",
})  # fmt: skip
_FILTERS = frozenset({"upper", "lower", "title", "capitalize", "trim", "replace", "default", "d"})
_NODES = frozenset({
    "Template", "Output", "TemplateData", "Name", "Const", "If", "CondExpr", "Compare", "Operand", "And", "Or", "Not",
    "Concat", "Filter",
})  # fmt: skip
_NODE_WORDS = {
    "For": "a loop", "Call": "a call", "Getattr": "a dot", "Getitem": "[ ]", "Assign": "{% set %}",
    "Mul": "*", "Pow": "**", "Add": "+ (use ~ to join texts)", "Sub": "-", "Div": "/", "Mod": "%",
    "FloorDiv": "//", "Test": "a test (`is`)", "Include": "{% include %}", "Import": "{% import %}",
    "Macro": "{% macro %}", "List": "a list", "Tuple": "a list", "Dict": "a mapping",
}  # fmt: skip


class TemplateInvalid(BatchgenError):
    """A template that cannot be read or rendered; the message says why and what to write instead."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class _Plain:
    """A text with names in it: literals and names alternate, a literal comes first and last."""

    parts: tuple[str, ...]
    names: frozenset[str]

    def render(self, values: Mapping[str, str]) -> str:
        """The text with the values in it."""
        parts = self.parts
        return "".join([values[p] if i & 1 else p for i, p in enumerate(parts)])


@dataclass(frozen=True, slots=True)
class _Jinja:
    """A template with conditions or filters."""

    template: jinja2.Template
    names: frozenset[str]

    def render(self, values: Mapping[str, str]) -> str:
        """The text that it makes. Raises TemplateInvalid."""
        from jinja2 import TemplateError  # noqa: PLC0415 - costs 50 ms; most templates need none of it

        try:
            return self.template.render(values)
        except (TemplateError, TypeError, ValueError, RecursionError, MemoryError) as error:
            raise TemplateInvalid(f"The template cannot be rendered: {_reason(error)}.") from error


Template: TypeAlias = _Plain | _Jinja


def is_template(text: str) -> bool:
    """Whether a text is to be rendered."""
    return "{{" in text or "{%" in text


def is_reserved(name: str) -> bool:
    """Whether this name is a keyword of templates."""
    return name in _RESERVED


@lru_cache(maxsize=16384)
def read(text: str) -> Template:
    """A template from its text. Raises TemplateInvalid for what is not allowed in one."""
    if len(text) > LONGEST_TEMPLATE:
        raise TemplateInvalid(f"The template is longer than {LONGEST_TEMPLATE:,} characters. Shorten it.")
    return _plain(text) or _jinja(text)


@lru_cache(maxsize=1024)
def read_expression(text: str, inside: str) -> Callable[[Mapping[str, Any]], Any]:
    """The value of a text that is one `{{ inside }}`, with its type. Raises TemplateInvalid, also when it is called."""
    from jinja2 import TemplateError, Undefined  # noqa: PLC0415

    read(text)
    compiled = _environment().compile_expression(inside, undefined_to_none=False)

    def value_of(values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - what the expression makes
        try:
            found = compiled(values)
            return None if isinstance(found, Undefined) else found
        except (TemplateError, TypeError, ValueError, RecursionError, MemoryError) as error:
            raise TemplateInvalid(f"The template cannot be rendered: {_reason(error)}.") from error

    return value_of


def _plain(text: str) -> _Plain | None:
    """The text as a plain template, or None where it contains more than names."""
    parts = _NAME.split(text)
    names = frozenset(parts[1::2])
    if names & _RESERVED or _MARKS.search("".join(parts[::2])):
        return None
    return _Plain(tuple(parts), names)


def _jinja(text: str) -> _Jinja:
    from jinja2 import TemplateError, TemplateSyntaxError, meta  # noqa: PLC0415

    environment = _environment()
    try:
        tree = environment.parse(text)
        _refuse(tree)
        names = frozenset(meta.find_undeclared_variables(tree))
        return _Jinja(environment.from_string(text), names)
    except TemplateSyntaxError as error:
        raise TemplateInvalid(
            f"The template cannot be read: {_reason(error)}. Write names as {{{{ name }}}}."
        ) from error
    except (TemplateError, SyntaxError, RecursionError, MemoryError, ValueError, TypeError) as error:
        raise TemplateInvalid(f"The template cannot be read: {_reason(error)}.") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError | MemoryError):
        return "it is nested too deeply"
    lines = (str(error) or type(error).__name__).splitlines()
    return lines[0][:200].rstrip(".")


def _refuse(node: Any, depth: int = 0) -> None:  # noqa: ANN401 - a node of Jinja2, whose types are all alike
    if depth > 40:
        raise TemplateInvalid("The template is nested too deeply. Write it more simply.")
    kind = type(node).__name__
    if kind not in _NODES:
        what = _NODE_WORDS.get(kind, kind)
        raise TemplateInvalid(f"A template cannot hold {what}. Names, if/else, ~ and filters are allowed.")
    if kind == "Filter" and node.name not in _FILTERS:
        raise TemplateInvalid(f"There is no filter `{node.name}`. Allowed are {', '.join(sorted(_FILTERS))}.")
    for child in node.iter_child_nodes():
        _refuse(child, depth + 1)


@cache
def _environment() -> Any:  # noqa: ANN401 - an environment of a package that is imported late
    from jinja2 import StrictUndefined  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    environment.filters = {name: environment.filters[name] for name in _FILTERS}
    environment.filters["replace"] = _replace
    environment.filters["default"] = environment.filters["d"] = _default
    environment.globals.clear()
    return environment


def _default(value: Any, other: Any = "", boolean: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 - as Jinja2's
    """As Jinja2's, which takes None for a value: here it is a parameter that is not given."""
    from jinja2 import Undefined  # noqa: PLC0415

    return other if value is None or isinstance(value, Undefined) or (boolean and not value) else value


def _replace(text: object, old: object, new: object) -> str:
    """Replace every occurrence; bounded, since a chain of replacements can grow without end."""
    whole, searched, put = str(text), str(old), str(new)
    if len(whole) + whole.count(searched) * len(put) > LONGEST_RESULT:
        raise ValueError("the result of `replace` is too long")
    return whole.replace(searched, put)
