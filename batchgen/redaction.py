"""Removes keys, and characters that no file can hold, from text that came from elsewhere.

Applied where text enters the ledger (`Context.record`) and where an error becomes text (`BatchgenError.__str__`),
after all decoding: a gateway may echo a key escaped, encoded, cut off, or in the text of a foreign exception.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SHORTEST = 8  # characters: what is shorter is no real key, and a word such as `test` is in links too
_RECOGNISED = 12  # characters by which a key is recognised, also where the rest of it was cut off
_ESCAPED = re.compile(r"\\|&(?:#|[a-z]{2,6};)")  # without these and %, no character is escaped
_TOKEN = re.compile(r"eyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?")  # a JSON Web Token: signed with a key
_CALLBACK = re.compile(r"(bg-[0-9a-z]{26}-[0-9]+)\.[0-9a-z]{12,32}", re.IGNORECASE)  # an attempt's callback address
_HIDDEN = "***"
_BACKSLASHES = r"\\{0,8}"  # text that was escaped, once or more


class _Secret(NamedTuple):
    beginning: str
    known_by: re.Pattern[str]
    rest: tuple[re.Pattern[str], ...]


class Redactor:
    """Removes the secrets that this process has read, once they are added."""

    def __init__(self) -> None:
        self._secrets: dict[str, _Secret] = {}

    def add(self, secrets: Iterable[str]) -> None:
        """Remove these from every text from now on; the codes of callback addresses need not be added."""
        for secret in secrets:
            if len(secret) >= _SHORTEST:
                for spelling in _spellings(secret):
                    if spelling not in self._secrets:
                        self._secrets[spelling] = _secret(spelling)

    def __call__(self, text: str) -> str:
        """The text without secrets or tokens, with `?` for half characters, and without NUL."""
        return _TOKEN.sub(_HIDDEN, self.in_address(text))

    def in_address(self, text: str) -> str:
        """The same for a link or an id, in which a token is the gateway's own and needed."""
        text = text.replace("\0", "")  # UTF-16 that was read as UTF-8 is full of them
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode()
        if "bg-" in text:
            text = _CALLBACK.sub(rf"\1.{_HIDDEN}", text)
        is_escaped = _ESCAPED.search(text) is not None
        unquoted = _unquoted(text)
        for secret in self._secrets.values():
            if is_escaped or secret.beginning in unquoted:
                text = _without(secret, text)
        return text


redact = Redactor()  # secrets come from the environment, which is the process's too


def _unquoted(text: str) -> str:
    """For a quick check: links are full of these escapes, and seldom have a key."""
    for _ in range(3):
        if "%" not in text:
            break
        text = unquote(text)
    return text


def _spellings(secret: str) -> Iterator[str]:
    """The secret, and its base64 at any position of a longer text (`user:key`, for instance)."""
    yield secret
    data = secret.encode()
    for before in range(3):
        # Characters that also depend on the text around the secret are left out.
        whole = b64encode(bytes(before) + data).decode()[(0, 2, 3)[before] : (before + len(data)) * 8 // 6]
        if len(whole) >= _SHORTEST:
            yield whole
            yield whole.replace("+", "-").replace("/", "_")


def _secret(text: str) -> _Secret:
    patterns = [_character(character) for character in text]
    if text.endswith("\\"):
        patterns.append(_BACKSLASHES)
    return _Secret(
        beginning=text[:_RECOGNISED],
        known_by=re.compile("".join(patterns[:_RECOGNISED])),
        rest=tuple(map(re.compile, patterns[_RECOGNISED:])),
    )


def _character(character: str) -> str:
    """A character as JSON, Python, a URL or HTML escape it, once or more, or as it is: the longest spelling first.

    Backslashes may stand before each. A backslash of the secret takes one, as the next may belong to what follows.
    """
    number, points, utf8 = ord(character), [], character.encode()
    if number < 0x10000:
        points.append(f"u{number:04x}")
    if number < 0x100:
        points.append(f"x{number:02x}")
    points.append(r"\\{1,8}".join(f"x{byte:02x}" for byte in utf8))
    ways = [
        rf"(?i:\\{{1,8}}(?:{'|'.join(points)}))",
        rf"{_BACKSLASHES}(?i:{''.join(f'%(?:25){{0,2}}{byte:02x}' for byte in utf8)})",
        rf"{_BACKSLASHES}&\#(?:0{{0,6}}{number}|(?i:x0{{0,6}}{number:x}));?",
        *(f"{_BACKSLASHES}&{name};" for name in _NAMED.get(character, ())),
        *(f"{_BACKSLASHES}{re.escape(each)}" for each in (character, *_IN_URLS.get(character, ())) if each != "\\"),
    ]
    if character == "\\":
        ways.append(r"\\")
    return f"(?:{'|'.join(ways)})"


_NAMED = {"&": ["amp"], "<": ["lt"], ">": ["gt"], '"': ["quot"], "+": ["plus"], "/": ["sol"], "=": ["equals"]}
_IN_URLS = {"+": "-", "/": "_"}  # base64 in URLs has these in their place


def _without(secret: _Secret, text: str) -> str:
    parts, end = [], 0
    while (found := secret.known_by.search(text, end)) is not None:
        parts += [text[end : found.start()], _HIDDEN]
        end = found.end()
        for pattern in secret.rest:
            if (more := pattern.match(text, end)) is None:
                break
            end = more.end()
    return "".join([*parts, text[end:]]) if parts else text
