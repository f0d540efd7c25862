"""Requests of a declared API, read by the templates that make them: which step sends one, and with which values."""

from __future__ import annotations

import json
import re
from email import message_from_bytes
from email.policy import HTTP
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from batchgen.apis.definition import names_in
from batchgen.apis.values import Template
from batchgen.sandbox.api_error import ApiError

if TYPE_CHECKING:
    from aiohttp import web

    from batchgen.apis.definition import Definition, Step
    from batchgen.sandbox.declared_answers import Name

_MARK = re.compile(r"(\{\{.*?\}\}|\{%.*?%\})", re.DOTALL)
_ONE_NAME = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_IN_PLACE_OF = re.compile(r"\{\{\s*(\w+)\s*\|\s*d(?:efault)?\(\s*(attempt_\w+)\s*\)\s*\}\}")  # a value, or the mark


def body_of(request: web.BaseRequest, raw: bytes) -> Any:  # noqa: ANN401 - any value of JSON
    """What a request's body holds. Raises ApiError (1200) for one that cannot be read."""
    try:
        if request.content_type != "multipart/form-data":
            return json.loads(raw) if raw else None
        head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
        parts = message_from_bytes(head + raw, policy=HTTP).iter_parts()
        named = [
            (part.get_param("name", header="Content-Disposition"), part.get_payload(decode=True)) for part in parts
        ]
        return {str(name): payload.decode() for name, payload in named if isinstance(payload, bytes)}
    except (ValueError, RecursionError):
        raise ApiError(1200, "the body is neither valid JSON nor a form of texts") from None


class Requests:
    """The requests of a definition; `task` is how its API names a task, None where it names none.

    `prefix` is the path of its base address, which requests come without.
    """

    def __init__(self, definition: Definition, task: Name | None, prefix: str) -> None:
        named = [
            definition.steps[name]
            for name in ("create", "query", "result", "find", "list", "probe")
            if name in definition.steps
        ]
        chain = [each for step in named for each in (step, step.alternative) if each is not None]
        self.steps = sorted(chain, key=lambda step: bool(step.address.names))  # fixed addresses first
        self._task = task
        self._prefix = prefix

    def matches(self, request: web.BaseRequest, address: str, body: Any) -> list[tuple[Step, dict[str, Any]]]:  # noqa: ANN401
        """Every step that sends such a request, with the values in it: a query and a look-up may be the same one."""
        query = dict(parse_qsl(address.partition("?")[2], keep_blank_values=True))
        found = []
        for step in self.steps:
            values = self._in_address(step, address) if step.method == request.method else None
            parts = ((step.query, query), (step.headers, request.headers), (step.body, body))
            if values is not None and all(not node or _reads(node, sent, values) for node, sent in parts):
                found.append((step, values))
        return found

    def _in_address(self, step: Step, address: str) -> dict[str, Any] | None:
        """The values in a path with its query; None where it is another step's. More may follow in the query."""
        known, source = self._task, step.address.source
        if step.begins_with_task and known is not None:
            before, after = re.escape(self._local(known.prefix)), re.escape(known.suffix)
            expected = rf"{before}(?P<task>[\w-]+){after}{pattern(source.partition('}}')[2])}"
        else:
            expected = pattern(source if source.startswith("/") else self._local(source))
        found = re.fullmatch(rf"{expected}(?:[?&].*)?", address)
        return found and {name.removesuffix("_path"): unquote(text) for name, text in found.groupdict().items()}

    def _local(self, url: str) -> str:
        """An address without its host, as it is asked for here."""
        parts = urlsplit(url)
        return url.removeprefix(f"{parts.scheme}://{parts.netloc}").removeprefix(self._prefix)


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
            parts.append(
                f"(?P<{one[1]}>{'.*?' if not address else '[^?]*?' if one[1].endswith('_path') else '[^/?&]*?'})"
            )
    return "".join(parts)


def _reads(node: Any, sent: Any, values: dict[str, Any]) -> bool:  # noqa: ANN401 - a tree of templates, any JSON
    """Whether a node makes such a value; the names that it holds as they are come into `values`."""
    if isinstance(node, Template):
        if node.name:
            values.setdefault(node.name, sent)
        elif (either := _IN_PLACE_OF.fullmatch(node.source)) is not None:
            values |= dict.fromkeys(either.groups(), sent)
        elif node.typed is None:
            found = re.fullmatch(pattern(node.source, address=False), str(sent), re.DOTALL)
            values.update(found.groupdict() if found else {})
            return found is not None
        return True
    if isinstance(node, list):
        same = isinstance(sent, list) and len(sent) == len(node)
        return all(_reads(a, b, values) for a, b in zip(node, sent, strict=True)) if same else bool(names_in(node))
    if isinstance(node, dict):
        # What is nothing is left out, and another client leaves out what has a default.
        return hasattr(sent, "get") and all(_reads(node[name], sent[name], values) for name in node if name in sent)
    return node == sent or (isinstance(sent, str) and sent == (node if isinstance(node, str) else json.dumps(node)))
