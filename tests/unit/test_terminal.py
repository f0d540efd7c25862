"""What is shown steers no terminal, whoever wrote it: gateways, files, the command line."""

from __future__ import annotations

import json
import re

import pytest
from command import KEY, batchgen, manifest, prompts
from scripted_gateway import ScriptedGateway

from batchgen.cli.terminal import cut, harmless

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\u2066\u200f\r\x7f"
STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]")


def evil_gateway():
    gateway = ScriptedGateway()
    gateway.answers["create"] = lambda call: (
        call.gateway.no(400, 1301, f"not this {EVIL}") if "0" in call.body["prompt"] else None
    )
    return gateway


def checked(done):
    shown = done.stdout + done.stderr
    assert STEERS.findall(shown) == [], shown
    assert "Traceback" not in shown
    return done


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_no_command_shows_what_a_gateway_says_raw(tmp_path, form):
    with evil_gateway() as gateway:
        path = manifest(tmp_path, gateway, prompts(2))
        checked(batchgen("run", path, *form, cwd=tmp_path))
        checked(batchgen("run", path, "--log-format", "json", *form, cwd=tmp_path))
        checked(batchgen("plan", path, "--detailed", *form, cwd=tmp_path))
        checked(batchgen("status", path, *form, cwd=tmp_path))
        gateway.answers["list"] = lambda call: call.gateway.no(401, 1000, f"no {EVIL}")
        gateway.answers["query"] = gateway.answers["list"]
        checked(batchgen("audit", path, *form, cwd=tmp_path))
        checked(batchgen("doctor", path, *form, cwd=tmp_path))


def test_json_holds_exactly_what_was_said(tmp_path):
    with evil_gateway() as gateway:
        path = manifest(tmp_path, gateway, prompts(1))
        batchgen("run", path, cwd=tmp_path)
        done = checked(batchgen("plan", path, "--json", "--detailed", cwd=tmp_path))
        (job,) = json.loads(done.stdout)["listed"]
    assert "\x1b]0;owned\x07" in job["message"]
    assert "\u202egnp" in job["message"]


@pytest.mark.parametrize(
    "words",
    [
        ["run", f"none{EVIL}.yaml"],
        ["run", b"none\xff\x1b[2J.yaml"],
        ["plan", "m.yaml", f"--unheard-of={EVIL}"],
        ["run", "m.yaml", "--deadline", EVIL],
        [EVIL],
        ["plan", "m.yaml", "--only", f"model={EVIL}"],
        ["status", "m.yaml", "--provider", EVIL],
    ],
    ids=str,
)
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_the_command_line_is_echoed_without_what_steers(tmp_path, gateway, words, form):
    import os
    import subprocess
    import sys

    manifest(tmp_path, gateway, prompts(1)).rename(tmp_path / "m.yaml")
    command = [sys.executable, "-m", "batchgen", *words, *form]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, env=os.environ | KEY)
    shown = done.stdout.decode("utf-8") + done.stderr.decode("utf-8")
    assert done.returncode == 2, shown
    assert STEERS.findall(shown) == []
    if form:
        assert json.loads(done.stdout)["exit_code"] == 2


def test_a_manifest_and_a_table_are_quoted_without_what_steers(tmp_path):
    (tmp_path / "m.yaml").write_text(
        "version: 1\nname: x\nprovider: sandbox\nbudgets\u202e: {}\n"
        "matrix:\n  prompt: {from: 'p\u202e.csv', column: z}\n",
        encoding="utf-8",
    )
    (tmp_path / "p\u202e.csv").write_text("a\u202eb,c\n1,2\n", encoding="utf-8")
    assert checked(batchgen("validate", "m.yaml", cwd=tmp_path)).returncode == 2
    assert checked(batchgen("validate", "m.yaml", "--json", cwd=tmp_path)).returncode == 2


def test_a_stream_that_knows_no_umlaut_gets_escapes_and_json_stays_exact(tmp_path):
    import os
    import subprocess
    import sys

    (tmp_path / "m.yaml").write_text(
        "version: 1\nname: x\nprovider: sandbox\nmatrix: {prompt: [Füchse 狐, 🦊]}\n", encoding="utf-8"
    )
    command = [sys.executable, "-m", "batchgen", "plan", "m.yaml", "--detailed", "--json"]
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=True)
    listed = json.loads(done.stdout.decode("ascii"))["listed"]
    assert [job["prompt"] for job in listed] == ["Füchse 狐", "🦊"]


def test_ordinary_text_of_every_script_is_left_alone():
    text = "Füchse 狐 🦊👩‍👩‍👧 فارسی‌ها \tа\nб"
    assert harmless(text) == text


# --- a log in JSON ------------------------------------------------------------------------------------------


def records(done):
    return [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["none.yaml"], 2),
        (["m.yaml", "--deadline", "soon"], 2),
        (["wrong.yaml"], 2),
        (["m.yaml", "--quiet"], 1),
        (["m.yaml"], 1),
    ],
    ids=str,
)
def test_every_line_of_the_log_is_json(tmp_path, words, code):
    chatty = "on_finish: [sh, -c, 'echo told; echo and warned >&2']\nbudget: {max_images: 9}\n"
    with ScriptedGateway() as gateway:
        gateway.answers["create"] = lambda call: call.gateway.no(400, 1301, "not this\nnor that")
        manifest(tmp_path, gateway, prompts(1, chatty)).rename(tmp_path / "m.yaml")
        (tmp_path / "wrong.yaml").write_text("version: 2\nname: x\nproviders: 3\n", encoding="utf-8")
        done = batchgen("run", *words, "--log-format", "json", cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert "error" in {record["level"] for record in records(done)}
    if words[0] == "m.yaml" and code == 1:
        assert [record["on_finish"] for record in records(done) if "on_finish" in record] == ["told", "and warned"]


# --- width ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("fox", 3, "fox"),
        ("foxes", 4, "fox…"),
        ("狐狐", 4, "狐狐"),
        ("狐狐狐", 4, "狐…"),
        ("e\u0301" * 3, 3, "e\u0301" * 3),
        ("one\ntwo", 20, "one two"),
        ("\u202efox", 20, "\\u202efox"),
        ("fox", 1, "…"),
        ("fox", 0, ""),
        ("", 0, ""),
    ],
)
def test_a_text_is_cut_to_the_cells_that_it_takes(text, width, shown):
    assert cut(text, width) == shown
