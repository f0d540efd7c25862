"""The addresses that attempts give a gateway: each names its attempt, and nobody can make another one from it."""

from __future__ import annotations

import hmac
import secrets
from base64 import b32encode
from dataclasses import dataclass, field
from hashlib import sha256
from urllib.parse import urlsplit, urlunsplit

_CODE_BYTES = 20  # 32 characters of base32, which no URL, JSON or HTML escapes


def new_secret() -> str:
    """The secret of an output, from which the addresses of all its attempts follow, in every run and every copy."""
    return secrets.token_hex(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackAddresses:
    """The addresses below `public_url`: the last part of the path is the attempt's external id and its code.

    `local_url` stands in its place where the gateway is in this process. The empty id is that of no attempt: a provider
    that sends one address with every create is called there.
    """

    public_url: str
    local_url: str
    secret: str = field(repr=False)

    def of(self, external_id: str, *, local: bool = False) -> str:
        """The address of one attempt."""
        parts = urlsplit(self.local_url if local else self.public_url)
        name = f"{external_id}.{self._code(external_id)}" if external_id else self._code("")
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))

    def external_id_of(self, target: str) -> str | None:
        """The attempt that a request's target names; None for a target that is no address of ours.

        A reverse proxy may have removed the path before it.
        """
        name = target.partition("?")[0].rstrip("/").rpartition("/")[2]
        external_id, _, code = name.rpartition(".")
        known = hmac.compare_digest(_bytes(code), _bytes(self._code(external_id)))
        return external_id if known else None

    def _code(self, external_id: str) -> str:
        digest = hmac.new(_bytes(self.secret), _bytes(external_id), sha256).digest()
        return b32encode(digest[:_CODE_BYTES]).decode().lower()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
