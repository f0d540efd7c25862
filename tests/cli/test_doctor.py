"""`batchgen doctor`: what can be known of an account before anything is paid."""

from __future__ import annotations

import json
import os
import shutil
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from functools import partial

import pytest
from command import batchgen, prompts
from sandbox_server import SandboxServer
from scripted_gateway import ScriptedGateway

from batchgen.errors import NameNotFound, NotSent, ProxyFailed, RequestBlocked, TlsFailed
from batchgen.http.client import GetOnlyClient, HttpClient

KEY = "sk-a-key-that-nobody-may-see"
SECRET = "a-secret-key-that-nobody-may-see-either"
LINES = ("--blank-images", "--latency", "0")


def accounts(folder, **providers):
    """A manifest in the first of these accounts' name; each is a mapping as `providers` has it."""
    path = folder / "m.yaml"
    written = {"version": 1, "name": "tried", "provider": next(iter(providers)), "providers": providers}
    path.write_text("\n".join(f"{key}: {json.dumps(value)}" for key, value in written.items()) + f"\n{prompts(1)}")
    return path


def examined(folder, *words, env=(), **providers):
    """The exit code, and of each account its checks by name."""
    path = accounts(folder, **providers)
    before = sorted(folder.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-m", "batchgen", "doctor", path, "--json", *words],
        cwd=folder,
        env=os.environ | dict(env or {"K": KEY}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert sorted(folder.rglob("*")) == before
    assert KEY not in done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert done.stderr == ""
    data = json.loads(done.stdout)
    found = {one["account"]: {check["check"]: check for check in one["checks"]} for one in data["accounts"]}
    assert all(one["ok"] == (verdicts(found[one["account"]]).count("problem") == 0) for one in data["accounts"])
    return done.returncode, found


def verdicts(checks):
    return [check["verdict"] for check in checks.values()]


def said(check):
    return f"{check['text']} {check['advice']}"


def created(gateway):
    return gateway.usage(tasks=False)["requests"].get("create")


def kapon(gateway, **more):
    return {"use": "kapon", "base_url": gateway.base_url, "api_key_env": "K", **more}


# --- all is well --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["kapon", "anyapi", "kling", "openai"])
def test_an_account_that_keeps_its_profile_is_ready_and_nothing_is_created(tmp_path, profile):
    keys = {"K": KEY, "A": "access-key", "S": SECRET}
    access = ("--jwt-env", "A", "S") if profile == "kling" else ("--api-key-env", "K")
    with SandboxServer("--emulate", profile, *access, *LINES, env=keys) as gateway:
        named = {"access_key_env": "A", "secret_key_env": "S"} if profile == "kling" else {"api_key_env": "K"}
        account = {"use": profile, "base_url": gateway.base_url, **named}
        code, found = examined(tmp_path, env=keys, mine=account)
        assert code == 0, found
        names = [name for name in found["mine"] if name != "time-out"]
        assert names == ["key", "proxy", "host", "auth", "list", "find", "clock", "latency"]
        assert ("time-out" in found["mine"]) is (profile == "openai")
        assert "accepted" in found["mine"]["auth"]["text"]
        assert found["mine"]["find"]["verdict"] == ("note" if profile in {"anyapi", "openai"} else "ok")
        assert created(gateway) is None


def test_the_sandbox_in_the_process_is_examined_like_any_other_account(tmp_path):
    code, found = examined(tmp_path, "--provider", "sandbox", mine={"use": "kapon"})
    assert (code, list(found)) == (0, ["sandbox"])
    assert set(verdicts(found["sandbox"])) == {"ok"}


def test_in_words_each_account_is_a_block_and_each_check_a_line(tmp_path, gateway):
    path = accounts(tmp_path, local=kapon(gateway, api_key_env="SANDBOX_KEY"), second={"use": "sandbox"})
    done = batchgen("doctor", path, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"local ({gateway.base_url})"
    assert lines[-1] == "All 2 accounts are ready to run."
    assert sum(line.startswith("  ok       ") for line in lines) == 16
    assert not (tmp_path / "outputs").exists()


def test_a_task_of_the_list_shows_that_it_is_found_by_the_id_that_it_was_sent_with(tmp_path, gateway):
    path = accounts(tmp_path, local=kapon(gateway, api_key_env="SANDBOX_KEY", visibility_delay=2))
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    before = created(gateway)
    code, found = examined(tmp_path, local=kapon(gateway))
    assert code == 0
    assert "found by the id that it was sent with" in found["local"]["find"]["text"]
    assert created(gateway) == before


# --- keys ---------------------------------------------------------------------------------------------------


def test_a_missing_key_is_a_finding_and_the_others_are_still_examined(tmp_path, gateway):
    absent = kapon(gateway, api_key_env="BATCHGEN_TEST_NO_SUCH_KEY")
    code, found = examined(tmp_path, first=absent, second=kapon(gateway))
    assert code == 1
    assert "BATCHGEN_TEST_NO_SUCH_KEY" in found["first"]["key"]["text"]
    assert found["first"]["host"]["verdict"] == "ok"
    assert "auth" not in found["first"]
    assert "problem" not in verdicts(found["second"])
    code, found = examined(tmp_path, "--provider", "second", first=absent, second=kapon(gateway))
    assert (code, list(found)) == (0, ["second"])


@pytest.mark.parametrize("use", ["kapon", "kling"])
def test_a_wrong_key_is_a_problem_of_access(tmp_path, use):
    keys = {"K": "another-key", "A": "access-key", "S": SECRET, "GOOD": KEY, "OTHER": f"{SECRET}-changed"}
    access = ("--jwt-env", "A", "OTHER") if use == "kling" else ("--api-key-env", "GOOD")
    with SandboxServer("--emulate", use, *access, *LINES, env=keys) as gateway:
        named = {"access_key_env": "A", "secret_key_env": "S"} if use == "kling" else {"api_key_env": "K"}
        code, found = examined(tmp_path, env=keys, mine={"use": use, "base_url": gateway.base_url, **named})
        assert code == 1
        assert found["mine"]["auth"]["verdict"] == "problem"
        assert "401 1000" in found["mine"]["auth"]["text"]
        assert "Check the account's key" in found["mine"]["auth"]["text"]
        assert found["mine"]["clock"]["verdict"] == "ok"
        assert created(gateway) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "set K"),
        ("  ", "set K"),
        (f'"{KEY}"', "quotation marks"),
        (f"Bearer {KEY}", "Bearer"),
        ("sk two words", "contains a space"),
        ("sk-one\nsk-two", "line break"),
    ],
)
def test_a_value_that_was_pasted_wrong_is_said_without_being_shown(tmp_path, gateway, value, words):
    code, found = examined(tmp_path, env={"K": value}, mine=kapon(gateway))
    assert code == 1
    assert found["mine"]["key"]["verdict"] == "problem"
    assert words in said(found["mine"]["key"])


