"""Runs that are called back: the real command, and a sandbox in a process of its own that calls it or lies to it."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from called_back import addresses, callback, free_port
from command import KEY, batchgen, billed_by_job, manifest, prompts, started, wait_for
from output_checks import check_invariant
from sandbox_server import SandboxServer

QUICK = ("--emulate", "kapon", "--latency", "0.4", "--latency-sigma", "0.4", "--blank-images")


def asked(gateway):
    requests = gateway.usage(tasks=False)["requests"]
    return sum(sum(requests.get(kind, {}).values()) for kind in ("query", "list"))


def check_all_done(folder, gateway, images, done):
    assert done.returncode == 0, done.stderr
    assert len(check_invariant(folder / "outputs" / "tried")) == images
    assert set(billed_by_job(gateway).values()) == {1}
    assert len(billed_by_job(gateway)) == images
    check_no_secret(folder, gateway, done)


def check_no_secret(folder, gateway, done):
    """Neither the streams nor any file that the run left holds a secret part of an address."""
    found = {urlsplit(address).path.rpartition(".")[2] for address in addresses(gateway).values()} - {""}
    assert found
    streams = (done.stdout + done.stderr).encode()
    files = [path.read_bytes() for path in (folder / "outputs").rglob("*") if path.is_file()]
    assert files
    for secret in found:
        assert len(secret) >= 32
        assert not [text for text in (streams, *files) if secret.encode() in text]


def test_every_create_names_an_address_of_its_own_and_all_is_made_once(tmp_path):
    with SandboxServer(*QUICK) as gateway:
        path = manifest(tmp_path, gateway, prompts(12, callback(free_port())), concurrency=6)
        done = batchgen("run", path, cwd=tmp_path)
        check_all_done(tmp_path, gateway, 12, done)
        assert len(set(addresses(gateway).values())) == 12
        assert all("/hook/bg-" in address for address in addresses(gateway).values())
        assert "callback" not in done.stderr
        first = addresses(gateway)
        path.write_text(path.read_text(encoding="utf-8").replace("number 0", "number zero"), encoding="utf-8")
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        assert len(set(addresses(gateway).values())) == 13
        assert first.items() <= addresses(gateway).items()


@pytest.mark.parametrize("lists", ["--lists", "--no-lists"])
def test_calls_save_queries(tmp_path, lists):
    numbers = {}
    for name, more in (("without", ""), ("with", callback(free_port()))):
        folder = tmp_path / name
        folder.mkdir()
        options = ("--latency", "0.9", "--latency-sigma", "0.5", "--emulate", "kapon", "--blank-images", lists)
        with SandboxServer(*options) as gateway:
            done = batchgen("run", manifest(folder, gateway, prompts(32, more), concurrency=8), cwd=folder)
            assert done.returncode == 0, done.stderr
            assert len(billed_by_job(gateway)) == len(check_invariant(folder / "outputs" / "tried")) == 32
            numbers[name] = asked(gateway)
    assert numbers["with"] < 0.75 * numbers["without"]


def test_calls_come_through_a_proxy_that_cuts_the_path_and_when_it_fails_the_usual_queries_are_back(tmp_path):
    port, passed = free_port(), []
    works = threading.Event()
    works.set()

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = 502
            if works.is_set() and self.path.startswith("/outer/hook/"):
                passed.append(status := post(f"http://127.0.0.1:{port}/{self.path.rpartition('/')[2]}", body))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *words):
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    address = f"callback: {{public_url: http://127.0.0.1:{proxy.server_port}/outer/hook, listen: 127.0.0.1:{port}}}\n"
    with SandboxServer(
        "--emulate", "kapon", "--latency", "0.6", "--latency-sigma", "0.4", "--blank-images", "--no-lists"
    ) as gateway:
        run = started("run", manifest(tmp_path, gateway, prompts(60, address), concurrency=6), cwd=tmp_path)
        wait_for(lambda: gateway.usage(tasks=False)["creates_accepted"] >= 30)
        works.clear()
        before = asked(gateway)
        out, errors = run.communicate(timeout=60)
        proxy.shutdown()
        proxy.server_close()
        check_all_done(tmp_path, gateway, 60, subprocess.CompletedProcess([], run.returncode, out, errors))
        assert set(passed) == {200}
        assert "No callback arrived" not in errors
        assert asked(gateway) - before > 1.8 * 30


def test_where_every_call_is_lost_everything_is_there_all_the_same_and_it_is_said(tmp_path):
    with SandboxServer(*QUICK, "--faults", "callback_lost=1") as gateway:
        path = manifest(tmp_path, gateway, prompts(15, callback(free_port())), concurrency=6)
        done = batchgen("run", path, cwd=tmp_path)
        check_all_done(tmp_path, gateway, 15, done)
        assert "No callback arrived" in done.stderr


@pytest.mark.parametrize(
    "faults",
    [
        "callback_twice=0.3,callback_late=0.3,callback_disorder=0.3,callback_forged=0.3,callback_false=0.3,fail=0.1",
        "callback_false=1,fail=0.1",
        "callback_late=1",
        "callback_false=0.4,drop_after=0.1,query_drop=0.1,query_too_fast=0.05",
    ],
)
def test_bad_calls_do_no_harm(tmp_path, faults):
    with SandboxServer(*QUICK, "--faults", faults) as gateway:
        path = manifest(tmp_path, gateway, prompts(30, callback(free_port())), concurrency=8)
        done = batchgen("run", path, cwd=tmp_path)
        check_all_done(tmp_path, gateway, 30, done)
        injected = gateway.usage()["faults"]
        assert sum(number for name, number in injected.items() if name.startswith("callback_")) > 20


def test_a_flood_of_forged_calls_by_one_who_knows_all_is_no_flood_of_queries(tmp_path):
    """Somebody learnt the address and every task's id, and says of each, as fast as it goes, that it has ended."""
    end = threading.Event()
    sent = []

    def forge(gateway):
        while not end.is_set():
            for task, address in addresses(gateway).items():
                for status in ("succeed", "failed", "succeed"):
                    body = {"task_id": task, "task_status": status, "task_result": {"images": [{"url": "http://x/"}]}}
                    sent.append(post(address, json.dumps(body).encode()))

    with SandboxServer("--emulate", "kapon", "--latency", "4", "--blank-images", "--no-lists") as gateway:
        path = manifest(tmp_path, gateway, prompts(4, callback(free_port())), concurrency=4)
        forger = threading.Thread(target=forge, args=(gateway,))
        forger.start()
        try:
            done = batchgen("run", path, cwd=tmp_path)
        finally:
            end.set()
            forger.join()
        check_all_done(tmp_path, gateway, 4, done)
        accepted = sum(status == 200 for status in sent)
        assert accepted > 200
        assert asked(gateway) < 4 * 25


