"""YAML with source locations: text → plain values, and for each of them its line, its column and its text as written.

Built on libyaml's events: its loaders take duplicate keys silently, read `16:9` as 969, `no` as false and a date
as an object, and crash on deep nesting; `yaml.compose` needs twice the memory and twice the time (0.44 s and 426 MB
for 100,000 prompts against 0.25 s and 226 MB). Scalars follow the core schema of YAML 1.2. Errors that do not end the
parsing (a duplicate key, a tag, a merge key) are collected, so that one pass reports all of them.
"""

from __future__ import annotations

import math
import re
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from batchgen.errors import Diagnostic, ManifestInvalid, SourceLocation
from batchgen.source.encoding import (
    CONTROL,
    LINE_END,
    character_fault,
    decode,
    load_bytes,
    problem_at,
    refuse_raw,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_DEPTH = 64
MAX_PROBLEMS = 100  # each searches the keys of its mapping; nobody corrects more in one go
MAX_ALIASED_NODES = 100_000  # that aliases may add, counted expanded: a bomb is small only as written

Value: TypeAlias = Any  # what YAML can hold: str, int, float, bool, None, and lists and dicts of these

_WORDS: dict[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_INTEGER = re.compile(r"[-+]?[0-9]+\Z").match
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+\Z|0x[0-9a-fA-F]+\Z").match
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z").match
_NUMBER_START = frozenset("0123456789+-.")
_NUMBER_LENGTH = 64  # longer ones stay text: no setting needs them, and int() of a long text is slow
_COLUMN_BITS = 28  # of a position, which is line and column in one number; a file has at most 64 MB
_COMMENT = re.compile(r"\S[ \t]+#")
_QUOTED = re.compile(r"""(?:^|(?<=[\s,\[{]))((["'])(?:(?!\2).)*\2\s*)$""")  # a quoted text before the end
_TAGS_ALLOWED = frozenset({None, "!", *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq"))})

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True, kw_only=True)
class Document:
    """A document's value and where each part of it stands; 8 bytes for each key, value and list item."""

    file: str
    text: str
    value: Value = None
    position: int = 0  # of the value as a whole, packed
    # The positions of a container's parts: of a list's items; of a mapping's keys and values by turns. A container is
    # known by its identity, so that an alias leads to the positions at its anchor.
    positions: dict[int, array[int]] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)  # by position, of scalars that are not strings
    _commented: list[str] | None = None  # its lines, where any has a comment after something else; empty: none has

    def place(self, path: Sequence[str | int], *, key: bool = False) -> SourceLocation:
        """Where the value at `path` stands (with `key`, its key), or else its nearest ancestor that exists."""
        position, position_of_key = self._find(path)
        if key and position_of_key is not None:
            position = position_of_key
        return self.location(position)

    def written(self, path: Sequence[str | int]) -> str | None:
        """A scalar's text as written (`1.50`, `null`), or None for what is not a scalar."""
        value = self.value
        for step in path:
            value = value[step]
        if isinstance(value, str):
            return value
        position, _ = self._find(path)
        return self.texts.get(position)

    def comment_after(self, path: Sequence[str | int]) -> str:
        """The comment that cuts a plain scalar short in its line, or stands in its place; empty where there is none."""
        if self._commented is None:
            self._commented = LINE_END.split(self.text) if _COMMENT.search(self.text) else []
        if not self._commented:
            return ""
        place, text = self.place(path), self.written(path) or ""
        rest = self._commented[place.line - 1][place.column - 1 :]
        found = re.match(r"[ \t]+(#.*)" if text else r"[ \t]*(#.*)", rest.removeprefix(text))
        return found[1].rstrip() if found and rest.startswith(text) else ""

    def line(self, number: int) -> str:
        """A line of the source, from 1; empty where there is none."""
        lines = LINE_END.split(self.text)
        return lines[number - 1] if 0 < number <= len(lines) else ""

    def location(self, position: int) -> SourceLocation:
        """A packed position as line and column."""
        line, column = position >> _COLUMN_BITS, position & ((1 << _COLUMN_BITS) - 1)
        return SourceLocation(file=self.file, line=line + 1, column=column + 1)

    def _find(self, path: Sequence[str | int]) -> tuple[int, int | None]:
        """The positions of a value and of its key, as far down as the path leads."""
        value, position, position_of_key = self.value, self.position, None
        for step in path:
            if isinstance(value, dict) and isinstance(step, str) and step in value:
                at = 2 * list(value).index(step)
                position_of_key, position = self.positions[id(value)][at : at + 2]
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                position_of_key, position = None, self.positions[id(value)][step]
            else:
                break
            value = value[step]
        return position, position_of_key


def read(path: Path | str, file: str | None = None) -> Document:
    """Read a YAML file; `file` is its name in messages.

    Raises ManifestInvalid for its content, CommandError when it cannot be read.
    """
    name = str(path) if file is None else file
    return parse(decode(load_bytes(path, name), name), name)


def parse(text: str, file: str) -> Document:
    """A document from its text. Raises ManifestInvalid with every error of the YAML."""
    document, problems = collect(text, file)
    if problems:
        raise ManifestInvalid(problems)
    return document


def collect(text: str, file: str) -> tuple[Document, list[Diagnostic]]:
    """As `parse`, but returns the errors that leave a usable document (duplicate keys, tags, merge keys)."""
    text = text.removeprefix("\ufeff")
    refuse_raw(text, file)
    builder = _Builder(Document(file=file, text=text))
    builder.run()
    return builder.document, builder.problems


def scalar(text: str) -> Value:
    """The value of a plain scalar by the core schema of YAML 1.2; `.inf`, `.nan` and 1e999 stay text."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in _NUMBER_START and len(text) <= _NUMBER_LENGTH:
        return _number(text)
    return text


def _number(text: str) -> int | float | str:
    if _INTEGER(text):
        return int(text)
    if _FLOAT(text):
        number = float(text)
        return number if math.isfinite(number) else text
    return int(text, 0) if _OCTAL_OR_HEX(text) else text


@dataclass(frozen=True, slots=True)
class _Anchor:
    """What an alias stands for."""

    value: Value
    text: str | None  # as written; None for a container
    nodes: int


class _Builder:
    """Turns events into a Document. One use."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Diagnostic] = []
        self._loader = _Loader(document.text)
        self._next_event = self._loader.get_event
        self._anchors: dict[str, _Anchor] = {}
        self._open: list[str | None] = []  # containers that are not complete, by their anchors
        self._nodes = 0
        self._aliased = 0

    def run(self) -> None:
        """Build it. Raises ManifestInvalid where the parsing cannot go on."""
        try:
            self._documents()
        except yaml.MarkedYAMLError as error:
            raise ManifestInvalid([*self.problems, self._syntax(error)]) from None
        finally:
            self._loader.dispose()

    def _documents(self) -> None:
        documents = 0
        while (event := self._next_event()) is not None:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._fatal(event, "A second document begins here.", "Keep one document a file.")
            elif isinstance(event, NodeEvent):
                self.document.position = position = _position(event)
                self.document.value = self._value(event, position)
        if not documents:
            self._fatal(None, "The file holds nothing but comments or blanks.")

    def _value(self, event: Any, position: int) -> Value:  # noqa: ANN401 - an event of one of four kinds
        """The value of the node that begins with this event."""
        kind = type(event)
        if kind is AliasEvent:
            anchor = self._aliased_anchor(event)
            if anchor.text is not None and anchor.value.__class__ is not str:
                self.document.texts[position] = anchor.text
            return anchor.value
        self._nodes += 1
        if kind is not ScalarEvent:
            return self._container(event)
        text = value = event.value
        if event.tag is not None or event.style == '"':
            self._check_unusual(event)
        elif event.implicit[0]:
            value = scalar(text)
            if value.__class__ is not str:
                self.document.texts[position] = text
        if event.anchor:
            self._anchors[event.anchor] = _Anchor(value, text, 1)
        return value

    def _container(self, event: MappingStartEvent | SequenceStartEvent) -> Value:
        if len(self._open) >= MAX_DEPTH:
            self._fatal(event, f"The file is nested deeper than {MAX_DEPTH} levels.")
        self._check_tag(event)
        before = self._nodes
        self._open.append(event.anchor)
        value: Value = {} if isinstance(event, MappingStartEvent) else []
        positions = self._mapping(value) if isinstance(value, dict) else self._sequence(value)
        self.document.positions[id(value)] = array("Q", positions)
        self._open.pop()
        if event.anchor:
            self._anchors[event.anchor] = _Anchor(value, None, self._nodes - before + 1)
        return value

    def _sequence(self, items: list[Value]) -> list[int]:
        positions = []
        while type(event := self._next_event()) is not SequenceEndEvent:
            positions.append(position := _position(event))
            items.append(self._value(event, position))
        return positions

    def _mapping(self, pairs: dict[str, Value]) -> list[int]:
        positions: list[int] = []
        while type(event := self._next_event()) is not MappingEndEvent:
            key = self._key(event, position_of_key := _position(event))
            is_new = self._check_key(key, event, pairs, positions)
            value_event = self._next_event()
            value = self._value(value_event, position := _position(value_event))
            if is_new:
                pairs[key] = value
                positions += (position_of_key, position)
        return positions

    def _key(self, event: Any, position: int) -> str:  # noqa: ANN401 - an event of one of four kinds
        value = self._value(event, position)
        if isinstance(value, dict | list):
            hint = "Quote a text that begins with { or [, as {{ does."
            self._fatal(event, "A key must be a word, not a list or a mapping.", hint)
        return value if isinstance(value, str) else self.document.texts[position]

    def _check_key(self, key: str, event: Event, pairs: dict[str, Value], positions: list[int]) -> bool:
        """Whether the pair can be taken; if not, that is among the problems."""
        if key == "<<" and not getattr(event, "style", "'"):
            hint = "Write the keys out, or put what is shared into `defaults`."
            self._note(event, "Merge keys (`<<`) are not part of YAML 1.2.", hint)
            return False
        if key not in pairs:
            return True
        first = self.document.location(positions[2 * list(pairs).index(key)])
        self._note(event, f"The key `{key[:60]}` is given twice.", "Keep one of the two.", first)
        if len(self.problems) >= MAX_PROBLEMS:
            self._fatal(event, f"There are {MAX_PROBLEMS} errors before this.", "Fix these, then check again.")
        return False

    def _aliased_anchor(self, event: AliasEvent) -> _Anchor:
        name = str(event.anchor)
        anchor = self._anchors.get(name)
        if anchor is None:
            what = "stands inside what it names" if name in self._open else "names nothing before it"
            self._fatal(event, f"The alias *{name} {what}.", f"Put &{name} at a value before it.")
        self._aliased += anchor.nodes
        if self._aliased > MAX_ALIASED_NODES:
            self._fatal(event, f"The aliases of the file stand for more than {MAX_ALIASED_NODES:,} values.")
        self._nodes += anchor.nodes
        return anchor

    def _check_unusual(self, event: ScalarEvent) -> None:
        """Tags, and characters that came from escapes."""
        self._check_tag(event)
        if bad := CONTROL.search(event.value):
            self._note(event, *character_fault(bad.group()))

    def _check_tag(self, event: ScalarEvent | MappingStartEvent | SequenceStartEvent) -> None:
        if event.tag not in _TAGS_ALLOWED:
            name = str(event.tag).replace("tag:yaml.org,2002:", "!!")
            self._note(event, f"The tag {name} is not allowed.", "Write the value without a tag.")

    def _note(self, event: Event, message: str, hint: str = "", *also: SourceLocation) -> None:
        place = self.document.location(_position(event))
        self.problems.append(problem_at(place, message, hint, *also))

    def _fatal(self, event: Event | None, message: str, hint: str = "") -> NoReturn:
        file = SourceLocation(file=self.document.file)
        place = file if event is None else self.document.location(_position(event))
        raise ManifestInvalid([*self.problems, problem_at(place, message, hint)])

    def _syntax(self, error: yaml.MarkedYAMLError) -> Diagnostic:
        mark = error.problem_mark or error.context_mark
        place = SourceLocation(file=self.document.file)
        if mark is not None:
            place = SourceLocation(file=self.document.file, line=mark.line + 1, column=mark.column + 1)
        line = self.document.line(place.line)
        if (quoted := _QUOTED.search(line[: max(0, place.column - 1)])) and line[place.column - 1 :][:1].isalnum():
            after = re.split(r"\s+#|[,\]}]" if "flow" in str(error.context) else r"\s+#", line[place.column - 1 :])[0]
            other = "'" if quoted[2] == '"' else '"'
            message = f"A quoted text ends at its second quote, but more follows: {after[:60]}."
            return problem_at(place, message, f"Quote all of it: {other}{quoted[1]}{after.rstrip()}{other}.")
        context = f"{error.context}: " if error.context else ""
        message = f"This is not YAML: {context}{error.problem}."
        return problem_at(place, message, _syntax_hint(str(error.problem), line))


def _position(event: Any) -> int:  # noqa: ANN401 - the marks of libyaml's events have no type
    mark = event.start_mark
    position: int = mark.line << _COLUMN_BITS | mark.column
    return position


def _syntax_hint(problem: str, line: str) -> str:
    """What is most often meant where libyaml gives up."""
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in problem or "tab" in problem:
        return "Indent with spaces, not tabs."
    if "mapping values are not allowed" in problem:
        return 'Quote a text that holds ": ", or check the indentation.'
    if "{{" in line or "{%" in line:
        return "Quote a text that holds {{ }}, or write it on a line of its own after a dash."
    return "Check the indentation, brackets and quotes here and on the line before."