def test_a_key_with_a_line_break_ends_a_run_before_anything_is_sent(tmp_path, gateway, monkeypatch):
    monkeypatch.setenv("K", "sk-one\nsk-two")
    done = batchgen("run", accounts(tmp_path, mine=kapon(gateway)), cwd=tmp_path)
    assert (done.returncode, "K holds a line break" in done.stderr) == (2, True)
    assert "sk-one" not in done.stderr


def test_a_gateway_that_answers_without_a_key_too_shows_nothing_about_the_key(tmp_path):
    with SandboxServer("--emulate", "sandbox", *LINES) as gateway:
        code, found = examined(tmp_path, mine=kapon(gateway))
        assert (code, found["mine"]["auth"]["verdict"]) == (0, "note")
        assert "without a key too" in found["mine"]["auth"]["text"]


def test_an_echoed_key_is_not_shown(tmp_path):
    with ScriptedGateway() as gateway:
        gateway.answers["list"] = lambda call: call.gateway.no(401, 1000, call.request.headers["Authorization"])
        code, found = examined(tmp_path, mine=kapon(gateway))
        assert (code, found["mine"]["auth"]["verdict"]) == (1, "problem")


# --- the clock ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "clock", "words"),
    [
        (1200, "problem", "20 min ahead of"),
        (-7200, "problem", "2 h 0 min behind"),
        (300, "note", "5 min ahead of"),
        (-180, "note", "3 min behind"),
    ],
)
def test_a_skewed_clock_is_measured_and_named_and_tokens_are_dated_by_the_gateways(tmp_path, shift, clock, words):
    keys = {"A": "access-key", "S": SECRET}
    with SandboxServer("--emulate", "kling", "--jwt-env", "A", "S", *LINES, env=keys) as gateway:
        account = {"use": "kling", "base_url": gateway.base_url, "access_key_env": "A", "secret_key_env": "S"}
        code, found = examined(tmp_path, env=keys | shifted(tmp_path, shift), mine=account)
    assert code == int(clock == "problem")
    assert found["mine"]["clock"]["verdict"] == clock
    assert words in found["mine"]["clock"]["text"]
    assert found["mine"]["auth"]["verdict"] == "ok"


