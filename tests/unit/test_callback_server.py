"""The callback server by itself: what it answers, and how little of it anybody can occupy."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import select
import socket
import struct
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from urllib.request import Request, urlopen

import aiohttp
import pytest

from batchgen.callbacks import endpoint as endpoint_module
from batchgen.callbacks.addresses import CallbackAddresses, new_secret
from batchgen.callbacks.endpoint import CallbackEndpoint
from batchgen.callbacks.server import LARGEST_BODY, MOST_CONNECTIONS, open_callback_server
from batchgen.engine.running import CallbackReliability, RunningTask
from batchgen.errors import CommandError, RunStopped
from batchgen.redaction import redact


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


ATTEMPT = "bg-1abcdefghijklmnopqrstuvwxy-1"


def addresses_of(endpoint):
    return CallbackAddresses(public_url=endpoint.public_url, local_url=endpoint.local_url, secret="a secret")


class Calls:
    """An open callback server, what it received, and how to send to it."""

    def __init__(self, endpoint, port, session):
        self.secret = addresses_of(endpoint).of(ATTEMPT).rpartition("/")[2]
        self.port = port
        self.session = session
        self.received = []

    async def receive(self, external_id, call):
        assert external_id == ATTEMPT
        self.received.append(call)

    async def post(self, data=b'{"task_id": "1"}', path=None, method="POST", **more):
        url = f"http://127.0.0.1:{self.port}{path or f'/hook/{self.secret}'}"
        async with self.session.request(method, url, data=data, **more) as answer:
            return answer.status

    async def raw(self, *pieces):
        """What comes back, until the other side closes, when these bytes are sent as they are."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


@asynccontextmanager
async def serving(seconds=10.0, public_url="https://example.org/hook"):
    port = free_port()
    with CallbackEndpoint(public_url, "127.0.0.1", port) as endpoint:
        async with aiohttp.ClientSession() as session:
            calls = Calls(endpoint, port, session)
            async with open_callback_server(endpoint.sockets, addresses_of(endpoint), calls.receive, seconds=seconds):
                yield calls


# --- the endpoint -----------------------------------------------------------------------------------------


def test_an_address_names_its_attempt_wherever_a_proxy_leads_and_whatever_the_public_address_is():
    made = []
    for public in ("https://example.org", "https://example.org/", "https://example.org/a/b/", "http://h:1/a?key=x"):
        addresses = CallbackAddresses(public_url=public, local_url="http://127.0.0.1:1/hook", secret=new_secret())
        for attempt in (ATTEMPT, ""):
            made.append(url := addresses.of(attempt))
            name = url.partition("?")[0].rpartition("/")[2]
            assert url.startswith(public.partition("?")[0].rstrip("/") + "/")
            assert addresses.external_id_of(f"/{name}") == attempt
            assert addresses.external_id_of(f"/proxied/elsewhere/{name}/?x=1") == attempt
            for wrong in (f"/{name}0", f"/{name[:-1]}", f"/x?{name}", "/", "/\udcff\u1234", f"/{name.upper()}"):
                assert addresses.external_id_of(wrong) is None
            assert addresses.of(attempt, local=True) == f"http://127.0.0.1:1/hook/{name}"
        assert addresses.secret not in repr(addresses)
    assert made[-1].endswith("?key=x")
    assert len({url.partition("?")[0].rpartition("/")[2] for url in made}) == 8


def test_who_knows_the_addresses_of_some_attempts_cannot_make_another():
    addresses = CallbackAddresses(public_url="https://h/hook", local_url="", secret=new_secret())
    one, two = (addresses.of(f"{ATTEMPT[:-1]}{number}").rpartition("/")[2] for number in (1, 2))
    code = one.rpartition(".")[2]
    forged = [
        f"{ATTEMPT[:-1]}2.{code}",
        f"{ATTEMPT[:-1]}12.{code}",
        f"{one}.{code}",
        code,
        f".{code}",
        f"{two}/../{one}x",
    ]
    assert [addresses.external_id_of(f"/hook/{name}") for name in forged] == [None] * len(forged)
    other = CallbackAddresses(public_url="https://h/hook", local_url="", secret=new_secret())
    assert other.external_id_of(f"/hook/{one}") is None
    assert (
        redact(f"see https://h/hook/{one}, and {ATTEMPT}.png") == f"see https://h/hook/{ATTEMPT}.***, and {ATTEMPT}.png"
    )


@pytest.mark.parametrize(
    ("host", "reached"),
    [("0.0.0.0", "127.0.0.1"), ("*", "127.0.0.1"), ("127.0.0.2", "127.0.0.2"), ("::1", "[::1]"), ("::", "[::1]")],  # noqa: S104
)
def test_this_machine_reaches_what_listens_wherever_that_is(host, reached):
    port = free_port()
    with CallbackEndpoint("https://example.org/hook", host, port) as endpoint:
        assert endpoint.local_url == f"http://{reached}:{port}/hook"


