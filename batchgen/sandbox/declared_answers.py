"""Answers of a declared API, made from the documented examples of its definition.

An example says which task, state and images are read out of an answer. The answer to a task of ours is that answer with
ours in their places, and it is sent only where the definition's own selectors read from it what is meant.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from batchgen.apis.examples import read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchgen.apis.definition import Definition, Step

_WORD = re.compile(r"[\w-]+(?=[^\w-]*$)")  # the last one
_LATEST_SECONDS = 10**11  # a larger number is a time in ms
_TEXT = "\0json"  # stands for a text that holds JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """How an API names a task: an id or an address, of which the last word is the task's own."""

    prefix: str
    word: str
    suffix: str

    @classmethod
    def of(cls, text: str) -> Name | None:
        """The parts of an example's name; None for one without a word."""
        found = _WORD.search(text)
        return found and cls(prefix=text[: found.start()], word=found[0], suffix=text[found.end() :])

    def with_word(self, word: str) -> str:
        return f"{self.prefix}{word}{self.suffix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What has to be read out of an answer; what is empty or None does not matter."""

    task: str = ""
    word: str = ""  # the task's own part of its name
    mark: str = ""
    state: str = ""
    created_ms: int = 0
    message: str = ""
    images: Sequence[Any] | None = None
    is_missing: bool = False
    items: Sequence[Wanted] = ()  # of a step that reads a list
    cursor: str | None = None  # where a list goes on; None: at its end, empty: this does not matter


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A documented answer to a step."""

    step: str
    status: int
    answer: Any


class Answers:
    """Makes answers. `raw` is the definition as it is written."""

    def __init__(self, definition: Definition, raw: Mapping[str, Any]) -> None:
        self._definition = definition
        self.examples = [
            Example(step=str(each["step"]), status=status, answer=each.get("answer"))
            for each in raw.get("examples") or ()
            if isinstance(status := each.get("status", 200), int)
        ]
        states = raw.get("query", {}).get("states", {})
        self._words = {
            state: str(words[0] if isinstance(words, list) else words) for state, words in states.items() if words
        }
        create = definition.steps["create"]
        named = [create.selectors["task"].word(each.answer) for each in self._of(create)] if self.has_tasks else []
        self.name = next(filter(None, map(Name.of, named)), None)
        self._known = {name.word for each in self._named() if (name := Name.of(each))}

    @property
    def has_tasks(self) -> bool:
        """Whether a create is answered with a task, not with images."""
        return "task" in self._definition.steps["create"].selectors

    @property
    def takes_mark(self) -> bool:
        """Whether a task is named by the mark that its create has: some step reads both at the same place."""
        steps = [each for step in self._definition.steps.values() for each in (step, step.alternative) if each]
        texts = [[step.selectors[name].text for name in ("task", "mark") if name in step.selectors] for step in steps]
        return any(len(found) == 2 and found[0] == found[1] for found in texts)

    def has_word(self, state: str) -> bool:
        """Whether the API has a word of its own for a state."""
        return state in self._words

    def make(self, steps: Sequence[Step], wanted: Wanted) -> tuple[int, Any] | None:
        """Status and answer from which all of these steps read what is wanted, or the first that can; None without.

        An example of the state itself comes before one in which the word for it is changed.
        """
        examples = self._of(*steps)
        of_state = [
            each
            for each in examples
            if any(step.name == each.step and step.state(each.answer)[0] == wanted.state for step in steps)
        ]
        for found in (of_state, examples):
            for readers in (steps, *([step] for step in steps)):
                for example in found:
                    body = self._made(example, steps, wanted)
                    if all(self._is_read(step, example.status, body, wanted) for step in readers):
                        return example.status, body
        return None

    def error(self, step: Step, means: str) -> tuple[int, Any] | None:
        """Status and answer that mean this after a step: an example, or a row that asks for nothing but a status."""
        for each in self.examples:
            if each.status >= 300 and self._definition.means(step, each.status, each.answer) == means:
                return each.status, each.answer
        for each in self._of(step):
            found = read(self._definition, step, each.status, each.answer)
            if found["means"] == means or (means == "rejected" and found.get("blocked") and not found.get("images")):
                return each.status, each.answer
        for row in self._definition.rows:
            if row.when is None and row.means == means and row.statuses and (not row.steps or step.name in row.steps):
                return min(row.statuses), {"error": {"message": f"the API means: {means}"}}
        return None

    def callback(self, wanted: Wanted) -> Any:  # noqa: ANN401 - any value of JSON
        """The body of a call at a task's end, from which the definition reads that task; None where there is none.

        A task that failed is told of as a query tells it: the examples are of those that are done.
        """
        made = self.make([self._definition.steps["query"]], wanted)
        changes = self._changes_of_task(wanted)
        own = [closed(replaced(opened(each.answer), changes)) for each in self.examples if each.step == "callback"]
        bodies = [*([made[1]] if made else ()), *own]
        return next(
            filter(partial(self._names_task, wanted.word), bodies if wanted.state != "done" else bodies[::-1]), None
        )

    def _names_task(self, word: str, body: Any) -> bool:  # noqa: ANN401 - any value of JSON
        selector = self._definition.callback_task
        name = Name.of(selector.word(body)) if selector is not None else None
        return name is not None and name.word == word

    def linked(self, file: str) -> dict[str, Any]:
        """What a link to an image is made of: that of an example, with this file as the first of its names."""
        for step in self._definition.steps.values():
            for each in self._of(step):
                images = read(self._definition, step, each.status, each.answer).get("images")
                link = step.images.link if step.images is not None else None
                if link is not None and images and isinstance(images[0], dict):
                    name = next(iter(re.findall(r"\{\{\s*(\w+)", link.source)), "")
                    return {**images[0], name: file}
        return {}

    def cursor_of(self, step: Step) -> str:
        """The name of the value by which a list goes on; empty where no example shows one."""
        for each in self._of(step):
            if step.next_query is not None and step.next_query[1].word(each.answer):
                return step.next_query[0]
            if step.next_url is not None and (query := parse_qsl(urlsplit(step.next_url.word(each.answer)).query)):
                return query[-1][0]
        return ""

    # --- parts --------------------------------------------------------------------------------------------

    def _of(self, *steps: Step) -> list[Example]:
        return [
            each for name in dict.fromkeys(step.name for step in steps) for each in self.examples if each.step == name
        ]

    def _named(self) -> Iterator[str]:
        """Each task that an example names."""
        for step in self._definition.steps.values():
            for each in self._of(step):
                found = read(self._definition, step, each.status, each.answer)
                yield from filter(None, (found.get("task"),))

    def _changes_of_task(self, wanted: Wanted) -> dict[str, Any]:
        return dict.fromkeys(self._known, wanted.word) if wanted.word else {}

    def _made(self, example: Example, steps: Sequence[Step], wanted: Wanted) -> Any:  # noqa: ANN401
        body = example.answer
        changes, names, images = self._changes_of_task(wanted), dict[str, Any](), list[Any]()
        for step in steps:
            if "items" in step.selectors:
                body = self._with_items(step, body, wanted)
            else:
                changes |= self._changes(step, body, wanted)
                names |= self._names(step, body, wanted)
                images += read(self._definition, step, example.status, body).get("images", [])
            if wanted.cursor != "":
                changes |= _next_changes(step, example.answer, wanted.cursor)
        body = replaced(opened(body), {**changes, **names}, keys={**self._changes_of_task(wanted), **names})
        if images and wanted.images is not None:
            body = with_images(body, [replaced(image, {**changes, **names}) for image in images], wanted.images)
        return closed(body)

    def _with_items(self, step: Step, body: Any, wanted: Wanted) -> Any:  # noqa: ANN401
        items = step.selectors["items"].of(body)
        if not isinstance(items, list) or not items:
            return body
        made = []
        for each in wanted.items:
            names = self._names(step, items[0], each)
            changes = self._changes_of_task(each) | self._changes(step, items[0], each) | names
            made.append(closed(replaced(opened(items[0]), changes, keys=names)))
        return _with_list(body, items[0], made)

    def _names(self, step: Step, body: Any, wanted: Wanted) -> dict[str, Any]:  # noqa: ANN401
        """The task and the mark that a step reads here, and ours."""
        found = {
            step.selectors[name].word(body): new
            for name, new in (("task", wanted.task), ("mark", wanted.mark))
            if name in step.selectors and new
        }
        return {old: new for old, new in found.items() if old}

    def _changes(self, step: Step, body: Any, wanted: Wanted) -> dict[str, Any]:  # noqa: ANN401
        """What else a step reads here, and ours."""
        changes: dict[str, Any] = {}
        state, word = step.state(body)
        if wanted.state and word and state != wanted.state and wanted.state in self._words:
            changes[word] = self._words[wanted.state]
        if wanted.message and "message" in step.selectors:
            changes[str(step.selectors["message"].of(body))] = wanted.message
        if wanted.created_ms and "created" in step.selectors:
            old = step.selectors["created"].of(body)
            changes[str(old)] = _time_like(old, wanted.created_ms)
        return changes

    def _is_read(self, step: Step, status: int, body: Any, wanted: Wanted) -> bool:  # noqa: ANN401
        """Whether a step reads what is wanted."""
        found = read(self._definition, step, status, body)
        if wanted.is_missing:
            return (
                found["means"] == "missing"
                or bool(found.get("missing"))
                or found.get("state") == "missing"
                or ("items" in step.selectors and found.get("items") == 0)
            )
        if found["means"] or not 200 <= status < 300 or (step.fine is not None and not step.fine.holds(body)):
            return False
        if "items" in step.selectors:
            wanted, number = (wanted.items or (Wanted(),))[0], len(wanted.items)
            if found.get("items") != number:
                return False
        expected = {"task": wanted.task, "mark": wanted.mark, "state": wanted.state}
        return (
            all(not value or name not in step.selectors or found.get(name) == value for name, value in expected.items())
            and not found.get("missing")
            and (wanted.images is None or step.images is None or found.get("images") == list(wanted.images))
        )


def _time_like(example: object, milliseconds: int) -> Any:  # noqa: ANN401 - a text or a number
    """A time in the form of the example's: ISO 8601, or a number of seconds or milliseconds."""
    if isinstance(example, str):
        return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat().replace("+00:00", "Z")
    in_seconds = isinstance(example, int | float) and example < _LATEST_SECONDS
    return milliseconds // 1000 if in_seconds else milliseconds


