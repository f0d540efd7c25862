"""plan, run, verify and audit say the same of each state of the tree, before a run and after it."""

from __future__ import annotations

import json
import os

import pytest
from command import batchgen
from output_checks import check_invariant
from scripted_gateway import ScriptedGateway
from scripted_output import files_of, finished, output_of, run, write


@pytest.fixture
def gateway():
    with ScriptedGateway(latency=0) as running:
        yield running


def codes(path):
    """What plan --exit-code, verify and audit say."""
    commands = ("plan", path, "--exit-code"), ("verify", path), ("audit", path, "--offline")
    said = [batchgen(*words, cwd=path.parent) for words in commands]
    assert all("Traceback" not in done.stderr for done in said), [done.stderr for done in said]
    return tuple(done.returncode for done in said)


def ask_for(path, prompts):
    """Change the manifest to ask for the first so many prompts, and run it."""
    head, _, _ = path.read_text(encoding="utf-8").partition("    - prompt")
    lines = "".join(f"    - prompt number {i}\n" for i in range(prompts))
    path.write_text(head + lines, encoding="utf-8")
    finished(path)


def retired(path):
    (file,) = [file for file in (output_of(path) / "retired").rglob("*") if file.is_file()]
    return file


def whole(path, _gateway):
    pass


def missing(path, _gateway):
    files_of(path)[0].unlink()


def edited(path, _gateway):
    files_of(path)[0].write_bytes(b"retouched")


def edited_to_the_same_size(path, _gateway):
    file = files_of(path)[0]
    file.write_bytes(bytes(file.stat().st_size))


def touched(path, _gateway):
    os.utime(files_of(path)[0], (1, 1))


def returned(path, gateway):
    file = files_of(path)[0]
    data = file.read_bytes()
    file.unlink()
    answers = gateway.answers
    answers["query"] = lambda call: call.gateway.no(404, 1203)
    answers["image"] = lambda call: call.gateway.no(404, 1203)
    assert run(path).returncode == 1
    answers.clear()
    file.write_bytes(data)


def retired_only(path, _gateway):
    ask_for(path, 2)


def retired_and_deleted(path, _gateway):
    ask_for(path, 2)
    retired(path).unlink()


def retired_and_deleted_and_run(path, _gateway):
    retired_and_deleted(path, _gateway)
    assert "Nothing to do" in run(path).stdout


def retired_and_edited(path, _gateway):
    ask_for(path, 2)
    retired(path).write_bytes(b"retouched")


def retired_and_edited_and_run(path, _gateway):
    retired_and_edited(path, _gateway)
    finished(path)


FINE, TO_DO = (0, 0, 0), (5, 1, 1)
STATES = {
    whole: FINE,
    missing: TO_DO,
    edited: TO_DO,
    edited_to_the_same_size: TO_DO,
    touched: FINE,
    returned: TO_DO,
    retired_only: FINE,
    retired_and_deleted: FINE,
    retired_and_deleted_and_run: FINE,
    retired_and_edited: FINE,
    retired_and_edited_and_run: FINE,
}


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_the_commands_agree_on_a_state_of_the_tree_and_a_run_mends_it(tmp_path, gateway, state):
    path = write(tmp_path, gateway, 3)
    finished(path)
    state(path, gateway)
    assert codes(path) == STATES[state]
    done = run(path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("Nothing to do" in done.stdout) == (STATES[state] == FINE or state is returned)
    check_invariant(output_of(path))
    assert codes(path) == FINE
    assert gateway.count("create") == 3


@pytest.mark.parametrize("what", ["kept", "deleted", "edited"])
@pytest.mark.parametrize("is_run_between", [False, True])
def test_what_was_retired_comes_back_as_it_was_when_it_is_asked_for_again(tmp_path, gateway, what, is_run_between):
    path = write(tmp_path, gateway, 3)
    before = finished(path)
    ask_for(path, 2)
    if what == "deleted":
        retired(path).unlink()
    elif what == "edited":
        retired(path).write_bytes(b"retouched")
    if is_run_between:
        finished(path)
    manifest = path.read_text(encoding="utf-8") + "    - prompt number 2\n"
    path.write_text(manifest, encoding="utf-8")
    planned = json.loads(batchgen("plan", path, "--json", cwd=tmp_path).stdout)
    assert planned["make"]["jobs"] == 0
    assert planned["resumed"]["jobs"] == (what != "kept")
    assert finished(path) == before
    assert codes(path) == FINE
    assert gateway.count("create") == 3
    if what == "edited":
        assert [file.read_bytes() for file in (output_of(path) / "retired").rglob("*.png")] == [b"retouched"]
