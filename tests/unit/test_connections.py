"""An answer is that of its own request: not a cache's, not one that lay on the connection, not lost in a sleep."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import replace

import pytest
from command import batchgen, prompts, started, wait_for
from jobs_for_tests import job
from raw_server import Line, RawServer, answer
from scripted_gateway import ScriptedGateway

from batchgen.catalog.load import builtin
from batchgen.errors import NotSent, Unclear
from batchgen.http import connections, timeouts
from batchgen.http.client import Answer, HttpClient
from batchgen.http.timeouts import request_timeout
from batchgen.providers import responses
from batchgen.providers.base import Secrets
from batchgen.providers.kling import KlingProvider
from batchgen.providers.openai import OpenAIProvider

TASK = b'{"code":0,"data":{"task_id":"T%d","task_status":"submitted"}}'
MADE = b'{"created":1,"data":[{"url":"http://127.0.0.1:1/a.png"}]}'


def account(name, origin, **changes):
    return replace(builtin().accounts[name], base_url=origin, **changes)


async def body_of(client, url, **more):
    return (await client.send("GET", url, headers={}, **more)).body


# --- bytes that came before a request ---------------------------------------------------------------


@pytest.mark.parametrize("is_read", [True, False], ids=["read", "unread in the socket"])
async def test_an_answer_that_came_unasked_on_an_idle_connection_is_nobody_s(is_read):
    idle, came = threading.Event(), threading.Event()

    def serve(line: Line):
        while line.request():
            line.say(answer(b"own %d" % line.number))
            if line.number == 1:
                idle.wait()
                line.say(answer(b"another request's"))
                came.set()

    with RawServer(serve) as server:
        async with HttpClient(1) as client:
            assert await body_of(client, server.origin) == b"own 1"
            idle.set()
            if is_read:
                await asyncio.to_thread(came.wait)
                await asyncio.sleep(0.05)
            else:
                came.wait()  # the event loop stands still meanwhile
            for _ in range(3):
                assert await body_of(client, server.origin) == b"own 2"


async def test_a_new_connection_that_answers_before_it_is_asked_is_believed_nothing_and_nothing_is_sent():
    received, spoke = [], threading.Event()

    def serve(line: Line):
        line.say(answer(TASK % 1))
        spoke.set()
        received.append(line.request())

    with RawServer(serve) as server:
        async with HttpClient(1) as client:
            hold = connections.GatewayConnector._create_connection

            async def slowly(self, *words):  # so that the bytes are there in time
                made = await hold(self, *words)
                await asyncio.to_thread(spoke.wait)
                return made

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(connections.GatewayConnector, "_create_connection", slowly)
                with pytest.raises(NotSent, match="before a request"):
                    await client.send("POST", server.origin, headers={}, body=b"{}", new_connection=True)
    assert received in ([], [b""])


async def test_a_connection_from_before_the_machine_was_suspended_is_not_used_again(monkeypatch):
    def serve(line: Line):
        while line.request():
            line.say(answer(b"%d" % line.number))

    with RawServer(serve) as server:
        async with HttpClient(1) as client:
            assert [await body_of(client, server.origin) for _ in range(2)] == [b"1", b"1"]
            monkeypatch.setattr(connections, "seconds_asleep", lambda: timeouts.seconds_asleep() + 3600)
            assert [await body_of(client, server.origin) for _ in range(2)] == [b"2", b"2"]


# --- which connections are kept -------------------------------------------------------------------------------


def test_a_connection_is_dropped_before_uvicorn_and_node_drop_it():
    assert connections.KEPT_ALIVE_SECONDS < 5


async def test_a_connection_that_is_older_than_what_servers_keep_is_not_used(monkeypatch):
    """A server that closes what was idle for a while, just as the next request arrives: nobody knows whether it did."""
    monkeypatch.setattr(connections, "KEPT_ALIVE_SECONDS", 0.01)

    def serve(line: Line):
        if line.request():
            line.say(answer(b"%d" % line.number))
        line.request()  # whatever comes later is never answered

    with RawServer(serve) as server:
        async with HttpClient(1) as client:
            for number in (1, 2, 3):
                assert await body_of(client, server.origin) == b"%d" % number
                await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("kind", "name", "changes", "yes", "fresh"),
    [
        (OpenAIProvider, "openai", {}, MADE, True),
        (KlingProvider, "anyapi", {}, TASK % 1, True),
        (KlingProvider, "kapon", {}, TASK % 1, False),
    ],
)
async def test_each_create_has_its_own_connection_where_nobody_can_be_asked(kind, name, changes, yes, fresh):
    """A server that ends each idle connection without a word, as the next request is on its way."""
    kept = {"first": True}

    def serve(line: Line):
        while line.request():
            line.say(answer(yes))
            if kept.pop("first", False):
                line.request()
                return

    with RawServer(serve) as server:
        async with HttpClient(1) as client:
            keys = Secrets(dict.fromkeys(account(name, "").key_variables, "a-key"))
            provider = kind(account(name, server.origin, **changes), client, keys)
            wanted = job(model=provider.account.models[0], aspect_ratio="1:1")
            await provider.create(wanted, "bg-1")
            if fresh:
                await provider.create(wanted, "bg-2")
            else:
                with pytest.raises(Unclear):
                    await provider.create(wanted, "bg-2")
    assert server.connections == 1 + fresh


# --- caches ---------------------------------------------------------------------------------------------------


def test_every_question_says_that_no_cache_is_to_answer_it(tmp_path):
    with ScriptedGateway() as gateway:
        path = written(tmp_path, gateway)
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        questions = gateway.of("query") + gateway.of("list")
        assert questions
        assert {call.request.headers.get("Cache-Control") for call in questions} == {"no-cache"}
        assert {call.request.headers.get("Pragma") for call in questions} == {"no-cache"}


def test_a_cached_not_found_pays_for_nothing_twice(tmp_path):
    """A cache in between that keeps each 404 to a query, unless the request forbids it."""
    kept = {}

    def through_a_cache(call):
        if "no-cache" not in call.request.headers.get("Cache-Control", ""):
            kept.setdefault(call.name, call.task)
            if kept[call.name] is None:
                return call.gateway.no(404, 1203)
        return None

    def lost(call):
        if call.number > 1:
            return None
        call.store_after(1.2)
        return call.cut()

    with ScriptedGateway() as gateway:
        gateway.answers |= {"create": lost, "query": through_a_cache}
        path = written(tmp_path, gateway, visibility_delay=4)
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        assert set(gateway.billed_by_job().values()) == {1}


# --- a process that was stopped -------------------------------------------------------------------------------


def written(folder, gateway, jobs=1, **more):
    own = {"use": "kapon", "base_url": gateway.base_url, "api_key_env": "SANDBOX_KEY", **more}
    path = folder / "manifest.yaml"
    path.write_text(
        f"version: 1\nname: tried\nprovider: local\nproviders: {json.dumps({'local': own})}\n{prompts(jobs)}",
        encoding="utf-8",
    )
    return path


async def test_what_has_arrived_while_the_loop_stood_still_counts_although_the_time_is_over():
    asked = threading.Event()

    def serve(line: Line):
        while line.request():
            asked.set()
            line.say(answer(b"x" * 3_000_000))

    with RawServer(serve) as server:
        async with HttpClient(1) as client:
            loop = asyncio.get_running_loop()
            now, late = loop.time, 0.0
            loop.time = lambda: now() + late  # the clock leaps, as it does over a SIGSTOP
            question = asyncio.ensure_future(body_of(client, server.origin, answer_timeout=1.0))
            await asyncio.to_thread(asked.wait)
            late = 3600.0
            assert len(await question) == 3_000_000


def test_creates_whose_answers_came_while_the_run_was_stopped_are_all_kept(tmp_path):
    """SIGSTOP until long after every time-out, then SIGCONT, at an account that nobody can be asked about."""
    with ScriptedGateway() as gateway:
        release = threading.Event()

        async def held(call):
            if call.number == 1:  # until one is accepted, few are sent to such an account
                return None
            task = call.store()
            await asyncio.to_thread(release.wait)
            return call.gateway.yes({"task_id": task.id, "task_status": "submitted"})

        gateway.answers["create"] = held
        lists = {"lookup_by_external_id": "no", "lists_tasks": "no"}
        path = written(tmp_path, gateway, 4, request_timeout=1, **lists)
        run = started("run", path, cwd=tmp_path)
        try:
            wait_for(lambda: gateway.count("create") == 4)
            os.kill(run.pid, signal.SIGSTOP)
        finally:
            release.set()
        stopped = time.monotonic()
        wait_for(lambda: time.monotonic() > stopped + 3.5)  # three time-outs of one second
        os.kill(run.pid, signal.SIGCONT)
        _, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors
        assert gateway.count("create") == 4


async def test_without_a_sleep_a_time_out_comes_when_it_is_due():
    def serve(line: Line):
        line.request()
        line.request()

    with RawServer(serve) as server:
        async with HttpClient(1) as client:
            began = time.monotonic()
            with pytest.raises(Unclear, match="did not answer in time"):
                await body_of(client, server.origin, answer_timeout=0.2)
            assert time.monotonic() - began < 8


async def test_the_grace_period_begins_again_where_the_process_was_stopped_within_it(monkeypatch):
    monkeypatch.setattr(timeouts, "_GRACE_SECONDS", 0.05)
    loop = asyncio.get_running_loop()
    graces = []
    monkeypatch.setattr(
        timeouts.RequestTimeout,
        "_grace_ends",
        lambda self, due, real=timeouts.RequestTimeout._grace_ends: (graces.append(due), real(self, due)),
    )

    async def asked():
        async with request_timeout(0.01):
            loop.call_later(0.02, time.sleep, 0.5)  # as if stopped
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await asked()
    assert len(graces) == 2


# --- bombs ----------------------------------------------------------------------------------------------------

BOMB = """
import asyncio, resource, sys
from batchgen.http.client import HttpClient
from batchgen.errors import Unclear
from batchgen.providers import responses

