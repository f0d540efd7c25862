"""What an account may send besides its key, and what it may not; and which of its words are understood."""

from __future__ import annotations

import json

import pytest
from command import batchgen, prompts
from json_server import JsonHandler, JsonServer
from output_checks import rows_of
from scripted_gateway import ScriptedGateway

from batchgen.http.client import Answer
from batchgen.providers.responses import json_of, message_of


class Server(JsonServer):
    """OpenAI's API, which says no to everything and keeps what it was asked."""

    def __init__(self):
        self.asked = []
        outer = self

        class Handler(JsonHandler):
            def do_POST(self):  # noqa: N802 - the name that http.server calls
                outer.asked.append((dict(self.headers), json.loads(self.body())))
                self.answer(400, {"detail": [{"loc": ["body", "n"], "msg": f"no, {self.headers['X-Token']}"}]})

            def do_GET(self):  # noqa: N802 - the name that http.server calls
                self.answer(200, {"data": []})

        super().__init__(Handler)


def written(tmp_path, url, more, use="openai"):
    path = tmp_path / "m.yaml"
    path.write_text(
        "version: 1\nname: tried\nprovider: own\nproviders:\n"
        f"  own: {{use: {use}, auth: none, base_url: '{url}'{more}}}\n{prompts(1)}",
        encoding="utf-8",
    )
    return path


WISHES = ", models: [m], quality: high, style: natural, background: transparent"
HEADERS = ", headers: {X-Team: art, X-Token: {env: PROXY_TOKEN}}"


def test_an_account_s_own_words_and_headers_are_sent(tmp_path, monkeypatch):
    monkeypatch.setenv("PROXY_TOKEN", "a-secret-of-the-proxy")
    with Server() as server:
        path = written(tmp_path, server.url, WISHES + HEADERS)
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 1, done.stderr
        ((headers, body),) = server.asked
        assert (headers["X-Team"], headers["X-Token"]) == ("art", "a-secret-of-the-proxy")
        assert (body["quality"], body["style"], body["background"]) == ("high", "natural", "transparent")
        doctor = batchgen("doctor", path, cwd=tmp_path)
    (failure,) = rows_of(tmp_path / "outputs" / "tried", "failures.csv")
    assert "body.n: no, ***" in failure["message"]
    assert "proxy_read_timeout 600s" in doctor.stdout
    for file in (tmp_path / "outputs").rglob("*"):
        assert not file.is_file() or b"a-secret-of-the-proxy" not in file.read_bytes()


def test_kling_s_protocol_sends_them_too(tmp_path, monkeypatch):
    monkeypatch.setenv("PROXY_TOKEN", "a-secret-of-the-proxy")
    with ScriptedGateway() as gateway:
        path = written(tmp_path, gateway.base_url, HEADERS, use="kapon")
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        asked = [call.request.headers.get("X-Token") for call in gateway.calls if call.kind != "image"]
        assert set(asked) == {"a-secret-of-the-proxy"}
        assert {call.request.headers.get("X-Token") for call in gateway.of("image")} == {None}


def test_a_header_s_variable_that_is_not_set_is_named(tmp_path):
    done = batchgen("run", written(tmp_path, "http://127.0.0.1:9", HEADERS), cwd=tmp_path)
    assert done.returncode == 2
    assert "PROXY_TOKEN" in done.stderr


def test_a_rehearsal_needs_no_variable_and_takes_the_words(tmp_path):
    path = written(tmp_path, "http://127.0.0.1:9", WISHES + HEADERS)
    done = batchgen("run", path, "--provider", "sandbox", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        (", headers: {Authorization: Bearer my-own-key}", "set by batchgen"),
        (", headers: {authorization: {env: NAME}}", "api_key_env"),
        (", headers: {Host: elsewhere}", "set by batchgen"),
        (", headers: {X-Api-Key: my-own-key}", "env: NAME"),
        (", headers: {'X Team': art}", "not the name of a header"),
        (', headers: {X-Team: "a\\r\\nb"}', ""),
        (", headers: {X-Team: {env: 'no name'}}", ""),
        (", headers: {X-Team: {variable: NAME}}", ""),
        (", quality: 1", "quotes"),
    ],
)
def test_what_may_not_be_sent_is_refused_with_its_place_and_without_the_key(tmp_path, more, hint):
    done = batchgen("validate", written(tmp_path, "http://127.0.0.1:9", more), cwd=tmp_path)
    assert done.returncode == 2
    assert "m.yaml:5:" in done.stderr
    assert hint in done.stderr
    assert "my-own-key" not in done.stdout + done.stderr


def test_quality_is_refused_where_the_protocol_has_none(tmp_path):
    done = batchgen("validate", written(tmp_path, "http://127.0.0.1:9", ", quality: high", use="kapon"), cwd=tmp_path)
    assert done.returncode == 2
    assert "no field `quality`" in done.stderr


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"detail": "Not enough credits"}, "Not enough credits"),
        ({"detail": [{"loc": ["body", "n"], "msg": "too many"}, {"msg": "and bad"}]}, "body.n: too many; and bad"),
        ({"detail": {"error": {"message": "deep"}}}, "deep"),
        ({"errors": ["first", "second"]}, "first; second"),
        ({"errors": {"prompt": ["is too long"]}}, "prompt: is too long"),
        ({"errors": [{"message": "a"}, {"detail": "b"}]}, "a; b"),
        ({"error": "no"}, "no"),
        ({"error": {"message": "no"}}, "no"),
        ({"message": "two\nlines", "detail": "x"}, "two lines"),
        ({"title": "Forbidden", "status": 403}, "Forbidden"),
        ("just words", "just words"),
        (b"upstream connect error", "upstream connect error"),
        (b"<html>no</html>", ""),
        (b"\x00\x01\x02 7", ""),
        (b"word " * 10_000, ""),
        ({"data": {"secret": "x"}}, ""),
        ({"detail": [[[[[["deep"]]]]]]}, ""),
    ],
    ids=str,
)
def test_a_reason_is_read_wherever_a_gateway_puts_it(body, said):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = Answer(status=400, headers={}, body=raw)
    assert message_of(json_of(answer), answer) == said
