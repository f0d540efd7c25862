"""How a run and each command end: the summary, who is told, the reason code and the exit code."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys

import pytest
from command import KEY, batchgen, manifest, prompts, started, wait_for
from scripted_gateway import ScriptedGateway


def told_by(tmp_path, *words):
    """The lines of `--summary` of one run."""
    summary = tmp_path / "runs.jsonl"
    done = batchgen("run", *words, "--summary", summary, cwd=tmp_path)
    (line,) = summary.read_text(encoding="utf-8").splitlines()
    told = json.loads(line)
    assert told["exit_code"] == done.returncode
    assert told["ok"] is (done.returncode == 0)
    assert "Traceback" not in done.stderr
    return told["exit_code"], told["reason_code"]


def noting(tmp_path):
    """`on_finish` that keeps what it is told in the file `noted`."""
    program = f"import sys; open({str(tmp_path / 'noted')!r}, 'a').write(sys.stdin.read())"
    return f"on_finish: {json.dumps([sys.executable, '-c', program])}\n"


def noted(tmp_path):
    return [json.loads(line)["reason_code"] for line in (tmp_path / "noted").read_text(encoding="utf-8").splitlines()]


def test_an_invalid_manifest_has_a_summary(tmp_path):
    (tmp_path / "m.yaml").write_text("version: 1\nname: x\nprovider: nobody\n", encoding="utf-8")
    assert told_by(tmp_path, "m.yaml") == (2, "manifest_invalid")


def test_a_manifest_that_is_not_there_has_a_summary(tmp_path):
    assert told_by(tmp_path, "none.yaml") == (2, "command_invalid")


@pytest.mark.parametrize("words", [["--deadline", "soon"], ["--only"], ["--unheard-of"]], ids=str)
def test_a_wrong_command_line_has_a_summary(tmp_path, words):
    assert told_by(tmp_path, "m.yaml", *words) == (2, "command_invalid")


def test_a_missing_key_is_told_to_on_finish_too(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(1, noting(tmp_path)))
    path.write_text(path.read_text(encoding="utf-8").replace("SANDBOX_KEY", "NO_SUCH_KEY"), encoding="utf-8")
    assert told_by(tmp_path, path) == (2, "command_invalid")
    assert noted(tmp_path) == ["command_invalid"]


def test_an_output_that_is_busy_is_told(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(1, noting(tmp_path)))
    (tmp_path / "outputs" / "tried").mkdir(parents=True)
    with (tmp_path / "outputs" / "tried" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert told_by(tmp_path, path) == (4, "output_busy")
    assert noted(tmp_path) == ["output_busy"]


def test_a_defect_is_told(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(1, noting(tmp_path)))
    (tmp_path / "sitecustomize.py").write_text(
        "from batchgen.matrix import expand\ndef broken(_):\n    raise ZeroDivisionError\nexpand.expand_all = broken\n"
    )
    words = [sys.executable, "-m", "batchgen", "run", path, "--summary", "runs.jsonl", "--json"]
    env = os.environ | KEY | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert json.loads(done.stdout)["reason_code"] == "defect"
    assert noted(tmp_path) == ["defect"]
    assert json.loads((tmp_path / "runs.jsonl").read_text(encoding="utf-8"))["exit_code"] == 70


def test_an_account_that_only_a_person_can_help_ends_with_6(tmp_path):
    with ScriptedGateway() as gateway:
        gateway.answers["create"] = lambda call: call.gateway.no(429, 1102, "resource pack used up")
        assert told_by(tmp_path, manifest(tmp_path, gateway, prompts(1))) == (6, "account")


def test_a_budget_and_a_deadline_are_told_apart(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(2, "budget: {max_images: 1}\n"))
    assert told_by(tmp_path, path, "--deadline", "0s") == (3, "deadline")
    (tmp_path / "runs.jsonl").unlink()
    assert told_by(tmp_path, path) == (3, "budget")


def test_a_second_ctrl_c_writes_the_summary_and_waits_for_no_one(tmp_path):
    slow = f"on_finish: {json.dumps([sys.executable, '-c', 'import time; time.sleep(600)'])}\n"
    with ScriptedGateway(latency=600) as gateway:
        path = manifest(tmp_path, gateway, prompts(2, slow))
        run = started("run", path, "--summary", "runs.jsonl", cwd=tmp_path)
        wait_for(lambda: gateway.count("query") > 0)
        run.send_signal(2)
        assert "Interrupted" in next(line for line in run.stderr if "again to quit" in line)
        run.send_signal(2)
        assert run.wait(20) == 130
        run.communicate()
    told = json.loads((tmp_path / "runs.jsonl").read_text(encoding="utf-8"))
    assert (told["exit_code"], told["reason_code"]) == (130, "interrupted")


def test_every_json_result_says_how_it_ended(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(1))
    commands = [
        (["plan", path, "--exit-code"], 5, "changes"),
        (["validate", path], 0, "complete"),
        (["run", path], 0, "complete"),
        (["plan", path], 0, "complete"),
        (["status", path], 0, "complete"),
        (["status", path, "--watch"], 0, "complete"),
        (["verify", path], 0, "complete"),
        (["audit", path], 0, "complete"),
        (["doctor", path], 0, "complete"),
        (["models"], 0, "complete"),
        (["plan", tmp_path / "none.yaml"], 2, "command_invalid"),
        (["verify", path, "--output", tmp_path / "none"], 2, "command_invalid"),
        (["run", path, "--limit", "many"], 2, "command_invalid"),
        (["export"], 2, "command_invalid"),
    ]
    for words, code, reason in commands:
        done = batchgen(*words, "--json", cwd=tmp_path)
        told = json.loads(done.stdout)
        assert (done.returncode, told["exit_code"], told["reason_code"]) == (code, code, reason), words
        assert told["ok"] is (code in {0, 5}), words
    (tmp_path / "outputs" / "tried" / "index.csv").unlink()
    told = json.loads(batchgen("verify", path, "--json", cwd=tmp_path).stdout)
    assert (told["ok"], told["exit_code"], told["reason_code"]) == (False, 1, "findings")


def test_quiet_says_the_one_sentence_why(tmp_path):
    with ScriptedGateway() as gateway:
        gateway.answers["create"] = lambda call: call.gateway.no(400, 1301, "not this")
        done = batchgen("run", manifest(tmp_path, gateway, prompts(2)), "--quiet", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "2 rejected" in line
    assert "failures.csv" in line
