"""A server that says exactly the bytes that a test gives it, when the test says so: HTTP as no library sends it."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable


class Line:
    """One connection, as the server sees it."""

    def __init__(self, connection: socket.socket, number: int) -> None:
        self.number = number  # of the connection at this server, from 1
        self.say = connection.sendall
        self.close = connection.close
        self._connection = connection
        self._read = b""

    def request(self) -> bytes:
        """The next request, head and body; empty where the other side has left."""
        while b"\r\n\r\n" not in self._read:
            if not (piece := self._connection.recv(65536)):
                return b""
            self._read += piece
        head, _, rest = self._read.partition(b"\r\n\r\n")
        length = next((int(x[15:]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")), 0)
        while len(rest) < length:
            rest += self._connection.recv(65536)
        self._read = rest[length:]
        return head + b"\r\n\r\n" + rest[:length]


def answer(body: bytes = b"{}", status: str = "200 OK", **headers: str) -> bytes:
    """A whole answer; a header's `_` stands for `-`."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *lines, "", ""]).encode() + body


class RawServer:
    """Runs between `with` and its end; `serve` has each connection in a thread of its own."""

    def __init__(self, serve: Callable[[Line], None]) -> None:
        self._serve = serve
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.connections = 0
        self.origin = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, name="raw-server", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._hold, args=(connection, self.connections), daemon=True).start()

    def _hold(self, connection: socket.socket, number: int) -> None:
        with connection:
            try:
                self._serve(Line(connection, number))
            except OSError:  # the other side has left, or the test has
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.close()
