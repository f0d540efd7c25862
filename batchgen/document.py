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
from array import array
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

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

from batchgen.errors import CommandError, ManifestInvalid, Place, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 64
MAX_NODES = 5_000_000
MAX_ALIASED_NODES = 100_000  # what aliases may add, counted expanded: a bomb is small only as written

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # C0 and C1 without tab and newline
_RAW_REFUSED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]|\r(?!\n)|[\ud800-\udfff]")
_ESCAPED_REFUSED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # as libyaml counts lines

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

Value: TypeAlias = Any  # what YAML can hold: str, int, float, bool, None, and lists and dicts of these

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_COLUMN_BITS = 28  # a line is shorter than the file, and that than 64 MB


@dataclass(slots=True)
class Tape:
    """Where each node of a document stands, in the order of the text, keys and values alike.

    A packed position and the number of entries of the subtree for each: 12 bytes a node.
    """

    marks: array[int] = field(default_factory=lambda: array("Q"))
    sizes: array[int] = field(default_factory=lambda: array("I"))
    written: dict[int, str] = field(default_factory=dict)  # of scalars that are no strings
    aliases: dict[int, int] = field(default_factory=dict)  # the alias's entry → its anchor's

    def add(self, mark: int) -> int:
        """A new entry without children; its number."""
        self.marks.append(mark)
        self.sizes.append(1)
        return len(self.marks) - 1

    def cut(self, start: int) -> None:
        """Forget everything from an entry on."""
        del self.marks[start:]
        del self.sizes[start:]
        for table in (self.written, self.aliases):
            for entry in [entry for entry in table if entry >= start]:
                del table[entry]

    def children(self, node: int, *, open_end: bool = False) -> Iterator[int]:
        """The entries right below a container; with `open_end`, below one that is still being filled."""
        entry, end = node + 1, len(self.marks) if open_end else node + self.sizes[node]
        while entry < end:
            yield entry
            entry += self.sizes[entry]

    def text_of(self, entry: int) -> str | None:
        """What was written for a scalar that is no string."""
        return self.written.get(self.aliases.get(entry, entry))


@dataclass(slots=True, kw_only=True)
class Document:
    """A document's value, and where each part of it stands."""

    file: str
    text: str
    value: Any = None
    tape: Tape = field(default_factory=Tape)
    _children: dict[int, array[int]] = field(default_factory=dict)
    _orders: dict[int, dict[str, int]] = field(default_factory=dict)
    _lines: list[str] | None = None

    def place(self, path: Sequence[str | int], *, key: bool = False) -> Place:
        """Where the value at `path` stands (with `key`, its key), or the nearest parent that is there."""
        entry, key_entry = self._find(path)
        if key and key_entry is not None:
            entry = key_entry
        return self.place_of(self.tape.marks[entry] if self.tape.marks else 0)

    def place_of(self, mark: int) -> Place:
        """A packed position as a place."""
        line, column = mark >> _COLUMN_BITS, mark & ((1 << _COLUMN_BITS) - 1)
        return Place(file=self.file, line=line + 1, column=column + 1)

    def written(self, path: Sequence[str | int]) -> str | None:
        """A scalar's text as written (`1.50`, `null`), or None for what is no scalar."""
        value = self.value
        for step in path:
            value = value[step]
        if isinstance(value, str):
            return value
        entry, _ = self._find(path)
        return self.tape.text_of(entry)

    def line(self, number: int) -> str:
        """A line of the source, from 1; empty where there is none."""
        if self._lines is None:
            self._lines = _LINE_END.split(self.text)
        return self._lines[number - 1] if 0 < number <= len(self._lines) else ""

    def _find(self, path: Sequence[str | int]) -> tuple[int, int | None]:
        """The tape's entries of a value and of its key, as far down as the path leads."""
        value: Value = self.value
        entry, key_entry = 0, None
        for step in path:
            node = self.tape.aliases.get(entry, entry)
            if node < 0:  # its anchor stood in a part that was left out
                break
            if isinstance(value, dict) and isinstance(step, str) and step in value:
                starts, number = self._starts(node), self._order(node, value)[step]
                key_entry, entry = starts[2 * number], starts[2 * number + 1]
                value = value[step]
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                key_entry, entry = None, self._starts(node)[step]
                value = value[step]
            else:
                break
        return entry, key_entry

    def _order(self, node: int, mapping: dict[str, Value]) -> dict[str, int]:
        if node not in self._orders:
            self._orders[node] = {key: number for number, key in enumerate(mapping)}
        return self._orders[node]

    def _starts(self, node: int) -> array[int]:
        if node not in self._children:
            self._children[node] = array("I", self.tape.children(node))
        return self._children[node]


def read(path: Path | str, file: str | None = None) -> Document:
    """Read a YAML file; `file` is how messages name it.

    Raises ManifestInvalid for what is in it, CommandError when it cannot be read.
    """
    name = str(path) if file is None else file
    return parse(decode(load_bytes(path, name), name), name)