def _next_changes(step: Step, answer: Any, cursor: str | None) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    """What a list says of where it goes on, and what it is to say."""
    if step.next_query is not None:
        return {str(step.next_query[1].of(answer)): cursor}
    if step.next_url is not None and (name := Name.of(old := step.next_url.word(answer))):
        return {old: name.with_word(cursor) if cursor is not None else None}
    return {}


# --- trees of JSON ------------------------------------------------------------------------------------------


def opened(node: Any) -> Any:  # noqa: ANN401 - any value of JSON
    """The same with what texts of JSON hold, in their places."""
    if isinstance(node, dict):
        return {name: opened(child) for name, child in node.items()}
    if isinstance(node, list):
        return [opened(child) for child in node]
    if isinstance(node, str) and node.startswith(("{", "[")):
        try:
            return {_TEXT: opened(json.loads(node))}
        except ValueError:
            return node
    return node


def closed(node: Any) -> Any:  # noqa: ANN401 - any value of JSON
    """What was opened, as it was written."""
    if isinstance(node, dict):
        if _TEXT in node:
            return json.dumps(closed(node[_TEXT]))
        return {name: closed(child) for name, child in node.items()}
    return [closed(child) for child in node] if isinstance(node, list) else node


def replaced(node: Any, changes: Mapping[str, Any], *, keys: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
    """The same with other values, by what they are as texts; and with other keys."""
    if isinstance(node, dict):
        names = keys or {}
        return {names.get(name, name): replaced(child, changes, keys=keys) for name, child in node.items()}
    if isinstance(node, list):
        return [replaced(child, changes, keys=keys) for child in node]
    if isinstance(node, bool) or node is None or str(node) not in changes:
        return node
    new = changes[str(node)]
    return int(new) if isinstance(node, int) and isinstance(new, str) and new.isdecimal() else new


def with_images(node: Any, old: Sequence[Any], new: Sequence[Any]) -> Any:  # noqa: ANN401
    """The same with new images; the innermost list that holds the old ones has one entry for each of the new."""
    if node in old:
        return new[0]
    if isinstance(node, dict):
        return {name: with_images(child, old, new) for name, child in node.items()}
    if not isinstance(node, list):
        return node
    holding = [child for child in node if _holds(child, old)]
    if not holding or _holds(holding[0], old, within_list=True):
        return [with_images(child, old, new) for child in node]
    others = [child for child in node if child not in holding]
    return [*others, *(with_images(holding[0], old, [image]) for image in new)]


def _holds(node: Any, values: Sequence[Any], *, within_list: bool = False) -> bool:  # noqa: ANN401
    """Whether one of the values is here, or in a list here."""
    if node in values:
        return not within_list
    if isinstance(node, list):
        return any(_holds(child, values) for child in node)
    return isinstance(node, dict) and any(_holds(child, values, within_list=within_list) for child in node.values())


def _with_list(node: Any, item: Any, items: Sequence[Any]) -> Any:  # noqa: ANN401
    """The same with other items in the list that holds this one."""
    if isinstance(node, dict):
        return {name: _with_list(child, item, items) for name, child in node.items()}
    if isinstance(node, list):
        return list(items) if item in node else [_with_list(child, item, items) for child in node]
    return node
