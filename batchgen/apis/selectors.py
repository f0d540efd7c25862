"""Selectors: JMESPath expressions that read values out of answers, with two functions of our own.

An answer is anybody's: an expression that does not fit it gives None, and raises nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from batchgen.errors import BatchgenError

_FIELDS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_LONGEST_JSON = 1_000_000  # characters of a text that `from_json` reads
_LONGEST_TEXT = 2000
_LONGEST_NUMBER = 18  # digits of one that is taken for a text: an id
_DOES_NOT_FIT = (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, RecursionError)


class SelectorInvalid(BatchgenError):
    """A text that is no JMESPath expression; the message says where."""


@dataclass(frozen=True, slots=True)
class Selector:
    """A compiled expression. `text` is the expression as it was written."""

    text: str
    compiled: Any
    path: tuple[str, ...] = ()  # of one that only names fields, which takes a tenth of the time without JMESPath

    def of(self, body: Any) -> Any:  # noqa: ANN401 - any value of JSON
        """What it selects; None where there is nothing, or where the answer has another shape."""
        if self.path:
            for name in self.path:
                body = body.get(name) if isinstance(body, dict) else None
            return body
        from jmespath.exceptions import JMESPathError  # noqa: PLC0415 - 17 ms that only declared accounts need

        try:
            return self.compiled.search(body, options=_options())
        except (JMESPathError, *_DOES_NOT_FIT):
            return None

    def holds(self, body: Any) -> bool:  # noqa: ANN401 - any value of JSON
        """Whether it selects something: not null, false, or an empty text, list or mapping."""
        found = self.of(body)
        return found is not None and found is not False and found not in ("", [], {})

    def word(self, body: Any) -> str:  # noqa: ANN401 - any value of JSON
        """A short text or whole number as a text; empty where it selects anything else."""
        found = self.of(body)
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if isinstance(found, int) and not isinstance(found, bool) and abs(found) < 10**_LONGEST_NUMBER:
            return str(found)
        is_text = isinstance(found, str) and len(found) <= _LONGEST_TEXT and found.isprintable()
        return found.strip() if is_text else ""


@cache
def read(text: str) -> Selector:
    """A selector from its text. Raises SelectorInvalid."""
    import jmespath  # noqa: PLC0415 - see above
    from jmespath.exceptions import JMESPathError  # noqa: PLC0415

    try:
        compiled = jmespath.compile(text)
    except (JMESPathError, *_DOES_NOT_FIT) as error:
        reason = " ".join(str(error).partition("\n")[0].split()) or type(error).__name__
        number = " A number is written `200`, with the backticks." if "NUMBER" in reason else ""
        raise SelectorInvalid(f"This is not JMESPath: {reason[:160].rstrip('.')}.{number}") from error
    if unknown := sorted(_functions(compiled.parsed) - set(_options().custom_functions.FUNCTION_TABLE)):
        raise SelectorInvalid(f"JMESPath has no function `{unknown[0]}`.")
    return Selector(text, compiled, tuple(text.split(".")) if _FIELDS.fullmatch(text) else ())


def _functions(node: Any) -> set[str]:  # noqa: ANN401 - a node of jmespath
    own = {node["value"]} if node["type"] == "function_expression" else set()
    return own.union(*(_functions(child) for child in node["children"] if isinstance(child, dict)))


@cache
def _options() -> Any:  # noqa: ANN401 - of a package that is imported late
    import jmespath  # noqa: PLC0415 - see above
    from jmespath import functions  # noqa: PLC0415

    class Own(functions.Functions):
        """The functions of JMESPath, and ours."""

        @functions.signature({"types": ["string", "null"]})
        def _func_from_json(self, text: str | None) -> Any:  # noqa: ANN401
            return json.loads(text) if text and len(text) <= _LONGEST_JSON else None

        @functions.signature({"types": ["string", "null"]}, {"types": ["string"]})
        def _func_split(self, text: str | None, separator: str) -> list[str]:
            return text.split(separator) if text else []

    return jmespath.Options(custom_functions=Own())
