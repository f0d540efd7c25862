"""`batchgen status --watch`: beside a real run, until it ends, without being in its way."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from itertools import pairwise

import pytest
from command import accepted_by, batchgen, drawn_on, manifest, prompts, started, wait_for
from sandbox_server import SandboxServer

from batchgen.cli import watch
from batchgen.ledger import lock
from batchgen.ledger.store import Ledger

QUICK = ("--watch", "--interval", "0.05")


def output_of(path):
    return path.parent / "outputs" / "tried"


@pytest.fixture
def slow():
    with SandboxServer("--emulate", "kapon", "--latency", "1.5", "--blank-images") as process:
        yield process


def going(path, gateway, *words):
    """A run that has sent something."""
    run = started("run", path, *words, cwd=path.parent)
    wait_for(lambda: accepted_by(gateway) > 0)
    return run


def ended(process):
    out, errors = process.communicate(timeout=60)
    return process.returncode, out, errors


def test_each_look_is_a_json_line_until_the_run_has_ended(tmp_path, slow):
    path = manifest(tmp_path, slow, prompts(6), concurrency=3)
    run = going(path, slow)
    done = batchgen("status", path, *QUICK, "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    looks = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(str(run.pid) in look["running"] for look in looks[:-1])
    assert (looks[-1]["running"], looks[-1]["jobs"], looks[-1]["images_to_come"]) == (None, {"done": 6}, 0)
    images = [look["images"] for look in looks]
    assert images == sorted(images)
    assert any(look["jobs"].get("submitted") for look in looks)
    assert ended(run)[0] == 0
    assert not list(output_of(path).glob("state.sqlite3-*"))


def test_without_a_terminal_there_is_a_line_for_each_change_and_a_last_sentence(tmp_path, slow):
    path = manifest(tmp_path, slow, prompts(4), concurrency=2)
    run = going(path, slow)
    done = batchgen("status", path, *QUICK, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    *changes, last = done.stdout.splitlines()
    said = [change.partition("  ")[2] for change in changes]
    assert said[-1] == "4 done; 4 images in place, 4 units spent, 0 reserved"
    assert len(said) > 1
    assert all(one != other for one, other in pairwise(said))
    assert last == "The run has ended: nothing is left to do."
    assert ended(run)[0] == 0


def test_on_a_terminal_it_is_drawn_where_it_stood_and_no_line_wraps(tmp_path, slow):
    path = manifest(tmp_path, slow, prompts(4), concurrency=2)
    run = going(path, slow)
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "batchgen", "status", path, *QUICK]
    env = os.environ | {"COLUMNS": "40", "LINES": "24"}
    watching = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=child, stderr=subprocess.PIPE)
    os.close(child)
    drawn = drawn_on(parent)
    assert (watching.wait(30), watching.stderr.read()) == (0, b"")
    watching.stderr.close()
    frames = re.split(r"\x1b\[\d+F\x1b\[J", drawn.decode())
    assert len(frames) > 2
    assert all(len(line) < 40 for frame in frames for line in frame.splitlines())
    backs = [int(number) for number in re.findall(r"\x1b\[(\d+)F", drawn.decode())]
    assert backs == [len(frame.splitlines()) for frame in frames[:-1]]
    assert "The run has ended" in frames[-1]
    assert ended(run)[0] == 0


def test_ctrl_c_ends_the_watch_quietly_and_not_the_run(tmp_path):
    with SandboxServer("--emulate", "kapon", "--latency", "600") as gateway:
        path = manifest(tmp_path, gateway, prompts(2))
        run = going(path, gateway)
        watching = started("status", path, "--watch", cwd=tmp_path)
        assert "submitted" in watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        assert ended(watching) == (130, "", "")
        assert run.poll() is None
        run.kill()
        ended(run)


def test_a_run_that_was_killed_has_ended_and_what_is_left_is_said(tmp_path, slow):
    path = manifest(tmp_path, slow, prompts(5), concurrency=2)
    run = going(path, slow)
    watching = started("status", path, *QUICK, cwd=tmp_path)
    watching.stdout.readline()
    run.kill()
    ended(run)
    code, out, errors = ended(watching)
    assert (code, errors) == (0, "")
    assert "left for the next run." in out.splitlines()[-1]


def test_a_run_with_failures_ends_it_with_1(tmp_path):
    with SandboxServer("--emulate", "kapon", "--latency", "0.5", "--blank-images") as gateway:
        path = manifest(tmp_path, gateway, "matrix: {prompt: [a fox, a forbidden-word]}\n")
        run = going(path, gateway)
        done = batchgen("status", path, *QUICK, "--json", cwd=tmp_path)
        assert (done.returncode, ended(run)[0]) == (1, 1)
        assert json.loads(done.stdout.splitlines()[-1])["jobs"] == {"done": 1, "rejected": 1}


def test_where_no_run_is_going_it_ends_at_once_and_writes_nothing(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(1))
    done = batchgen("status", path, "--watch", cwd=tmp_path)
    assert (done.returncode, "No run is going" in done.stdout) == (0, True)
    assert not (tmp_path / "outputs").exists()
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    before = {file: file.stat().st_mtime_ns for file in output_of(path).rglob("*")}
    done = batchgen("status", path, "--watch", cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "No run is going: nothing is left to do.")
    assert {file: file.stat().st_mtime_ns for file in output_of(path).rglob("*")} == before


def test_a_run_ends_whole_under_eyes_that_never_close(tmp_path):
    with SandboxServer("--emulate", "kapon", "--latency", "0.05", "--blank-images") as gateway:
        path = manifest(tmp_path, gateway, prompts(150))
        run = going(path, gateway)
        eyes = [started("status", path, "--watch", "--interval", "0.001", "--json", cwd=tmp_path) for _ in range(2)]
        assert ended(run)[0] == 0
        for eye in eyes:
            code, out, errors = ended(eye)
            assert (code, errors, json.loads(out.splitlines()[-1])["images"]) == (0, "", 150)
        if list(output_of(path).glob("state.sqlite3-*")):  # an eye was in the way at the very end: the next run folds
            assert batchgen("run", path, cwd=tmp_path).returncode == 0
        assert not list(output_of(path).glob("state.sqlite3-*"))


def test_the_ledger_is_read_only_when_it_was_written_to(tmp_path, monkeypatch, capsys):
    looks, read = [], []
    honest = watch.status_report
    monkeypatch.setattr(watch, "status_report", lambda *words: read.append(1) or honest(*words))
    ledger = Ledger.open(tmp_path / "state.sqlite3")
    ledger.mark_reconciled("a manifest")
    holding = lock.held(tmp_path)
    holding.__enter__()

    def sleep(_seconds):
        looks.append(len(read))
        if len(looks) == 3:
            ledger.mark_reconciled("another manifest")
        if len(looks) == 5:
            ledger.close()
            holding.__exit__(None, None, None)

    assert watch.Watch(tmp_path, as_json=True, sleep=sleep).run() == 0
    assert looks == [1, 1, 1, 2, 2]
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_a_file_that_is_just_being_made_is_looked_at_again(tmp_path, capsys):
    (tmp_path / "state.sqlite3").touch()
    holding = lock.held(tmp_path)
    holding.__enter__()

    def sleep(_seconds):
        Ledger.open(tmp_path / "state.sqlite3").close()
        holding.__exit__(None, None, None)

    assert watch.Watch(tmp_path, as_json=True, sleep=sleep).run() == 0
    assert [json.loads(line)["started"] for line in capsys.readouterr().out.splitlines()] == [False, True]


def test_options_that_mean_nothing_are_refused(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(1))
    assert batchgen("status", path, "--interval", "3", cwd=tmp_path).returncode == 2
    for wrong in ("0", "-1", "nan", "soon"):
        assert batchgen("status", path, "--watch", f"--interval={wrong}", cwd=tmp_path).returncode == 2
