"""A company's proxy: honoured as curl does, or refused by name; this machine itself is never asked through one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from scripted_gateway import ScriptedGateway

from batchgen.catalog.load import builtin
from batchgen.errors import CommandError
from batchgen.http.proxies import passwords, proxy_of
from batchgen.providers.registry import check

PASSWORD = "the-password-of-the-proxy"
NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.fixture
def nowhere():
    """A proxy that refuses all connections and counts them."""
    asked = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.requestline)
            self.send_error(403)

        do_POST = do_CONNECT = do_GET  # noqa: N815 - the names are the library's

        def log_message(self, *_words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.asked = asked
    server.url = f"http://me:{PASSWORD}@127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


def batchgen(*words, cwd, **variables):
    clean = {name: value for name, value in os.environ.items() if name.lower() not in NAMES}
    return subprocess.run(
        [sys.executable, "-m", "batchgen", *map(str, words)],
        cwd=cwd,
        env=clean | {"SANDBOX_KEY": "a-key-for-tests"} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def written(folder, base_url=None):
    path = folder / "manifest.yaml"
    own = {"local": {"use": "kapon", "base_url": base_url, "api_key_env": "SANDBOX_KEY"}}
    account = f"provider: local\nproviders: {json.dumps(own)}" if base_url else "provider: sandbox"
    path.write_text(
        f"version: 1\nname: tried\n{account}\nrun: {{give_up_after: 1s}}\nmatrix: {{prompt: [a fox]}}\n",
        encoding="utf-8",
    )
    return path


# --- whose proxy it is ----------------------------------------------------------------------------------------

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("variables", "url", "proxy"),
    [
        ({}, "https://gateway.example", None),
        ({"https_proxy": PROXY}, "https://gateway.example", PROXY),
        ({"HTTPS_PROXY": PROXY}, "https://gateway.example", PROXY),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other:1"}, "https://gateway.example", PROXY),
        ({"https_proxy": PROXY}, "http://gateway.example", None),
        ({"HTTP_PROXY": PROXY}, "http://gateway.example", PROXY),
        ({"ALL_PROXY": PROXY}, "https://gateway.example", PROXY),
        ({"all_proxy": PROXY}, "http://gateway.example", PROXY),
        ({"ALL_PROXY": "socks5://x:1", "HTTPS_PROXY": PROXY}, "https://gateway.example", PROXY),
        ({"https_proxy": "proxy.example:3128"}, "https://gateway.example", PROXY),
        ({"https_proxy": "https://proxy.example:3128"}, "https://gateway.example", "https://proxy.example:3128"),
        ({"https_proxy": "u:p@proxy.example:3128"}, "https://gateway.example", "http://u:p@proxy.example:3128"),
    ],
)
def test_the_variables_are_read_in_every_spelling(environment, variables, url, proxy):
    for name, value in variables.items():
        environment.setenv(name, value)
    assert proxy_of(url) == proxy


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
@pytest.mark.parametrize(
    ("entries", "url", "left_out"),
    [
        ("*", "https://gateway.example", True),
        ("other.example, *", "https://gateway.example", True),
        ("gateway.example", "https://gateway.example", True),
        ("gateway.example", "https://GATEWAY.example./x", True),
        ("example", "https://gateway.example", True),
        (".example", "https://gateway.example", True),
        ("*.example", "https://gateway.example", True),
        ("way.example", "https://gateway.example", False),
        ("gateway.example:443", "https://gateway.example", True),
        ("gateway.example:8443", "https://gateway.example", False),
        ("gateway.example:8443", "https://gateway.example:8443", True),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.1.2.3", "https://10.1.2.3:8443", True),
        ("10.1.2.3/24", "https://10.1.2.9", True),
        ("fd00::/8", "https://[fd00::1]", True),
        ("[fd00::1]", "https://[fd00::1]:8443", True),
        ("[fd00::1]:443", "https://[fd00::1]", True),
        ("fd00::1", "https://[fd00::1]", True),
        ("10.0.0.0/99", "https://10.1.2.3", False),
        ("", "https://gateway.example", False),
        ("a.example b.example", "https://b.example", True),
    ],
)
def test_hosts_are_left_out_by_name_address_range_and_port(environment, name, entries, url, left_out):
    environment.setenv("ALL_PROXY", PROXY)
    environment.setenv(name, entries)
    assert (proxy_of(url) is None) is left_out


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "[::1]:1", "a.localhost", "127.9.9.9"])
def test_this_machine_is_never_asked_through_a_proxy(environment, host):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        environment.setenv(name, PROXY)
    assert proxy_of(f"http://{host}/kling") is proxy_of(f"https://{host}/kling") is None


@pytest.mark.parametrize(
    "value",
    [
        f"socks5://me:{PASSWORD}@127.0.0.1:1080",
        f"socks5h://me:{PASSWORD}@h:1",
        "socks4://h:1",
        "ftp://h:1",
        f"http://me:{PASSWORD}@",
        f"http://me:{PASSWORD}@h:port",
        f"http://me:{PASSWORD}@[::1",
        "http://:3128",
        f"http://me:{PASSWORD}@h o:1",
    ],
)
@pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"])
def test_what_cannot_be_used_is_refused_by_the_variable_s_name_and_nothing_of_its_value(environment, name, value):
    environment.setenv(name, value)
    with pytest.raises(CommandError) as caught:
        proxy_of("https://gateway.example")
    assert name in str(caught.value)
    assert PASSWORD not in str(caught.value)
    if PASSWORD in value:
        assert any(PASSWORD in each for each in passwords())


# --- the real command -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"])
def test_the_sandbox_in_the_process_is_not_asked_through_a_proxy(tmp_path, nowhere, name):
    done = batchgen("run", written(tmp_path), cwd=tmp_path, **{name: nowhere.url})
    assert done.returncode == 0, done.stderr
    assert nowhere.asked == []


def test_a_gateway_on_this_machine_is_not_asked_through_a_proxy_of_any_kind(tmp_path):
    with ScriptedGateway() as gateway:
        variables = {"ALL_PROXY": "socks5://127.0.0.1:1", "HTTP_PROXY": "socks5://127.0.0.1:1"}
        done = batchgen("run", written(tmp_path, gateway.base_url), cwd=tmp_path, **variables)
        assert done.returncode == 0, done.stderr


def test_a_gateway_that_is_left_out_needs_no_proxy_that_can_be_used(environment):
    environment.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    environment.setenv("NO_PROXY", "192.168.0.0/16")
    environment.setenv("ANYAPI_API_KEY", "a-key-for-tests")
    account = builtin().accounts["anyapi"]
    check(replace(account, base_url="http://192.168.1.5/kling"))
    with pytest.raises(CommandError, match="ALL_PROXY"):
        check(account)


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "https_proxy"])
def test_a_run_that_could_go_only_by_socks_is_refused_before_anything_is_sent_or_written(tmp_path, name):
    path = written(tmp_path, "https://gateway.example/kling")
    done = batchgen("run", path, cwd=tmp_path, **{name: f"socks5://me:{PASSWORD}@127.0.0.1:1"})
    assert done.returncode == 2, done.stderr
    assert f"{name} names a socks5 proxy" in done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    assert not (tmp_path / "outputs").exists()


def test_a_proxy_without_a_scheme_is_used_and_its_password_shown_nowhere(tmp_path, nowhere):
    path = written(tmp_path, "http://gateway.example/kling")
    done = batchgen("run", path, cwd=tmp_path, ALL_PROXY=nowhere.url.removeprefix("http://"))
    assert nowhere.asked
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert PASSWORD not in done.stdout + done.stderr + kept.decode("latin-1")
    assert "Traceback" not in done.stderr


def test_a_proxy_that_wants_a_password_lets_no_job_fail(tmp_path):
    """407 is the proxy's word: nothing has reached the gateway."""
    with ScriptedGateway() as proxy:
        proxy.answers["create"] = lambda call: call.gateway.no(407, 0)
        path = written(tmp_path, "http://gateway.example/kling")
        done = batchgen("run", path, cwd=tmp_path, http_proxy=proxy.host)
        assert done.returncode == 3, done.stderr
        assert "requires a password" in done.stderr
        assert not (tmp_path / "outputs/tried/failures.csv").exists()


def test_doctor_says_which_variable_names_a_proxy_that_cannot_be_used(tmp_path):
    path = written(tmp_path, "https://gateway.example/kling")
    done = batchgen("doctor", path, cwd=tmp_path, ALL_PROXY=f"socks5://me:{PASSWORD}@127.0.0.1:1")
    assert done.returncode == 1
    assert "ALL_PROXY names a socks5 proxy" in done.stdout
    assert PASSWORD not in done.stdout + done.stderr