def load_bytes(path: Path | str, file: str) -> bytes:
    """A file's bytes, at most 64 MB of them. Raises CommandError, with `file` as its name."""
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise CommandError(f"{file} does not exist.") from None
    except IsADirectoryError:
        raise CommandError(f"{file} is a folder; name a file.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CommandError(f"{file} cannot be read: {reason}.") from error
    if len(data) > MAX_BYTES:
        raise _invalid(file, "is larger than 64 MB.", "Split it, or put the prompts into several files.")
    return data


def decode(data: bytes, file: str) -> str:
    """Bytes as UTF-8, without a byte order mark. Raises ManifestInvalid with line and column."""
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        raise _invalid(file, "is in UTF-16.", "Save it as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n")
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace").lstrip("\ufeff"))
        place = Place(file=file, line=line + 1, column=column + 1)
        message = f"The byte 0x{data[error.start]:02x} is not UTF-8."
        raise ManifestInvalid([_problem(place, message, "Save the file as UTF-8.")]) from None


def parse(text: str, file: str) -> Document:
    """A document from its text. Raises ManifestInvalid with every fault of the YAML."""
    document, problems = collect(text, file)
    if problems:
        raise ManifestInvalid(problems)
    return document


def collect(text: str, file: str) -> tuple[Document, list[Problem]]:
    """As `parse`, but hands back what can be survived (duplicate keys, tags, merge keys) as problems."""
    text = text.removeprefix("\ufeff")
    _refuse_raw(text, file)
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


def _refuse_raw(text: str, file: str) -> None:
    if len(text) > MAX_BYTES:
        raise _invalid(file, "is larger than 64 MB.", "Split it, or put the prompts into several files.")
    problems = []
    for match in _RAW_REFUSED.finditer(text):
        before = text[: match.start()]
        ends = list(_LINE_END.finditer(before))
        start = ends[-1].end() if ends else 0
        place = Place(file=file, line=len(ends) + 1, column=match.start() - start + 1)
        problems.append(_problem(place, *character_fault(match.group()[0])))
        if len(problems) == 20:
            break
    if problems:
        raise ManifestInvalid(problems)


def character_fault(character: str) -> tuple[str, str]:
    """What to say of a character that no text may hold: message and hint."""
    code = f"U+{ord(character):04X}"
    if character in "\u2028\u2029":
        return f"The character {code} is a line break to YAML.", r'Take it out, or write it as "\L" or "\P".'
    if character == "\r":
        return "A carriage return stands alone here.", "Save the file with LF or CR-LF line ends."
    if "\ud800" <= character <= "\udfff":
        return f"{code} is half a character (a lone surrogate).", "Take it out."
    return f"The control character {code} is not allowed.", "Take it out; tab and newline are allowed."


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


def _problem(place: Place, message: str, hint: str = "") -> Problem:
    return Problem(place=place, path="", message=message, hint=hint)


def _invalid(file: str, message: str, hint: str = "") -> ManifestInvalid:
    return ManifestInvalid([_problem(Place(file=file), f"The file {message}", hint)])


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
        self.problems: list[Problem] = []
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
            problem = _problem(Place(file=self.document.file), f"The file is not YAML: {error}.")
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
        entry = self._tape.add(mark.line << _COLUMN_BITS | mark.column)
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
        if bad := _ESCAPED_REFUSED.search(event.value):
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
        problem = Problem(
            place=self._place(event),
            path="",
            message=f"The key `{key[:60]}` is given twice.",
            hint="Keep one of the two.",
            also=(self.document.place_of(first),),
        )
        self.problems.append(problem)

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

    def _place(self, event: Event) -> Place:
        return self.document.place_of(self._mark(event))

    def _mark(self, event: Event) -> int:
        mark: Any = event.start_mark
        return int(mark.line << _COLUMN_BITS | mark.column)

    def _note(self, event: Event, message: str, hint: str = "") -> None:
        self.problems.append(_problem(self._place(event), message, hint))

    def _fatal(self, event: Event | None, message: str, hint: str = "") -> NoReturn:
        place = self._place(event) if event else Place(file=self.document.file)
        raise ManifestInvalid([*self.problems, _problem(place, message, hint)])

    def _syntax(self, error: yaml.MarkedYAMLError) -> Problem:
        mark = error.problem_mark or error.context_mark
        place = Place(file=self.document.file)
        if mark is not None:
            place = Place(file=self.document.file, line=mark.line + 1, column=mark.column + 1)
        context = f"{error.context}: " if error.context else ""
        message = f"This is not YAML: {context}{error.problem}."
        return _problem(place, message, _syntax_hint(str(error.problem), self.document.line(place.line)))


def _syntax_hint(problem: str, line: str) -> str:
    """What is most often meant where libyaml gives up."""
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in problem or "tab" in problem:
        return "Indent with spaces, not tabs."
    if "mapping values are not allowed" in problem:
        return 'Quote a text that holds ": ", or look at the indentation.'
    if "{{" in line or "{%" in line:
        return "Quote a text that holds {{ }}, or write it on a line of its own after a dash."
    return "Look at the indentation, brackets and quotes here and on the line before."
