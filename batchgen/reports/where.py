"""`--where KEY=VALUE`: which images of an output a command is about."""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from batchgen.errors import CommandError
from batchgen.jobs import PARAMETER_NAMES
from batchgen.manifest import wildcards
from batchgen.manifest.diagnostics import nearest
from batchgen.reports.columns import cell_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchgen.ledger.records import IndexRow

_OF_ROW: dict[str, Callable[[IndexRow], str]] = {
    "mark": operator.attrgetter("mark"),
    "note": operator.attrgetter("note"),
    "prompt": operator.attrgetter("job.prompt"),
    "prompt_id": operator.attrgetter("job.prompt_id"),
    "job_id": operator.attrgetter("job.id"),
    "provider": operator.attrgetter("account"),
    "file_name": operator.attrgetter("path"),
    "sha256": operator.attrgetter("sha256"),
}
_KEYS = (*_OF_ROW, *PARAMETER_NAMES)
_CONDITION = re.compile(r"(?P<key>[^=<>!]+?)(?P<sign><=|>=|!=|=|<|>)(?P<value>.*)", re.DOTALL)
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class _Condition(NamedTuple):
    key: str
    sign: str
    value: str

    def holds(self, row: IndexRow) -> bool:
        value = value_of(row, self.key)
        if self.sign in _COMPARISONS:
            return isinstance(value, int | float) and _COMPARISONS[self.sign](value, float(self.value))
        return wildcards.matches(self.value, "" if value is None else str(value)) is (self.sign == "=")


class Where:
    """What `--where` selects: an image for which, under every key given, one of the conditions holds.

    Conditions are `KEY=VALUE` and `KEY!=VALUE` (wildcards `*` and `?`), and `KEY<NUMBER`, `<=`, `>`, `>=`. Keys are
    `mark`, `note`, `label.NAME`, `parameter.NAME`, `score.CHECK.NAME` and those of the index. All conditions with
    another sign than `=` must hold.
    """

    def __init__(self, conditions: Sequence[_Condition]) -> None:
        self._must = [condition for condition in conditions if condition.sign != "="]
        self._any: dict[str, list[_Condition]] = {}
        for condition in conditions:
            if condition.sign == "=":
                self._any.setdefault(condition.key, []).append(condition)

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Where:
        """Read `--where` options. Raises CommandError for what is no condition, or a key that no image has."""
        return cls([_condition(text) for text in texts])

    def takes(self, row: IndexRow) -> bool:
        """Whether the image is selected."""
        return all(each.holds(row) for each in self._must) and all(
            any(each.holds(row) for each in conditions) for conditions in self._any.values()
        )


def value_of(row: IndexRow, key: str) -> str | float | None:
    """What a row has under a key of `--where`; None where it has nothing there."""
    kind, _, name = key.partition(".")
    if kind == "label" and name:
        return row.job.labels.get(name)
    if kind == "score" and name:
        return row.scores.get(name)
    if kind == "parameter" and name:
        given = dict(row.job.parameters.further).get(name)
        return None if given is None else cell_of(given)
    if key in _OF_ROW:
        return str(_OF_ROW[key](row))
    value = getattr(row.job.parameters, key)
    return value if isinstance(value, int | float | None) else str(value)


def _condition(text: str) -> _Condition:
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise CommandError(f"--where {text}: write KEY=VALUE, such as mark=keep or label.Category=Animals.")
    condition = _Condition(found["key"].strip(), found["sign"], found["value"])
    if condition.key not in _KEYS and not re.match(r"(label|parameter|score)\..", condition.key):
        near = nearest(condition.key, _KEYS)
        meant = f" Did you mean {near}?" if near else ""
        raise CommandError(
            f"--where {text}: there is no {condition.key}.{meant} Keys are {', '.join(_KEYS)}, label.NAME,"
            " parameter.NAME, score.NAME."
        )
    if condition.key == "mark" and condition.sign in {"=", "!="} and "*" not in condition.value:
        _check_mark(text, condition.value)
    if condition.sign in _COMPARISONS:
        try:
            float(condition.value)
        except ValueError:
            raise CommandError(f"--where {text}: {condition.value!r} is not a number.") from None
    return condition


def _check_mark(text: str, value: str) -> None:
    if value not in {"", "keep", "reject", "star"}:
        raise CommandError(f"--where {text}: a mark is keep, reject, star or empty.")