def post(url, body, **headers):
    """The status of the answer, or what happened instead."""
    try:
        with urlopen(Request(url, data=body, headers=headers, method="POST"), timeout=10) as answer:  # noqa: S310
            return answer.status
    except HTTPError as error:
        return error.code
    except OSError as error:
        return type(error).__name__


def test_other_callers_get_nothing_and_harm_nothing(tmp_path):
    with SandboxServer("--emulate", "kapon", "--latency", "3", "--blank-images") as gateway:
        port = free_port()
        path = manifest(tmp_path, gateway, prompts(4, callback(port)), concurrency=4)
        run = started("run", path, cwd=tmp_path)
        wait_for(lambda: addresses(gateway))
        address = next(iter(addresses(gateway).values()))
        slow = socket.create_connection(("127.0.0.1", port))
        slow.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        garbage = socket.create_connection(("127.0.0.1", port))
        garbage.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xff" * 300 + b"\r\n\r\n")
        assert post(f"http://127.0.0.1:{port}/hook/guess", b"{}") == 404
        assert post(address, b"{") == 400
        assert post(address, b'{"task_id": {"odd": [1]}, "task_status": 7, "data": "no"}') == 200
        assert post(address, b'{"task_id": 12345, "task_status": "succeed"}') == 200
        assert post(address, b'{"code": 0, "data": {"task_id": "unknown", "task_status": "failed"}}') == 200
        _, errors = run.communicate(timeout=60)
        slow.close()
        garbage.close()
        assert run.returncode == 0, errors
        assert len(check_invariant(tmp_path / "outputs" / "tried")) == 4
        assert "Traceback" not in errors
        assert "rror" not in errors