def test_with_a_key_a_clock_may_differ_as_long_as_recovery_finds_what_was_lost(tmp_path, gateway):
    for shift, verdict in ((300, "note"), (1200, "problem")):
        code, found = examined(tmp_path, env={"K": KEY} | shifted(tmp_path, shift), mine=kapon(gateway))
        assert (found["mine"]["auth"]["verdict"], found["mine"]["clock"]["verdict"]) == ("ok", verdict)
        assert code == int(verdict == "problem")


def shifted(folder, seconds):
    """Environment in which Python's clock is so far ahead."""
    site = folder.parent / f"{folder.name}-clock"
    site.mkdir(exist_ok=True)
    text = f"import time\nreal = time.time\ntime.time = lambda: real() + {seconds}\n"
    (site / "sitecustomize.py").write_text(text, encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])}


# --- what is not there, or is something else -----------------------------------------------------------------


@contextmanager
def answering(reply, context=None):
    """A server that says the same to whoever asks, or nothing until they leave; gives its port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            with suppress(OSError):
                while self.request.recv(65536) and reply is None:
                    pass
                self.request.sendall(reply or b"")

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, *_request):
            """A client that leaves in the middle of a handshake is what is tested."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.02))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def page(status, words="Not Found", more=""):
    text = f"<html><h1>{words}</h1></html>"
    head = f"HTTP/1.1 {status} {words}\r\nContent-Type: text/html\r\nContent-Length: {len(text)}\r\n{more}"
    return f"{head}Connection: close\r\n\r\n{text}".encode()


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://no-such-host.invalid/kling", "its name is not found"),
        ("http://127.0.0.1:{free}/kling", "Connection refused"),
    ],
)
def test_a_host_that_is_not_there_is_said(tmp_path, url, words):
    url = url.format(free=free_port())
    code, found = examined(tmp_path, mine={"use": "kapon", "base_url": url, "api_key_env": "K"})
    assert (code, list(found["mine"])) == (1, ["key", "proxy", "host"])
    assert words in found["mine"]["host"]["text"]
    assert "base_url" in found["mine"]["host"]["advice"]


def test_tls_on_a_plain_port_is_said(tmp_path, gateway):
    url = gateway.base_url.replace("http:", "https:")
    code, found = examined(tmp_path, mine={"use": "kapon", "base_url": url, "api_key_env": "K"})
    assert (code, found["mine"]["host"]["verdict"]) == (1, "problem")
    assert "http" in found["mine"]["host"]["advice"]


def test_a_host_that_never_answers_is_given_up_after_the_patience(tmp_path):
    with answering(None) as port:
        account = {"use": "kapon", "base_url": f"http://127.0.0.1:{port}/kling", "api_key_env": "K"}
        code, found = examined(tmp_path, "--timeout", "0.2", mine=account)
    assert (code, found["mine"]["host"]["verdict"]) == (1, "problem")
    assert "within 0.2 s" in found["mine"]["host"]["text"]


def test_an_api_that_hangs_behind_a_host_that_answers_is_told_apart(tmp_path):
    with SandboxServer("--emulate", "kapon", "--faults", "query_hang=1", *LINES) as gateway:
        code, found = examined(tmp_path, "--timeout", "0.3", mine=kapon(gateway))
    assert code == 1
    assert (found["mine"]["host"]["verdict"], found["mine"]["auth"]["verdict"]) == ("ok", "problem")


def test_a_base_url_without_the_api_is_said_with_those_that_are_known(tmp_path):
    for reply in (page(404), page(200, "Welcome"), page(301, "Moved", "Location: https://example.org/\r\n")):
        with answering(reply) as port:
            account = {"use": "kapon", "base_url": f"http://127.0.0.1:{port}/kling", "api_key_env": "K"}
            code, found = examined(tmp_path, mine=account)
        assert (code, found["mine"]["auth"]["verdict"]) == (1, "problem")
        assert "base_url" in said(found["mine"]["auth"])
        assert ("https://models.kapon.cloud/kling" in said(found["mine"]["auth"])) == (b"404" in reply)
        assert found["mine"]["clock"]["verdict"] == "note"


