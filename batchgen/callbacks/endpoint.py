"""Where this run can be called back: a port of its own, and an address that nobody can guess."""

from __future__ import annotations

import errno
import os
import secrets
import socket
from ipaddress import ip_address
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from batchgen.errors import CommandError

_BACKLOG = 128
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_ADVICE = {
    errno.EADDRINUSE: "Another program has this port, or another run: give each its own in `callback.listen`.",
    errno.EACCES: "Ports below 1024 are the system's: take a higher one, and let a reverse proxy pass the calls on.",
    errno.EADDRNOTAVAIL: "This machine has no such address: 0.0.0.0 means all that it has.",
}


class Address:
    """Holds its port from when it is made until it is closed. Its last part is a secret of this run: it is sent in
    creates, and written nowhere.

    Raises CommandError where it cannot listen.
    """

    def __init__(self, public_url: str, host: str, port: int) -> None:
        self._secret = secrets.token_urlsafe(24)
        parts = urlsplit(public_url)
        path = f"{parts.path.rstrip('/')}/{self._secret}"
        self.url = urlunsplit(parts._replace(path=path))
        self.sockets = _listening(host, port)
        self.local_url = f"http://{_reachable(self.sockets[0])}:{port}{path}"  # for a gateway in this process

    def is_meant_by(self, target: str) -> bool:
        """Whether a request's target ends in the secret; a proxy in between may have cut the path before it."""
        last = target.partition("?")[0].rstrip("/").rpartition("/")[2]
        return secrets.compare_digest(last.encode("utf-8", "surrogateescape"), self._secret.encode())

    def __enter__(self) -> Self:
        """It listens already."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Give the port back."""
        for each in self.sockets:
            each.close()


def _reachable(listening: socket.socket) -> str:
    """The host at which this machine itself reaches it, as it stands in a URL."""
    host = ip_address(listening.getsockname()[0])
    if host.is_unspecified:
        host = ip_address("127.0.0.1" if host.version == 4 else "::1")
    return f"[{host}]" if host.version == 6 else str(host)


def _listening(host: str, port: int) -> list[socket.socket]:
    """A socket on each address that the host's name has here."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, place in dict.fromkeys(found):
            try:
                sockets.append(socket.create_server(place, family=family, backlog=_BACKLOG))
            except OSError as error:  # a name may have addresses of which this machine lacks one, as ::1
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
        if missing is not None and not sockets:
            raise missing
    except (OSError, UnicodeError) as error:
        for each in sockets:
            each.close()
        number = getattr(error, "errno", None) or 0
        why = os.strerror(number) if number > 0 else "its name is not found"
        advice = _ADVICE.get(number, "See to `callback.listen`, or take `callback` out: it is never needed.")
        raise CommandError(f"No callback can be taken on {host} port {port}: {why}. {advice}") from error
    return sockets
