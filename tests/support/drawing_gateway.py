"""A gateway of an API that batchgen does not know: the caller names the drawing. For the provider in plugin_package."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from batchgen.sandbox.painter import blank

KEY = "the-key-of-drawings"


class DrawingGateway:
    """Runs between `with` and its end. `troubles` are of the first creates: a status, or `cut` after it was taken."""

    def __init__(self, *troubles: int | str) -> None:
        self.drawings: dict[str, dict[str, Any]] = {}
        self.creates: list[str] = []
        self.asked: dict[str, int] = {}
        self.troubles = list(troubles)
        gateway = self

        class Handler(_Handler):
            of = gateway

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self._server.server_port}"

    def take(self, name: str, drawing: dict[str, Any]) -> int | str:
        """The status of a create; 201 where it was taken, and will be paid for."""
        self.creates.append(name)
        trouble = self.troubles.pop(0) if self.troubles else 201
        if trouble in {201, "cut"}:
            self.drawings[name] = drawing
        return trouble

    def state_of(self, name: str) -> dict[str, Any]:
        """How far a drawing is: done when it is asked for the second time."""
        self.asked[name] = self.asked.get(name, 0) + 1
        drawing = self.drawings[name]
        if self.asked[name] == 1:
            return {"is": "being drawn"}
        if "spoil" in drawing["text"]:
            return {"is": "spoilt", "why": "the ink ran out"}
        return {"is": "ready", "sheets": [f"/sheets/{name}/{copy}" for copy in range(drawing["copies"])]}

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    of: DrawingGateway

    def do_PUT(self) -> None:
        drawing = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {KEY}":
            self._say(401, b'{"message": "who are you?"}')
            return
        status = self.of.take(self.path.rpartition("/")[2], drawing)
        if status != "cut":
            self._say(int(status), b"in the queue" if status == 201 else b'{"message": "no"}')

    def do_GET(self) -> None:
        _, kind, name, *_ = self.path.split("/")
        if name not in self.of.drawings:
            self._say(404, b'{"message": "no such drawing"}')
        elif kind == "drawings":
            self._say(200, json.dumps(self.of.state_of(name)).encode())
        else:
            self._say(200, blank((64, 64)))

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        """Say nothing."""