def test_an_unknown_path_of_the_gateway_itself_is_no_accepted_key(tmp_path, gateway):
    code, found = examined(tmp_path, mine=kapon(gateway, base_url=f"{gateway.base_url}/v9"))
    assert (code, found["mine"]["auth"]["verdict"]) == (1, "problem")
    assert "base_url" in found["mine"]["auth"]["text"]


def test_a_404_that_only_who_has_a_key_gets_is_an_accepted_key(tmp_path):
    """Gateways that give no code of the API's: without a key the answer is 401, so the key made the difference."""

    def bare(call):
        has_key = "Authorization" in call.request.headers
        return call.gateway.no(404 if has_key else 401, "", "no such task")

    with ScriptedGateway() as gateway:
        gateway.answers |= {"list": bare, "query": bare}
        code, found = examined(tmp_path, mine=kapon(gateway))
        assert (code, found["mine"]["auth"]["verdict"]) == (0, "ok")


def test_an_empty_account_is_said_with_what_to_do(tmp_path):
    with ScriptedGateway() as gateway:
        gateway.answers["list"] = lambda call: call.gateway.no(429, 1102, "resource pack used up")
        code, found = examined(tmp_path, mine=kapon(gateway))
        assert code == 1
        assert "buy one" in found["mine"]["auth"]["text"]


def test_a_proxy_in_force_is_named_without_its_password(tmp_path, gateway):
    env = {
        "K": KEY,
        "http_proxy": f"http://me:{SECRET.split(maxsplit=1)[0]}-password@127.0.0.1:{free_port()}",
        "no_proxy": "",
    }
    code, found = examined(tmp_path, env=env, mine=kapon(gateway) | {"base_url": "http://gateway.example/kling"})
    assert code == 1
    assert "127.0.0.1" in found["mine"]["proxy"]["text"]
    assert "password" not in json.dumps(found)
    assert "proxy" in found["mine"]["host"]["text"]
    assert "no_proxy" in found["mine"]["host"]["advice"]


# --- profiles that do not hold -------------------------------------------------------------------------------


def test_a_list_that_the_profile_promises_and_the_gateway_has_not_is_a_contradiction(tmp_path):
    with SandboxServer("--emulate", "kapon", "--no-lists", *LINES) as gateway:
        code, found = examined(tmp_path, mine=kapon(gateway, lists_tasks="yes"))
        assert (code, found["mine"]["auth"]["verdict"], found["mine"]["list"]["verdict"]) == (1, "ok", "problem")
        assert found["mine"]["list"]["advice"] == 'Set `lists_tasks: "no"` under providers.mine.'
        for says in ("try", "no"):
            code, found = examined(tmp_path, mine=kapon(gateway, lists_tasks=says))
            assert (code, found["mine"]["list"]["verdict"]) == (0, "ok")


@pytest.mark.parametrize(("says", "verdict"), [("yes", "problem"), ("try", "note")])
def test_a_gateway_that_does_not_find_what_it_lists_would_be_paid_twice_and_is_said(tmp_path, says, verdict):
    with SandboxServer("--emulate", "kling", "--no-lookup-by-external-id", *LINES) as gateway:
        account = kapon(gateway, api_key_env="SANDBOX_KEY", visibility_delay=2)
        assert batchgen("run", accounts(tmp_path, local=account), cwd=tmp_path).returncode == 0
        code, found = examined(tmp_path, local=kapon(gateway, lookup_by_external_id=says))
        assert (code, found["local"]["find"]["verdict"]) == (int(verdict == "problem"), verdict)


def test_a_task_for_an_id_that_nobody_has_is_a_contradiction(tmp_path):
    with ScriptedGateway() as gateway:
        gateway.answers["query"] = lambda call: call.gateway.yes({"task_id": "T7", "task_status": "succeed"})
        code, found = examined(tmp_path, mine=kapon(gateway))
        assert (code, found["mine"]["find"]["verdict"]) == (1, "problem")
        assert 'lookup_by_external_id: "no"' in found["mine"]["find"]["advice"]


def test_a_list_that_the_profile_denies_is_noted_when_it_has_tasks(tmp_path, gateway):
    path = accounts(tmp_path, local=kapon(gateway, api_key_env="SANDBOX_KEY", visibility_delay=2))
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    code, found = examined(tmp_path, local=kapon(gateway, lists_tasks="no"))
    assert (code, found["local"]["list"]["verdict"]) == (0, "note")


# --- plugins ------------------------------------------------------------------------------------------------

