"""Requests of a declared API, read by the templates that make them: which step sends one, and with which values."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import HTTP
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from batchgen.apis.definition import names_in
from batchgen.apis.values import Template
from batchgen.sandbox.api_error import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aiohttp import web

    from batchgen.apis.definition import Definition, Step
    from batchgen.sandbox.declared_answers import Name

_MARK = re.compile(r"(\{\{.*?\}\}|\{%.*?%\})", re.DOTALL)
_ONE_NAME = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A request as it came: `address` is its path and query."""

    method: str
    address: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A step that sends such a request, and the values that are in it."""

    step: Step
    values: dict[str, Any] = field(default_factory=dict)


def sent(request: web.BaseRequest, address: str, raw: bytes) -> Sent:
    """What a request says. Raises ApiError (1200) for a body that cannot be read."""
    body: Any = None
    try:
        if request.content_type == "multipart/form-data":
            body = _form(request.headers["Content-Type"], raw)
        elif raw:
            body = json.loads(raw)
    except (ValueError, RecursionError):
        raise ApiError(1200, "the body is not valid JSON") from None
    return Sent(
        method=request.method,
        address=address,
        query=dict(parse_qsl(address.partition("?")[2], keep_blank_values=True)),
        headers=request.headers,
        body=body,
    )


def _form(content_type: str, raw: bytes) -> dict[str, str]:
    """The texts of a form. Raises ValueError for what is none."""
    parts = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + raw, policy=HTTP).iter_parts()
    named = ((part.get_param("name", header="Content-Disposition"), part.get_payload(decode=True)) for part in parts)
    return {str(name): payload.decode() for name, payload in named if isinstance(payload, bytes)}


class Requests:
    """The requests of a definition; `task` is how its API names a task, None where it names none.

    `prefix` is the path of its base address, which requests come without.
    """

    def __init__(self, definition: Definition, task: Name | None, prefix: str) -> None:
        self._prefix = prefix
        self.steps = sorted(_chain(definition), key=lambda step: bool(step.address_names))  # fixed addresses first
        self._task = task

    def matches(self, request: Sent) -> list[Match]:
        """Every step that sends such a request: a query and a look-up may be the same one."""
        return [found for step in self.steps if (found := self._match(step, request)) is not None]

    def _match(self, step: Step, request: Sent) -> Match | None:
        values: dict[str, Any] = {}
        if step.method != request.method or not self._reads_address(step, request.address, values):
            return None
        for node, what in ((step.query, request.query), (step.headers, request.headers), (step.body, request.body)):
            if node and not _reads(node, what, values):
                return None
        return Match(step=step, values=values)

    def _reads_address(self, step: Step, address: str, values: dict[str, Any]) -> bool:
        source = step.address.source
        path = source if step.begins_with_task or source.startswith("/") else self._local(source)
        has_query = "?" in path or (step.begins_with_task and self._task is not None and "?" in self._task.prefix)
        found = re.fullmatch(self._pattern(path, step), address if has_query else address.partition("?")[0])
        if found is None and has_query:  # further values after those of the address
            found = re.match(self._pattern(path, step) + "&", address)
        if found is None:
            return False
        values.update({name.removesuffix("_path"): unquote(text) for name, text in found.groupdict().items()})
        return True

    def _pattern(self, path: str, step: Step) -> str:
        if step.begins_with_task and self._task is not None:
            before, after = re.escape(self._local(self._task.prefix)), re.escape(self._task.suffix)
            return rf"{before}(?P<task>[\w-]+){after}{pattern(path.partition('}}')[2])}"
        return pattern(path)

    def _local(self, url: str) -> str:
        """An address without its host, as it is asked for here."""
        parts = urlsplit(url)
        return url.removeprefix(f"{parts.scheme}://{parts.netloc}").removeprefix(self._prefix) if parts.netloc else url


@lru_cache
def pattern(source: str, *, address: bool = True) -> str:
    """A regular expression for the texts that a template makes, with a group for each plain name."""
    parts, known = [], set()
    for part in _MARK.split(source):
        one = _ONE_NAME.fullmatch(part)
        if not _MARK.fullmatch(part):
            parts.append(re.escape(part))
        elif one is None or one[1] in known:
            parts.append(".*?")
        else:
            known.add(one[1])
            parts.append(f"(?P<{one[1]}>{'.*?' if one[1].endswith('_path') or not address else '[^/?&]*?'})")
    return "".join(parts)


def _reads(node: Any, what: Any, values: dict[str, Any]) -> bool:  # noqa: ANN401 - a tree of templates, any JSON
    """Whether a node makes such a value; the names that it holds as they are come into `values`."""
    if isinstance(node, Template):
        if node.name:
            values.setdefault(node.name, what)
        elif node.typed is None:
            found = re.fullmatch(pattern(node.source, address=False), str(what), re.DOTALL)
            values.update(found.groupdict() if found else {})
            return found is not None
        return True
    if isinstance(node, list):
        same = isinstance(what, list) and len(what) == len(node)
        return all(_reads(a, b, values) for a, b in zip(node, what, strict=True)) if same else bool(names_in(node))
    if isinstance(node, dict):
        # What is nothing is left out, and another client leaves out what has a default.
        return hasattr(what, "get") and all(
            _reads(child, what[name], values) for name, child in node.items() if name in what
        )
    return node == what or (isinstance(what, str) and what == (node if isinstance(node, str) else json.dumps(node)))


def _chain(definition: Definition) -> Iterator[Step]:
    """Each step, with the second steps of look-ups; a query comes before a look-up."""
    for name in ("create", "query", "result", "find", "list", "probe"):
        step = definition.steps.get(name)
        while step is not None:
            yield step
            step = step.alternative
