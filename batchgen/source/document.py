"""YAML with its places: text → plain values, and for each value the line, the column and the text as written.

Built on libyaml's events rather than on its loaders: those take duplicate keys silently, read `16:9` as
969, `no` as false and a date as an object, and die of deep nesting. Scalars follow the core schema of
YAML 1.2. Whatever is refused is refused with its place; what a reader can survive (a key given twice, a
tag, a merge key) is collected, so that one pass tells of all of it.
"""

from __future__ import annotations

import gc
import math
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from batchgen.errors import Diagnostic, ManifestInvalid, SourceLocation
from batchgen.source.encoding import (
    ESCAPED_REFUSED,
    character_fault,
    decode,
    load_bytes,
    problem_at,
    refuse_raw,
)
from batchgen.source.source_map import COLUMN_BITS, Document, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["Document", "Value", "collect", "parse", "read", "scalar"]

MAX_DEPTH = 64
MAX_NODES = 5_000_000
MAX_PROBLEMS = 100  # each looks through what is there: more than a person mends in one go
MAX_ALIASED_NODES = 100_000  # what aliases may add, counted expanded: a bomb is small only as written


_WORDS: dict[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_INTEGER = re.compile(r"[-+]?[0-9]+\Z").match
_OCTAL = re.compile(r"0o[0-7]+\Z").match
_HEX = re.compile(r"0x[0-9a-fA-F]+\Z").match
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z").match
_NUMBER_START = frozenset("0123456789+-.")
_NUMBER_LENGTH = 64  # longer ones stay text: no setting needs them, and int() of a long text is slow

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read(path: Path | str, file: str | None = None) -> Document:
    """Read a YAML file; `file` is how messages name it.

    Raises ManifestInvalid for what is in it, CommandError when it cannot be read.
    """
    name = str(path) if file is None else file
    return parse(decode(load_bytes(path, name), name), name)


def parse(text: str, file: str) -> Document:
    """A document from its text. Raises ManifestInvalid with every fault of the YAML."""
    document, problems = collect(text, file)
    if problems:
        raise ManifestInvalid(problems)
    return document


def collect(text: str, file: str) -> tuple[Document, list[Diagnostic]]:
    """As `parse`, but hands back what can be survived (duplicate keys, tags, merge keys) as problems."""
    text = text.removeprefix("\ufeff")
    refuse_raw(text, file)
    builder = _Builder(Document(file=file, text=text))
    with _no_collector():
        builder.run()
    return builder.document, builder.problems


@contextmanager
def _no_collector() -> Iterator[None]:
    """Without the cyclic collector: nothing here is cyclic, and it would walk all of it again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


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
    if _OCTAL(text) or _HEX(text):
        return int(text, 0)
    return text


_NO_KEY: Any = object()


@dataclass(slots=True)
class _Open:
    """A container that is being filled."""

    value: Value
    entry: int
    is_mapping: bool
    anchor: str | None
    total: int  # nodes counted when it began
    key: object = _NO_KEY  # of a mapping: the key that waits for its value; of a list never _NO_KEY
    drop_from: int = -1  # the tape's length before a pair that is to be left out


class _Builder:
    """Turns events into a Document. One use."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._tape = document.tape
        self.problems: list[Diagnostic] = []
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int, int]] = {}  # value, entry, nodes
        self._total = 0
        self._aliased = 0
        self._rooted = False

    def run(self) -> None:
        loader = _Loader(self.document.text)
        try:
            self._loop(loader.get_event)
        except yaml.MarkedYAMLError as error:
            raise ManifestInvalid([*self.problems, self._syntax(error)]) from None
        except yaml.YAMLError as error:
            problem = problem_at(SourceLocation(file=self.document.file), f"The file is not YAML: {error}.")
            raise ManifestInvalid([*self.problems, problem]) from None
        finally:
            loader.dispose()
        if not self._rooted:
            self._fatal(None, "The file holds nothing but comments or blanks.")

    def _loop(self, get_event: Callable[[], Any]) -> None:
        documents = 0
        while (event := get_event()) is not None:
            kind = type(event)
            if kind is ScalarEvent:
                self._scalar(event)
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                self._open(event, is_mapping=kind is MappingStartEvent)
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                self._close()
            elif kind is AliasEvent:
                self._alias(event)
            elif kind is DocumentStartEvent:
                documents += 1
                if documents > 1:
                    self._fatal(event, "A second document begins here.", "Keep one document a file.")

    def _scalar(self, event: ScalarEvent) -> None:
        text = value = event.value
        mark: Any = event.start_mark
        entry = self._tape.add(mark.line << COLUMN_BITS | mark.column)
        self._count(event, 1)
        top = self._stack[-1] if self._stack else None
        is_key = top is not None and top.key is _NO_KEY
        if event.tag is not None or event.style == '"':
            self._examine(event)
        elif event.implicit[0] and not is_key:
            value = scalar(text)
            if value.__class__ is not str:
                self._tape.written[entry] = text
        if event.anchor:
            self._anchors[event.anchor] = (value, entry, 1)
        if is_key and top is not None:
            self._take_key(top, event, text, entry)
        else:
            self._put(value)

    def _count(self, event: Event, nodes: int) -> None:
        self._total += nodes
        if self._total > MAX_NODES:
            self._fatal(event, f"The file holds more than {MAX_NODES:,} values.")

    def _examine(self, event: ScalarEvent) -> None:
        """What is rare: tags, and characters that came of escapes."""
        if event.tag not in {None, "!", "tag:yaml.org,2002:str"}:
            self._tag(event)
        if bad := ESCAPED_REFUSED.search(event.value):
            self._note(event, *character_fault(bad.group()))

    def _tag(self, event: ScalarEvent | MappingStartEvent | SequenceStartEvent) -> None:
        name = str(event.tag).replace("tag:yaml.org,2002:", "!!")
        self._note(event, f"The tag {name} is not allowed.", "Write the value without a tag.")

    def _take_key(self, top: _Open, event: Event, key: str, entry: int) -> None:
        top.key = key
        if key == "<<" and not getattr(event, "style", "'"):
            self._note(
                event,
                "Merge keys (`<<`) are not part of YAML 1.2.",
                "Write the keys out, or put what is shared into `defaults`.",
            )
            top.drop_from = entry
        elif key in top.value:
            self._doubled(top, event, key)
            top.drop_from = entry
        else:
            top.value[key] = None

    def _doubled(self, top: _Open, event: Event, key: str) -> None:
        keys = list(self._tape.children(top.entry, open_end=True))[::2]
        first = self._tape.marks[keys[list(top.value).index(key)]]
        problem = Diagnostic(
            place=self._place(event),
            path="",
            message=f"The key `{key[:60]}` is given twice.",
            hint="Keep one of the two.",
            also=(self.document.place_of(first),),
        )
        self.problems.append(problem)
        if len(self.problems) >= MAX_PROBLEMS:
            self._fatal(event, f"There are {MAX_PROBLEMS} faults before this.", "Mend these, then check again.")

    def _put(self, value: Value) -> None:
        """A finished scalar, alias or container goes into what holds it."""
        if not self._stack:
            self.document.value = value
            self._rooted = True
            return
        top = self._stack[-1]
        if not top.is_mapping:
            top.value.append(value)
            return
        if top.drop_from >= 0:
            self._drop(top)
        else:
            top.value[top.key] = value
        top.key = _NO_KEY

    def _drop(self, top: _Open) -> None:
        """Take a pair off the tape that is not in the value, so that both still have the same children."""
        start, top.drop_from = top.drop_from, -1
        self._tape.cut(start)
        for name, (value, entry, nodes) in self._anchors.items():
            if entry >= start:
                self._anchors[name] = (value, -1, nodes)

    def _open(self, event: MappingStartEvent | SequenceStartEvent, *, is_mapping: bool) -> None:
        if len(self._stack) >= MAX_DEPTH:
            self._fatal(event, f"The file is nested deeper than {MAX_DEPTH} levels.")
        if self._stack and self._stack[-1].key is _NO_KEY:
            hint = "Quote a text that begins with { or [, as {{ does."
            self._fatal(event, "A key must be a word, not a list or a mapping.", hint)
        if event.tag not in {None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}:
            self._tag(event)
        self._count(event, 1)
        value: Value = {} if is_mapping else []
        key = _NO_KEY if is_mapping else ""
        entry = self._tape.add(self._mark(event))
        self._stack.append(_Open(value, entry, is_mapping, event.anchor, self._total, key))

    def _close(self) -> None:
        done = self._stack.pop()
        self._tape.sizes[done.entry] = len(self._tape.marks) - done.entry
        if done.anchor:
            self._anchors[done.anchor] = (done.value, done.entry, self._total - done.total + 1)
        self._put(done.value)

    def _alias(self, event: AliasEvent) -> None:
        name = str(event.anchor)
        if name not in self._anchors:
            inside = name in {container.anchor for container in self._stack}
            what = "stands inside what it names" if inside else "names nothing before it"
            self._fatal(event, f"The alias *{name} {what}.", f"Put &{name} at a value before it.")
        value, target, nodes = self._anchors[name]
        self._aliased += nodes
        if self._aliased > MAX_ALIASED_NODES:
            self._fatal(event, f"The aliases of the file stand for more than {MAX_ALIASED_NODES:,} values.")
        self._count(event, nodes)
        entry = self._tape.add(self._mark(event))
        self._tape.aliases[entry] = target
        if self._stack and self._stack[-1].key is _NO_KEY:
            if isinstance(value, (dict, list)):
                self._fatal(event, "A key must be a word, not a list or a mapping.")
            self._take_key(self._stack[-1], event, self._tape.text_of(entry) or str(value), entry)
        else:
            self._put(value)

    def _place(self, event: Event) -> SourceLocation:
        return self.document.place_of(self._mark(event))

    def _mark(self, event: Event) -> int:
        mark: Any = event.start_mark
        return int(mark.line << COLUMN_BITS | mark.column)

    def _note(self, event: Event, message: str, hint: str = "") -> None:
        self.problems.append(problem_at(self._place(event), message, hint))

    def _fatal(self, event: Event | None, message: str, hint: str = "") -> NoReturn:
        place = self._place(event) if event else SourceLocation(file=self.document.file)
        raise ManifestInvalid([*self.problems, problem_at(place, message, hint)])

    def _syntax(self, error: yaml.MarkedYAMLError) -> Diagnostic:
        mark = error.problem_mark or error.context_mark
        place = SourceLocation(file=self.document.file)
        if mark is not None:
            place = SourceLocation(file=self.document.file, line=mark.line + 1, column=mark.column + 1)
        context = f"{error.context}: " if error.context else ""
        message = f"This is not YAML: {context}{error.problem}."
        return problem_at(place, message, _syntax_hint(str(error.problem), self.document.line(place.line)))


def _syntax_hint(problem: str, line: str) -> str:
    """What is most often meant where libyaml gives up."""
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in problem or "tab" in problem:
        return "Indent with spaces, not tabs."
    if "mapping values are not allowed" in problem:
        return 'Quote a text that holds ": ", or look at the indentation.'
    if "{{" in line or "{%" in line:
        return "Quote a text that holds {{ }}, or write it on a line of its own after a dash."
    return "Look at the indentation, brackets and quotes here and on the line before."
