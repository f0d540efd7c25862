"""One line of a .jsonl file, its numbers kept as they are written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchgen.source.document import Value


class Number(str):
    """A number, true or false of a JSON file, as it is written: good for a cell, but no text."""

    __slots__ = ()


def parse(line: str) -> Value:
    """What a line holds. Raises ValueError, RecursionError."""
    return json.loads(line, object_pairs_hook=_object, parse_int=Number, parse_float=Number, parse_constant=Number)


def _object(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    """A JSON object whose keys differ. Raises ValueError."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is given twice")
    return value