async def main():
    async with HttpClient(1) as client:
        answer = await client.send("GET", sys.argv[1], headers={})
        print("read as", responses.json_of(answer))

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    asyncio.run(main())
except Unclear as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


LISTS = b"[" + b"[]," * 10_000_000 + b"[]]"  # 30 MB, and 640 MB as objects


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(LISTS, 9)),
        ("gzip", gzip.compress(b"[", 9) + gzip.compress(b"[]," * 500_000, 9) * 20 + gzip.compress(b"[]]", 9)),
        ("deflate", zlib.compress(LISTS, 9)),
        ("br", b"\x1b" * 1000),
        ("zstd", b"\x28\xb5\x2f\xfd" * 1000),
        ("gzip, gzip", gzip.compress(LISTS, 9)),
        ("", b"[" + b"[]," * 2_500_000 + b"[]]"),
        ("", b'[{"a":"' + b'"},{"a":"'.join([b"x"] * 700_000) + b'"}]'),
        ("", b"[" * 7_000_000),
        ("", b'{"a":' * 1_500_000),
    ],
    ids=["gzip", "gzips", "deflate", "br", "zstd", "twice", "lists", "objects", "deep-lists", "deep-objects"],
)
def test_a_bomb_of_an_answer_costs_no_more_memory_than_an_answer(coding, body):
    def serve(line: Line):
        while line.request():
            line.say(answer(body, **({"Content_Encoding": coding} if coding else {})))

    with RawServer(serve) as server:
        done = subprocess.run([sys.executable, "-c", BOMB, server.origin], capture_output=True, text=True, check=True)
    said, grown = done.stdout.splitlines()
    assert "not read" in said or said == "read as None", said
    assert int(grown) < 90, f"{grown} MB"


async def test_a_packed_answer_that_is_small_enough_is_read():
    def serve(line: Line):
        while line.request():
            line.say(answer(gzip.compress(b'{"a": ') + gzip.compress(b"1}"), Content_Encoding="gzip"))

    with RawServer(serve) as server:
        async with HttpClient(1) as client:
            assert await body_of(client, server.origin) == b'{"a": 1}'


def test_a_long_list_of_tasks_with_many_commas_in_their_texts_is_read():
    tasks = [{"task_id": str(i), "prompt": 'a, b\\", [c], {d}: ' * 100} for i in range(500)]
    body = json.dumps({"code": 0, "data": tasks}).encode()
    assert responses.json_of(Answer(status=200, headers={}, body=body))["data"] == tasks
