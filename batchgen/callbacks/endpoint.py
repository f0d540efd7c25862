"""The port on which a run listens for callbacks."""

from __future__ import annotations

import errno
import os
import socket
from ipaddress import ip_address
from typing import Self
from urllib.parse import urlsplit

from batchgen.errors import CommandError

_BACKLOG = 128
_NO_SUCH_ADDRESS = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_ADVICE = {
    errno.EADDRINUSE: "Another program or run uses this port. Choose a different port in `callback.listen`.",
    errno.EACCES: "Ports below 1024 need special rights. Use a higher one, and let a reverse proxy forward to it.",
    errno.EADDRNOTAVAIL: "This machine has no such address. Use 0.0.0.0 to listen on all its addresses.",
}


class CallbackEndpoint:
    """Listens on its port until it is closed. `local_url` is `public_url` for a sandbox in this process.

    Raises CommandError where it cannot listen.
    """

    def __init__(self, public_url: str, host: str, port: int) -> None:
        self.public_url = public_url
        self.sockets = _listening(host, port)
        self.local_url = f"http://{_reachable(self.sockets[0])}:{port}{urlsplit(public_url).path.rstrip('/')}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for each in self.sockets:
            each.close()


def _reachable(listening: socket.socket) -> str:
    """The host in a URL by which this machine reaches the socket."""
    host = ip_address(listening.getsockname()[0])
    if host.is_unspecified:
        host = ip_address("127.0.0.1" if host.version == 4 else "::1")
    return f"[{host}]" if host.version == 6 else str(host)


def _listening(host: str, port: int) -> list[socket.socket]:
    """A listening socket on each address of the host."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(addresses):
            try:
                sockets.append(socket.create_server(address, family=family, backlog=_BACKLOG))
            except OSError as error:  # localhost may have ::1 where this machine has no IPv6
                if error.errno not in _NO_SUCH_ADDRESS:
                    raise
                missing = error
        if missing is not None and not sockets:
            raise missing
    except (OSError, UnicodeError) as error:
        for each in sockets:
            each.close()
        number = getattr(error, "errno", None) or 0
        why = os.strerror(number) if number > 0 else "the host name is not found"
        advice = _ADVICE.get(number, "Change `callback.listen`, or remove `callback`: batchgen works without it.")
        raise CommandError(f"Cannot listen for callbacks on {host} port {port}: {why}. {advice}") from error
    return sockets
