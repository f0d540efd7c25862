"""A form as multipart/form-data (RFC 7578): texts only."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def multipart(fields: Mapping[str, Any]) -> tuple[str, bytes]:
    """The header Content-Type and the body."""
    boundary = f"batchgen-{secrets.token_hex(16)}"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{_name(name)}"\r\n\r\n{_text(value)}\r\n'
        for name, value in fields.items()
    ]
    return f"multipart/form-data; boundary={boundary}", "".join([*parts, f"--{boundary}--\r\n"]).encode()


def _name(name: str) -> str:
    return name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