@pytest.mark.parametrize(
    ("host", "said"),
    [("192.0.2.1", "no such address"), ("no-such-host.invalid", "not found"), ("a..b", "not found")],
)
def test_a_host_that_is_not_ours_is_a_sentence(host, said):
    with pytest.raises(CommandError, match=said) as caught:
        CallbackEndpoint("https://example.org", host, free_port())
    assert str(caught.value).endswith(".")


def test_a_port_that_is_the_system_s_is_a_sentence(monkeypatch):
    def refused(*_words, **_more):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(endpoint_module.socket, "create_server", refused)  # in a container every port may be anybody's
    with pytest.raises(CommandError, match="below 1024"):
        CallbackEndpoint("https://example.org", "127.0.0.1", 443)


def test_a_port_in_use_is_a_sentence_and_one_that_was_given_back_is_free():
    port = free_port()
    with (
        CallbackEndpoint("https://example.org", "127.0.0.1", port),
        pytest.raises(CommandError, match=f"{port}.* in use"),
    ):
        CallbackEndpoint("https://example.org", "127.0.0.1", port)
    with CallbackEndpoint("https://example.org", "localhost", port) as endpoint:
        assert endpoint.sockets


# --- what is answered ---------------------------------------------------------------------------------------


async def test_a_json_object_at_the_secret_path_is_received_and_nothing_else_is():
    async with serving() as calls:
        assert await calls.post() == 200
        assert await calls.post(b'{"code": 0, "data": {"task_id": 7}}', path=f"/{calls.secret}") == 200
        assert len(calls.received) == 2
        assert await calls.post(path="/hook/guess") == 404
        assert await calls.post(path="/") == 404
        for method in ("GET", "PUT", "DELETE", "OPTIONS"):
            assert await calls.post(method=method) == 405
            assert await calls.post(method=method, path="/hook/guess") == 404
        for body in (b"", b"{", b"[]", b"7", b"null", b"\xff\xfe{}", b"[" * 100_000, b'{"a":' + b"9" * 6000 + b"}"):
            assert await calls.post(body) == 400, body[:20]
        assert await calls.post(gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"}) == 400
        assert len(calls.received) == 2


async def test_a_body_that_is_too_large_is_refused_however_it_comes():
    async def in_pieces():
        for _ in range(2 * LARGEST_BODY // 1000):
            yield b" " * 1000

    async with serving() as calls:
        body = json.dumps({"task_id": "1", "more": "x" * (LARGEST_BODY - 40)}).encode()
        assert len(body) < LARGEST_BODY
        assert await calls.post(body) == 200
        assert await calls.post(body + b" " * 1000) == 413
        assert await calls.post(in_pieces()) == 413
        head = f"POST /{calls.secret} HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n"
        assert b" 413 " in await calls.raw(head.encode())
        assert len(calls.received) == 1


async def test_a_sender_that_asks_before_it_sends_is_told_to():
    async with serving() as calls:
        assert await calls.post(expect100=True) == 200


async def test_each_connection_serves_one_request():
    async with serving() as calls:
        one = f"POST /{calls.secret} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        assert (await calls.raw(one * 3)).count(b"HTTP/1.1 200") == 1
        assert len(calls.received) == 1


# --- what anybody can hold --------------------------------------------------------------------------------


async def test_a_slow_sender_is_cut_wherever_it_stops():
    async with serving(seconds=0.3) as calls:
        head = f"POST /{calls.secret} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n"
        for sent in (b"", b"PO", head.encode(), f"{head}\r\n{{".encode()):
            assert b"200" not in await calls.raw(sent)
        assert calls.received == []
        assert await calls.post() == 200


async def test_garbage_is_answered_or_cut_and_leaves_no_word_in_any_log(caplog, capfd):
    async with serving(seconds=0.3) as calls:
        for sent in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xff" * 300 + b"\r\n\r\n",
            b"\r\n\r\n\r\n",
            b"POST\r\n\r\n",
            f"POST /{calls.secret} HTTP/9.9\r\n\r\n".encode(),
            f"POST /{calls.secret} HTTP/1.1\r\nContent-Length: -1\r\n\r\n".encode(),
            f"POST /{calls.secret} HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n".encode(),
            f"POST /{calls.secret} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n".encode(),
            f"POST /{calls.secret} HTTP/1.1\r\nX: {'y' * 100_000}\r\n\r\n".encode(),
            b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        ):
            assert b"200 OK" not in await calls.raw(sent)
        assert calls.received == []
        assert await calls.post() == 200
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


async def test_connections_are_bounded_and_who_comes_later_is_let_in_when_one_ends():
    async with serving(seconds=1.0) as calls:
        idle = [await asyncio.open_connection("127.0.0.1", calls.port) for _ in range(MOST_CONNECTIONS)]
        post = asyncio.ensure_future(calls.post())
        for reader, writer in idle:
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        assert await post == 200
        assert await calls.post() == 200


BURST = """
import asyncio, resource, socket, struct, sys
from batchgen.callbacks.addresses import CallbackAddresses
from batchgen.callbacks.endpoint import CallbackEndpoint
from batchgen.callbacks.server import open_callback_server

async def heard(attempt, call):
    print("heard", call)

allowed, port = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

async def main():
    with CallbackEndpoint("https://example.org/hook", "127.0.0.1", port) as endpoint:
        addresses = CallbackAddresses(public_url=endpoint.public_url, local_url=endpoint.local_url, secret="s")
        async with open_callback_server(endpoint.sockets, addresses, heard, seconds=0.5):
            print(addresses.of("").rpartition("/")[2], flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            open("/dev/null").close()  # there are file descriptors left

asyncio.run(main())
"""


@pytest.mark.parametrize("allowed", [48, 4096])
@pytest.mark.parametrize("how", ["idle", "half a call", "cut"])
def test_a_burst_of_connects_is_quiet_and_leaves_file_descriptors_and_calls_alone(allowed, how):
    port = free_port()
    run = subprocess.Popen(
        [sys.executable, "-c", BURST, str(allowed), str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    secret = run.stdout.readline().strip()
    lines = [socket.socket() for _ in range(300)]
    for line in lines:
        line.settimeout(0)
        line.connect_ex(("127.0.0.1", port))
    for line in lines if how != "idle" else ():
        with suppress(OSError):
            line.send(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n{")
        if how == "cut":
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            line.close()
    if how != "cut":
        assert select.select(lines[:1], [], [], 30)[0], "the first was never cut"
    for line in lines:
        line.close()
    call = Request(f"http://127.0.0.1:{port}/{secret}", data=b'{"task_id": "1"}')
    with urlopen(call, timeout=60) as answer:  # noqa: S310
        assert answer.status == 200
    received, errors = run.communicate("\n", timeout=30)
    assert (received, errors, run.returncode) == ("heard {'task_id': '1'}\n", "", 0)


async def test_the_handler_of_a_callback_may_fail_and_the_server_stays_open():
    port = free_port()

    errors = [KeyError("a provider of somebody's own"), RunStopped("the disk is full"), KeyError()]

    async def stumble(_attempt, _call):
        raise errors.pop(0)

    with CallbackEndpoint("https://example.org", "127.0.0.1", port) as endpoint:
        addresses = addresses_of(endpoint)
        async with (
            open_callback_server(endpoint.sockets, addresses, stumble),
            aiohttp.ClientSession() as session,
        ):
            for status in (500, 503, 500):
                async with session.post(addresses.of(ATTEMPT, local=True), data=b"{}") as answer:
                    assert answer.status == status


async def test_it_closes_while_a_sender_is_slow_and_releases_its_port():
    async with serving() as calls:
        _, writer = await asyncio.open_connection("127.0.0.1", calls.port)
        writer.write(f"POST /{calls.secret} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{{".encode())
        await writer.drain()
        port = calls.port
    writer.close()
    with CallbackEndpoint("https://example.org", "127.0.0.1", port):
        pass


# --- how reliable it is ---------------------------------------------------------------------------------------


def test_a_false_callback_brings_a_query_ever_more_rarely():
    running, now, queries = running_task(), 0.0, 0
    while now < 600.0:  # somebody says without a pause that it has ended
        now = max(now, running.quiet_until) + 0.001
        running.called_at = now
        running.reject_callback(now)
        assert running.called_at is None
        queries += 1
    assert queries < 20
    assert running.quiet_until - now <= 60.0


def running_task():
    return RunningTask(task_id="1", external_id="", kind=("", "", 1, False), units=1, since=0.0, due=0.0, end=None)


def test_callbacks_are_relied_on_when_they_have_come_in_time_for_a_while_and_not_when_they_stop():
    calls = CallbackReliability()
    states = []
    for _ in range(20):
        calls.confirmed()
        states.append(calls.is_reliable)
    assert (states[0], states[-1]) == (False, True)
    for _ in range(3):
        calls.failed()
    assert not calls.is_reliable
    for number in range(100):
        (calls.confirmed if number % 2 else calls.failed)()
        assert not calls.is_reliable


def test_a_callback_that_comes_soon_after_the_answer_is_in_time_and_one_that_comes_later_is_not():
    for lag, reliable in ((1.0, True), (3.0, False)):
        calls = CallbackReliability()
        for number in range(20):
            calls.ended_without(str(number), 10.0 * number)
            calls.came_after_end(str(number), 10.0 * number + lag)
        assert calls.is_reliable is reliable
        assert len(calls.awaited) <= 1


def test_callbacks_for_unknown_tasks_are_worth_nothing():
    calls = CallbackReliability()
    for number in range(1000):
        calls.came_after_end(f"invented {number}", 0.0)
    assert not calls.is_reliable
    assert calls.awaited == {}
