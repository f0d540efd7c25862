"""Our keys reach no file, no log and no message, however a gateway, a proxy or a foreign exception spells them."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
from urllib.parse import quote

import pytest
from command import KEY, batchgen, prompts
from hypothesis import given
from hypothesis import strategies as st
from raw_server import Line, RawServer, answer

from batchgen.errors import Unclear
from batchgen.jobs import ImageLink
from batchgen.ledger.events import Accepted, Ended, Made, redacted
from batchgen.redaction import Redactor, redact

SECRET = "sk+a/key=that&nobody~may<see>\\twice\"'é"
WAYS = {
    "as it is": lambda key: key,
    "JSON": lambda key: json.dumps(key)[1:-1],
    "JSON, every sign": lambda key: "".join(f"\\u{ord(c):04X}" for c in key),
    "JSON in JSON": lambda key: json.dumps(json.dumps(key))[1:-1],
    "JSON in JSON, every sign": lambda key: "".join(f"\\\\u{ord(c):04x}" for c in key),
    "JSON, slashes too": lambda key: json.dumps(key)[1:-1].replace("/", "\\/"),
    "URL": lambda key: quote(key, safe=""),
    "URL, every sign": lambda key: "".join(f"%{byte:02x}" for byte in key.encode()),
    "URL twice": lambda key: quote(quote(key, safe=""), safe=""),
    "repr of bytes": lambda key: repr(key.encode())[2:-1],
    "repr of text": lambda key: ascii(key)[1:-1],
    "HTML": lambda key: key.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;"),
    "HTML, decimal": lambda key: "".join(f"&#{ord(c)};" for c in key),
    "HTML, hexadecimal": lambda key: "".join(f"&#x{ord(c):X};" for c in key),
    "UTF-16 read as UTF-8": "\0".join,
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 after a user": lambda key: base64.b64encode(b"user:" + key.encode()).decode(),
    "base64 in a longer text": lambda key: base64.b64encode(b"{'k': '" + key.encode() + b"'}").decode(),
    "base64 for URLs": lambda key: base64.urlsafe_b64encode(key.encode()).decode(),
    "base64 in a URL": lambda key: quote(base64.b64encode(key.encode()).decode(), safe=""),
}


def redactor(*secrets):
    made = Redactor()
    made.add(secrets)
    return made


@pytest.mark.parametrize("way", WAYS)
def test_a_key_is_known_in_every_spelling(way):
    spelt = WAYS[way](SECRET)
    said = redactor(SECRET)(f"refused: Bearer {spelt}!")
    assert said.startswith("refused: Bearer ")
    around = 26 if "base64" in way else 8  # of base64 what stands before and after the key stays
    assert len(said) < len("refused: Bearer !") + around, said
    assert spelt[24:32] not in said


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=["Cs", "Cc"]), min_size=8),
    st.data(),
)
def test_each_sign_may_be_spelt_in_a_way_of_its_own(key, data):
    ways = [WAYS[name] for name in ("as it is", "JSON, every sign", "URL, every sign", "HTML, hexadecimal")]
    spelt = "".join(data.draw(st.sampled_from(ways))(sign) for sign in key)
    assert redactor(key)(f"<{spelt}>") == "<***>"


SPELT = ["as it is", "JSON", "JSON, every sign", "HTML, hexadecimal"]


@pytest.mark.parametrize("before", ["", "a key of which "])
@pytest.mark.parametrize("after", ["", "n", "\\"])
@pytest.mark.parametrize("ways", [*itertools.product(SPELT, repeat=2)], ids="/".join)
def test_a_backslash_in_a_key_leaves_the_next_sign_its_own(before, after, ways):
    spelt = "".join(WAYS[way](sign) for way, sign in zip(ways, "\\ċ", strict=True))
    assert redactor(f"{before}12345678\\ċ{after}")(f"<{before}12345678{spelt}{after}>") == "<***>"


@pytest.mark.parametrize("kept", [12, 20, len(SECRET) - 1])
@pytest.mark.parametrize("way", ["as it is", "URL, every sign", "JSON, every sign"])
def test_a_key_that_was_cut_off_is_known_by_its_beginning(way, kept):
    assert redactor(SECRET)(f"at {WAYS[way](SECRET[:kept])} …") == "at *** …"


def test_words_that_hold_no_key_stay_as_they_are_and_short_ones_are_no_keys():
    words = "100 % of \\n & more: test, sk+a/key 8\u00e9 日本語 \U0001f600"
    assert redactor(SECRET, "test")(words) == words


def test_a_token_is_taken_out_of_words_and_left_in_a_link():
    token = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJhbiBhY2Nlc3Mga2V5In0.c2lnbmF0dXJl"
    link = f"https://images.example/a.png?token={token}"
    assert redactor()(f"not Bearer {token}.") == "not Bearer ***."
    made = Made(job_id="j", attempt=1, links=(ImageLink(index=0, url=link),), cost=None, at=0)
    assert redacted(made) == made


def test_what_no_file_can_hold_is_replaced():
    assert redactor()("a\udcffb\ud83dc\0d") == "a?b?cd"
    assert str(Unclear("a\udcffb")) == "a?b"


def test_no_event_carries_a_key_into_the_ledger_and_an_image_in_a_link_stays_as_it_is():
    redact.add([SECRET])
    spelt = quote(SECRET, safe="")
    inline = "data:image/png;base64," + base64.b64encode(SECRET.encode()).decode()
    links = (ImageLink(index=0, url=f"https://h/{spelt}", watermark_url=f"https://h/{spelt}"),)
    images = (ImageLink(index=0, url=inline, watermark_url=inline),)
    events = [
        Ended(job_id="j", attempt=1, status="failed", outcome=None, at=0, code=spelt, message=spelt, head=spelt),
        Accepted(job_id="j", attempt=1, task_id=f"T{spelt}", at=0),
        Made(job_id="j", attempt=1, links=links, cost=None, at=0),
    ]
    for event in events:
        assert spelt not in repr(redacted(event))
        assert "***" in repr(redacted(event))
    whole = Made(job_id="j", attempt=1, links=images, cost=None, at=0)
    assert redacted(whole) == whole


# --- the real command, at servers that echo what they got -------------------------------------------------------

OWN = "own+key/of-the==tests"
ECHOES = {
    "a header line without a colon": lambda key: f"HTTP/1.1 400 Bad\r\nBearer {key}\r\n\r\n".encode(),
    "a header name": lambda key: f"HTTP/1.1 400 Bad\r\nX {key}: y\r\n\r\n".encode(),
    "a chunk size": lambda key: f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{key}\r\n\r\n".encode(),
    "a status line": lambda key: f"HTTP/1.1 {key}\r\n\r\n".encode(),
    "no HTTP": lambda key: f"Bearer {key}\r\n\r\n".encode(),
    "a reason phrase": lambda key: answer(b"<html>", f"500 {key}"),
    "a content length": lambda key: f"HTTP/1.1 200 OK\r\nContent-Length: {key}\r\n\r\n".encode(),
    "a coding": lambda key: answer(b"{}", Content_Encoding=key),
    "escapes in JSON": lambda key: answer(_refused("".join(f"\\u{ord(c):04x}" for c in key)), "400 Bad"),
    "percent signs in JSON": lambda key: answer(_refused(quote(key, safe="")), "400 Bad"),
    "base64 in JSON": lambda key: answer(_refused(base64.b64encode(key.encode()).decode()), "400 Bad"),
    "a code": lambda key: answer(b'{"code": "%s", "message": "no"}' % key.encode(), "400 Bad"),
    "a page that is cut in the key": lambda key: answer(b"x" * 480 + key.encode(), "502 Bad"),
}


def _refused(words):
    return b'{"code": 1201, "message": "not %s"}' % words.encode()


@pytest.mark.parametrize("echo", ECHOES)
def test_a_key_that_is_echoed_is_in_no_file_and_in_no_message(tmp_path, echo, monkeypatch):
    monkeypatch.setitem(KEY, "SANDBOX_KEY", OWN)

    def serve(line: Line):
        while request := line.request():
            assert OWN.encode() in request
            line.say(ECHOES[echo](OWN))
            line.close()

    with RawServer(serve) as server:
        own = {"use": "anyapi", "base_url": server.origin, "api_key_env": "SANDBOX_KEY"}
        path = tmp_path / "manifest.yaml"
        path.write_text(
            f"version: 1\nname: tried\nprovider: local\nrun: {{max_attempts: 1, give_up_after: 1s}}\n"
            f"providers: {json.dumps({'local': own})}\n{prompts(1)}",
            encoding="utf-8",
        )
        done = batchgen("run", path, "--json", "--summary", "runs.jsonl", cwd=tmp_path)
        assert "Traceback" not in done.stderr
        assert done.returncode in {1, 3}, done.stderr
        shown = done.stdout + done.stderr + batchgen("plan", path, "--detailed", cwd=tmp_path).stdout
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()).decode("latin-1")
    for spelling in (OWN, *(way(OWN) for way in WAYS.values()), OWN[:14]):
        assert spelling not in shown + kept, spelling
    shutil.rmtree(tmp_path)