PLUGIN = """
from batchgen.errors import TaskNotFound
from batchgen.providers.base import Provider

class Other(Provider):
    async def create(self, job, external_id): raise AssertionError
    async def query(self, task_id): raise TaskNotFound("it keeps no tasks")
    async def probe(self): {probe}
"""
GET = 'await self.client.send("GET", self.account.base_url + "/v1/images/generations", headers={"Authorization": "x"})'


@pytest.mark.parametrize(
    ("probe", "verdict", "words"),
    [
        (GET, "ok", "accepted"),
        ('await self.client.send("POST", self.account.base_url, headers={}, body=b"{}")', "note", "POST"),
        ("raise NotImplementedError", "note", "no free question"),
    ],
)
def test_a_provider_that_can_neither_list_nor_query_has_a_question_of_its_own(tmp_path, probe, verdict, words):
    plugin = tmp_path.parent / f"{tmp_path.name}-plugin"
    (plugin / "other-1.dist-info").mkdir(parents=True)
    (plugin / "other.py").write_text(PLUGIN.format(probe=probe), encoding="utf-8")
    (plugin / "other-1.dist-info" / "METADATA").write_text("Name: other\nVersion: 1\n", encoding="utf-8")
    entry = "[batchgen.providers]\nother = other:Other\n"
    (plugin / "other-1.dist-info" / "entry_points.txt").write_text(entry, encoding="utf-8")
    with ScriptedGateway() as gateway:
        gateway.answers["list"] = lambda call: (
            call.gateway.yes([]) if "Authorization" in call.request.headers else call.gateway.no(401, 1001)
        )
        account = kapon(gateway, protocol="other", lists_tasks="no", lookup_by_external_id="no")
        code, found = examined(tmp_path, env={"K": KEY, "PYTHONPATH": str(plugin)}, mine=account)
        assert (code, found["mine"]["auth"]["verdict"]) == (0, verdict)
        assert words in found["mine"]["auth"]["text"]
        assert gateway.count("create") == 0


def test_a_package_that_is_not_installed_is_a_finding(tmp_path, gateway):
    code, found = examined(tmp_path, mine=kapon(gateway, protocol="nowhere"))
    assert code == 1
    assert "nowhere" in found["mine"]["key"]["text"]


# --- the command and the client --------------------------------------------------------------------------------


def test_a_wrong_manifest_or_option_is_2_and_nobody_is_asked(tmp_path, gateway):
    path = accounts(tmp_path, mine=kapon(gateway))
    assert batchgen("doctor", tmp_path / "none.yaml", cwd=tmp_path).returncode == 2
    unknown = batchgen("doctor", path, "--provider", "nosuch", cwd=tmp_path)
    assert (unknown.returncode, "nosuch" in unknown.stderr) == (2, True)
    assert batchgen("doctor", path, "--timeout", "0", cwd=tmp_path).returncode == 2
    path.write_text("version: 1\n", encoding="utf-8")
    assert batchgen("doctor", path, cwd=tmp_path).returncode == 2
    assert gateway.usage(tasks=False)["requests"] == {}


async def test_the_client_of_an_examination_sends_no_create(gateway):
    async with GetOnlyClient(1) as client:
        for method, body in (("POST", b"{}"), ("PUT", None), ("DELETE", None), ("GET", b"{}")):
            with pytest.raises(RequestBlocked):
                await client.send(method, f"{gateway.base_url}/v1/images/generations", headers={}, body=body)
        assert client.exchanges == []
    assert gateway.usage(tasks=False)["requests"] == {}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="a certificate of its own is made with openssl")
async def test_the_client_says_why_a_host_is_not_reached(tmp_path, monkeypatch):
    made = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out own.pem -days 2 -subj /CN=localhost"
    subprocess.run(made.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "own.pem", tmp_path / "key.pem")
    with answering(b"", context) as port, answering(page(403, "Forbidden")) as proxy:
        reasons = {
            f"https://127.0.0.1:{port}/": TlsFailed,
            "http://no-such-host.invalid/": NameNotFound,
            f"http://127.0.0.1:{free_port()}/": NotSent,
        }
        async with HttpClient(1) as client:
            for url, reason in reasons.items():
                with pytest.raises(NotSent) as caught:
                    await client.send("GET", url, headers={})
                assert type(caught.value) is reason
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy}")
            with pytest.raises(ProxyFailed, match="403"):
                await client.send("GET", "https://example.org/", headers={})