def test_a_port_in_use_is_a_sentence_before_anything_is_sent_or_written(tmp_path, gateway):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        path = manifest(tmp_path, gateway, prompts(2, callback(taken.getsockname()[1])))
        done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 2
    assert "callback.listen" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "outputs").exists()
    assert gateway.usage()["creates_accepted"] == 0


def test_a_second_run_of_the_same_output_still_leaves_with_4(tmp_path):
    with SandboxServer("--emulate", "kapon", "--latency", "6", "--blank-images") as gateway:
        path = manifest(tmp_path, gateway, prompts(3, callback(free_port())))
        run = started("run", path, cwd=tmp_path)
        wait_for(lambda: addresses(gateway))
        second = batchgen("run", path, cwd=tmp_path)
        _, errors = run.communicate(timeout=60)
    assert (run.returncode, second.returncode) == (0, 4), errors
    assert "Another run of" in second.stderr


def test_a_rehearsal_is_called_on_this_machine_wherever_the_public_address_leads(tmp_path):
    path = tmp_path / "manifest.yaml"
    text = f"callback: {{public_url: https://example.invalid/hook, listen: 0.0.0.0:{free_port()}}}\n"
    path.write_text(f"version: 1\nname: tried\nprovider: kapon\n{prompts(4, text)}", encoding="utf-8")
    done = batchgen("run", path, "--provider", "sandbox", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "No callback arrived" not in done.stderr
    output = tmp_path / "outputs" / "tried-sandbox"
    assert len(check_invariant(output)) == 4
    journal = (output / ".sandbox.jsonl").read_text(encoding="utf-8")
    assert len(journal.splitlines()) == 4
    assert "callback" not in journal


def test_an_account_that_knows_no_callbacks_is_run_without_and_it_is_said(tmp_path, gateway):
    port = free_port()
    fields = "fields: [model, prompt, n, resolution, aspect_ratio, external_task_id], "
    path = manifest(tmp_path, gateway, prompts(2, callback(port)))
    path.write_text(path.read_text("utf-8").replace("visibility_delay", f"{fields}visibility_delay"), encoding="utf-8")
    validated = batchgen("validate", path, cwd=tmp_path)
    assert validated.returncode == 0
    assert "callback_url" in validated.stderr
    with socket.create_server(("127.0.0.1", port)):  # nothing is listened for
        done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "callback_url" in done.stderr
    assert set(addresses(gateway).values()) == {""}


def test_a_gateway_that_repeats_the_address_in_a_refusal_does_not_make_it_known(tmp_path):
    from scripted_gateway import ScriptedGateway

    with ScriptedGateway() as gateway:
        named = []

        def refuse(call):
            named.append(call.body["callback_url"])
            return gateway.no(400, 1201, f"callback_url {call.body['callback_url']} is not reachable")

        gateway.answers["create"] = refuse
        path = manifest(tmp_path, gateway, prompts(1, callback(free_port())))
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 1
        secret = named[0].rpartition(".")[2].encode()
        output = tmp_path / "outputs" / "tried"
        assert "is not reachable" in (output / "failures.csv").read_text(encoding="utf-8")
        files = [file.read_bytes() for file in output.rglob("*") if file.is_file()]
        assert not [text for text in ((done.stdout + done.stderr).encode(), *files) if secret in text]
        assert KEY["SANDBOX_KEY"] not in done.stderr
