"""What a worker does with a link, and what the dispatcher makes of workers that lose, double, reorder and delay."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pytest
from PIL import Image

from batchgen.errors import CommandError, ImageBroken
from batchgen.http.downloads import Reach
from batchgen.jobs import ImageKey, ReceivedImage
from batchgen.workers import dispatcher, functions
from batchgen.workers.crews import open_crew
from batchgen.workers.dispatcher import open_dispatcher
from batchgen.workers.processes import ProcessCrew
from batchgen.workers.protocol import PROTOCOL, DownloadRequest, Failure

PUBLIC = Reach(is_private=False, may_be_http=True, host="gateway.example", has_private_name=False)
PRIVATE = Reach(is_private=True, may_be_http=True, host="127.0.0.1")


def png(width):
    body = BytesIO()
    Image.new("L", (width, 1)).save(body, "PNG")
    return body.getvalue()


@contextmanager
def image_host():
    """A host on loopback whose /7 is an image seven pixels wide."""

    class Images(BaseHTTPRequestHandler):
        def do_GET(self):
            server.requested.append(self.path)
            body = png(int(self.path.strip("/")))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Images)
    server.requested = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(url, reach, name="x"):
    return DownloadRequest(url=url, name=name, reach=reach, idle_timeout=5.0)


# --- in a worker process --------------------------------------------------------------------------------------


def test_a_worker_goes_where_the_coordinator_allows_and_nowhere_else(tmp_path):
    crew = ProcessCrew(1, [])
    try:
        with image_host() as host:
            port = host.server_port
            hosts = ("127.0.0.1", "localhost", "a.localhost", "[::1]", "[::ffff:127.0.0.1]", "0x7f.1", "127.1", "0")
            urls = [f"http://{name}:{port}/1" for name in (*hosts, "10.0.0.1", "169.254.169.254", "[fe80::1]")]
            refused = tuple(ask(url, PUBLIC, f"refused-{i}") for i, url in enumerate(urls))
            answers = crew.submit(functions.fetch, PROTOCOL, refused, str(tmp_path), 20.0).result(30)
            assert [answer.kind for answer in answers] == ["LinkRefused"] * len(urls)
            assert host.requested == []
            allowed = (ask(f"http://127.0.0.1:{port}/7", PRIVATE),)
            (image,) = crew.submit(functions.fetch, PROTOCOL, allowed, str(tmp_path), 20.0).result(30)
            assert (image.width, image.sha256) == (7, hashlib.sha256(png(7)).hexdigest())
        assert [file.name for file in tmp_path.iterdir()] == ["x"]
    finally:
        crew.close()


def test_another_protocol_and_another_folder_are_refused_in_a_sentence(tmp_path):
    (answer,) = functions.fetch(PROTOCOL + 1, (ask("http://a.example/", PUBLIC),), str(tmp_path), 1.0)
    assert answer.kind == "OtherVersion"
    assert "Install the same version" in answer.message
    assert "does not see the folder" in functions.check(PROTOCOL, str(tmp_path), "probe", "content").message


def test_a_link_is_in_no_repr():
    assert "secret" not in repr((ask("https://a.example/?signature=secret", PUBLIC),))


@pytest.mark.parametrize("workers", ["0", "-1", "257", "two", "tls://10.0.0.5:8786", ""])
def test_workers_that_do_not_exist_are_a_mistake_of_the_command(workers):
    with pytest.raises(CommandError):
        open_crew(workers, secret_variables=())


# --- the dispatcher -------------------------------------------------------------------------------------------


class Unreliable:
    """A crew of threads that does the real work, and loses, kills, doubles and delays answers by its seed."""

    slots = 4
    here = True

    def __init__(self, seed):
        self._rng = random.Random(seed)
        self._pool = ThreadPoolExecutor(8)
        self.renewed = 0

    def submit(self, work, *arguments):
        if work is functions.check:
            return self._pool.submit(work, *arguments)
        way = self._rng.choice(["fine", "fine", "lost", "died", "failed", "twice", "short"])
        if way == "died" and len(arguments[1]) == 1:
            way = "fine"  # no image kills by itself here
        done = Future()
        self._pool.submit(self._do, way, done, work, arguments)
        return done

    def _do(self, way, done, work, arguments):
        answers = work(*arguments)
        if way == "twice":
            answers = work(*arguments)
        if way == "died":
            done.set_exception(BrokenExecutor("a worker died"))
        elif way == "failed":
            done.set_exception(OSError("the connection was lost"))
        elif way != "lost":
            done.set_result(answers[: len(answers) - (way == "short")])

    def renew(self):
        self.renewed += 1

    def close(self):
        self._pool.shutdown()


async def fetched(opened, folder, port, number):
    key = ImageKey("1" + "a" * 25, 1, number, 0)
    name, answer = await opened.fetch(key, f"http://127.0.0.1:{port}/{number}", PRIVATE, 5.0)
    if isinstance(answer, Failure):
        return False
    assert isinstance(answer, ReceivedImage)
    assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == answer.sha256
    assert answer.width == number
    return True


@pytest.mark.parametrize("seed", range(4))
async def test_every_download_gets_one_true_answer_whatever_a_crew_does(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(dispatcher, "WITHIN_SECONDS", 0.3)
    monkeypatch.setattr(dispatcher, "GRACE_SECONDS", 0.1)
    with image_host() as host:
        async with open_dispatcher(crew := Unreliable(seed), tmp_path, batch=4) as opened:
            numbers = range(1, 41)
            came = await asyncio.gather(*(fetched(opened, tmp_path, host.server_port, i) for i in numbers))
    assert any(came)
    assert crew.renewed or all(came)


class Deadly(Unreliable):
    """One image ends every worker that has it."""

    def submit(self, work, *arguments):
        if work is functions.check:
            return self._pool.submit(work, *arguments)
        is_deadly = any(request.name.split("-")[2] == "3" for request in arguments[1])
        done = Future()
        self._pool.submit(self._do, "died" if is_deadly else "fine", done, work, arguments)
        return done


async def test_the_image_that_ends_its_workers_is_the_only_one_that_fails(tmp_path):
    with image_host() as host:
        async with open_dispatcher(crew := Deadly(0), tmp_path, batch=8) as opened:
            fetches = (fetched(opened, tmp_path, host.server_port, i) for i in range(1, 17))
            came = await asyncio.gather(*fetches, return_exceptions=True)
            renewed = crew.renewed
            with pytest.raises(ImageBroken, match="ended the workers"):  # and no worker more is given to it
                await fetched(opened, tmp_path, host.server_port, 3)
            assert crew.renewed == renewed
    assert isinstance(came.pop(2), ImageBroken)
    assert came == [True] * 15
    assert renewed <= 4


class OnAnotherMachine(Deadly):
    here = False


async def test_a_link_into_a_private_network_is_not_given_to_another_machine(tmp_path):
    with image_host() as host:
        async with open_dispatcher(OnAnotherMachine(0), tmp_path, batch=4) as opened:
            assert not await fetched(opened, tmp_path, host.server_port, 1)
        assert host.requested == []


class Spent(Unreliable):
    """Its workers die, and no new ones can be had."""

    def submit(self, work, *arguments):
        if work is functions.check:
            return self._pool.submit(work, *arguments)
        raise BrokenExecutor

    def renew(self):
        raise OSError("too many open files")


class Stillborn(Unreliable):
    """After its start, each worker dies at once, whatever it is given: its memory is used up by others."""

    def submit(self, work, *arguments):
        if work is functions.check and not self.renewed:
            return self._pool.submit(work, *arguments)
        raise BrokenExecutor


@pytest.mark.parametrize("crew", [Spent, Stillborn])
async def test_where_no_worker_can_be_had_any_more_nobody_waits_for_one(tmp_path, crew):
    async with open_dispatcher(crew(0), tmp_path, batch=4) as opened, asyncio.timeout(10):
        fetches = (fetched(opened, tmp_path, 9, i) for i in range(1, 9))
        came = await asyncio.gather(*fetches, return_exceptions=True)
        # Whose image it was, nobody can tell where no worker can be started: this process might end of it, too.
        assert {type(each) for each in came} == ({bool} if crew is Stillborn else {ImageBroken})
        assert not await fetched(opened, tmp_path, 9, 9)
