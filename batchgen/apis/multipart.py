"""A form as multipart/form-data (RFC 7578): texts and files."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file within a form."""

    name: str
    media_type: str
    data: bytes = field(repr=False)


def multipart(fields: Mapping[str, Any]) -> tuple[str, bytes]:
    """The header Content-Type and the body."""
    boundary = f"batchgen-{secrets.token_hex(16)}"
    parts = [f"--{boundary}\r\n".encode() + _part(_name(name), value) + b"\r\n" for name, value in fields.items()]
    return f"multipart/form-data; boundary={boundary}", b"".join([*parts, f"--{boundary}--\r\n".encode()])


def _part(name: str, value: object) -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"'
    if isinstance(value, File):
        head += f'; filename="{_name(value.name)}"\r\nContent-Type: {value.media_type}'
    data = value.data if isinstance(value, File) else _text(value).encode()
    return f"{head}\r\n\r\n".encode() + data


def _name(name: str) -> str:
    return name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
