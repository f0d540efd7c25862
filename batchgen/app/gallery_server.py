"""Serves the gallery to the browsers of this machine: stores marks at once, and shows a run as it goes.

Any page that a browser shows may send requests to 127.0.0.1, and any name can be made to lead there. So every address
begins with a token that only our own page knows, the host has to be this machine by its own names, and what another
page sends (`Origin`) is refused. Files are served from three folders of the output, and nothing is executed in them.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import web

from batchgen.app.review import Mark, NewMark, store_marks
from batchgen.errors import BatchgenError, CommandError
from batchgen.ledger import lock
from batchgen.ledger.marks import MAX_NOTE
from batchgen.ledger.store import FILE_NAME

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from batchgen.app.gallery import Gallery, GalleryWriter
    from batchgen.app.observer import Observer

LOOPBACK = "127.0.0.1"
_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.ASCII)  # any port: it may be forwarded
_FOLDERS = ("gallery", "images", "retired")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_INTERVAL = 1.0  # seconds between two looks at the ledger
_IDLE = 2  # rest so many times as long as writing the page took
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the address has the token
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_SANDBOX = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'"
}  # no picture runs a script


class GalleryServer:
    """The answers of the server; `token` is the first part of every address."""

    def __init__(self, root: Path, stamp: str, token: str) -> None:
        self._root = root
        self._token = token
        self._storing = asyncio.Lock()
        self.stamp = stamp  # of the data that is on disk
        self.rounds = 0  # of making thumbnails

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/{token}/api/state", self._state)
        app.router.add_post("/{token}/api/marks", self._marks)
        app.router.add_get("/{token}/{path:.+}", self._file)
        return app

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Refuse what does not come from our page in this machine's browser."""
        token = request.match_info.get("token", "")
        if not _HOST.fullmatch(request.host):
            raise web.HTTPForbidden(text="This server answers to 127.0.0.1 and localhost alone.", headers=_HEADERS)
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            raise web.HTTPNotFound(headers=_HEADERS)
        origin = request.headers.get("Origin")
        if origin != f"http://{request.host}" and (origin is not None or request.method == "POST"):
            raise web.HTTPForbidden(text="This request comes from another page.", headers=_HEADERS)
        response = await handler(request)
        response.headers.update(_HEADERS)
        return response

    async def _state(self, _: web.Request) -> web.Response:
        running = lock.holder(self._root) is not None
        return web.json_response({"stamp": self.stamp, "rounds": self.rounds, "running": running})

    async def _marks(self, request: web.Request) -> web.Response:
        try:
            marks = [_new_mark(**each) for each in await request.json()]
        except (ValueError, TypeError, RecursionError):
            raise web.HTTPBadRequest(text="A mark is {sha256, mark, note}.", headers=_HEADERS) from None
        async with self._storing:
            try:
                changed = await asyncio.to_thread(store_marks, self._root, marks)
            except BatchgenError as error:
                raise web.HTTPInternalServerError(text=str(error), headers=_HEADERS) from error
        return web.json_response({"changed": changed})

    async def _file(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        top = path.partition("/")[0]
        found = None
        if top in _FOLDERS and "\0" not in path:
            with suppress(OSError, RuntimeError):  # a loop of links
                found = (self._root / path).resolve(strict=True)
        if found is None or not found.is_relative_to((self._root / top).resolve()) or not found.is_file():
            raise web.HTTPNotFound(headers=_HEADERS)
        kept = "private, max-age=86400" if "/thumbs/" in path else "no-cache"
        return web.FileResponse(found, headers={"Cache-Control": kept, **({} if top == "gallery" else _SANDBOX)})


def _new_mark(*, sha256: str, mark: str, note: str | None = None) -> NewMark:
    """One mark of a request. Raises ValueError and TypeError for what is none."""
    if not _SHA256.fullmatch(sha256) or len(note or "") > MAX_NOTE or note != (note and str(note)):
        raise ValueError
    return NewMark(sha256=sha256, mark=Mark(mark), note=note)


async def serve(
    root: Path, writer: GalleryWriter, gallery: Gallery, observer: Observer, port: int, on_start: Callable[[str], None]
) -> None:
    """Serve until Ctrl-C or SIGTERM; `on_start` gets the address. Raises CommandError where the port is taken."""
    end = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    token = secrets.token_urlsafe(24)
    server = GalleryServer(root, gallery.stamp, token)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, LOOPBACK, port)
        try:
            await site.start()
        except (OSError, OverflowError) as error:
            raise CommandError(f"Port {port} cannot be used ({error}). Choose another --port, or none.") from error
        on_start(f"http://{LOOPBACK}:{runner.addresses[0][1]}/{token}/gallery/index.html")
        following = asyncio.create_task(_follow(root, writer, gallery, observer, server))
        await end.wait()
        writer.stop()
        following.cancel()
        await asyncio.wait([following])
        if not following.cancelled():
            following.result()
    finally:
        await runner.cleanup()


async def _follow(
    root: Path, writer: GalleryWriter, gallery: Gallery, observer: Observer, server: GalleryServer
) -> None:
    """Write the gallery again when the ledger has changed."""
    loop = asyncio.get_running_loop()
    seen = None
    while True:
        began = written = loop.time()
        now = _ledger_files(root)
        try:
            if seen is not None and seen != now:
                gallery = await asyncio.to_thread(writer.write_page)
                written = loop.time()
            if seen != now:
                await asyncio.to_thread(writer.write_thumbnails, gallery, observer)
                server.stamp = gallery.stamp
                server.rounds += 1
            seen = now
        except BatchgenError as error:
            observer.on_message(str(error), "error")
        await asyncio.sleep(max(_INTERVAL, _IDLE * (written - began)))


def _ledger_files(root: Path) -> list[tuple[int, int, int]]:
    """Inode, size and time of the ledger's files, which change when it is written to."""
    states = []
    for end in ("", "-wal"):
        with suppress(OSError):
            found = (root / f"{FILE_NAME}{end}").stat()
            states.append((found.st_ino, found.st_size, found.st_mtime_ns))
    return states
