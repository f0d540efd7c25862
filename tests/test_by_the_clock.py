"""Runs that nobody watches: a summary, who is told, and how little a run with nothing to do costs."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from command import KEY, ROOT, batchgen, manifest, prompts

from batchgen.cli import finish


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_run_appends_one_line_however_it_ends(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(3, "budget: {max_images: 2}\n"))
    summary = tmp_path / "runs.jsonl"
    assert batchgen("run", path, "--summary", summary, cwd=tmp_path).returncode == 3
    path.write_text(path.read_text(encoding="utf-8").replace("max_images: 2", "max_images: 9"), encoding="utf-8")
    assert batchgen("run", path, "--summary", summary, "--quiet", cwd=tmp_path).returncode == 0
    (tmp_path / "outputs" / "tried" / "state.sqlite3").write_bytes(b"not a ledger, and quite long " * 30)
    assert batchgen("run", path, "--summary", summary, cwd=tmp_path).returncode == 2
    records = lines(summary)
    assert [(record["name"], record["exit_code"]) for record in records] == [("tried", 3), ("tried", 0), ("tried", 2)]
    assert [record.get("images") for record in records] == [2, 3, None]
    assert all(record["began"] <= record["ended"] and record["ended"].endswith("Z") for record in records)


def test_a_summary_that_cannot_be_written_is_said_and_changes_nothing(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(1))
    done = batchgen("run", path, "--summary", tmp_path, cwd=tmp_path)
    assert done.returncode == 0
    assert "summary could not be written" in done.stderr


def on_finish(*words):
    return f"on_finish: {json.dumps(words)}\n"


def test_a_command_gets_the_summary_on_its_stdin(tmp_path, gateway):
    told = tmp_path / "told"
    program = f"import sys; open({str(told)!r}, 'w').write(sys.stdin.read()); print('heard')"
    path = manifest(tmp_path, gateway, prompts(2, on_finish(sys.executable, "-c", program)))
    done = batchgen("run", path, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert lines(told)[0]["images"] == json.loads(done.stdout)["images"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [(["/no/such/command"], "could not be started"), ([sys.executable, "-c", "raise SystemExit(7)"], "ended with 7")],
)
def test_a_command_that_fails_is_said_and_changes_no_exit_code(tmp_path, gateway, words, said):
    path = manifest(tmp_path, gateway, prompts(1, on_finish(*words)))
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 0
    assert said in done.stderr


def test_a_command_that_does_not_end_is_ended_with_what_it_started(monkeypatch):
    monkeypatch.setattr(finish, "SECONDS", 0.5)
    assert "was ended" in finish._run(("sh", "-c", "sleep 600 & sleep 600"), "{}")


def test_a_webhook_gets_the_summary(tmp_path, gateway):
    got = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204 if len(got) == 1 else 500)
            self.end_headers()

        def log_message(self, *words):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    path = manifest(tmp_path, gateway, prompts(1, f"on_finish: http://127.0.0.1:{server.server_port}/done\n"))
    first, second = (batchgen("run", path, cwd=tmp_path) for _ in range(2))
    server.shutdown()
    server.server_close()
    assert (first.returncode, second.returncode) == (0, 0)
    assert [record["images"] for record in got] == [1, 1]
    assert "HTTP 500" in second.stderr
    assert "HTTP" not in first.stderr


def test_what_is_no_command_and_no_address_is_a_fault_of_the_manifest(tmp_path, gateway):
    for wrong in ("on_finish: []\n", "on_finish: rm -rf\n", "on_finish: {run: x}\n"):
        done = batchgen("validate", manifest(tmp_path, gateway, prompts(1, wrong)), cwd=tmp_path)
        assert (done.returncode, "on_finish" in done.stderr + done.stdout) == (2, True), wrong


def test_a_run_with_nothing_to_do_loads_no_network_library_and_writes_no_view(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(2))
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    index = tmp_path / "outputs" / "tried" / "index.csv"
    before = index.stat().st_mtime_ns, gateway.ledger()["requests"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "batchgen", "run", path],
        cwd=tmp_path,
        env=os.environ | KEY | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "batchgen" in loaded
    assert "aiohttp" not in loaded
    after = index.stat().st_mtime_ns, gateway.ledger()["requests"]
    after[1].pop("ledger"), before[1].pop("ledger", None)
    assert after == before


def test_the_commands_of_the_readme_that_run_by_the_clock_are_right():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [line.partition("batchgen run ")[2] for line in text.splitlines() if "nightly.yaml --" in line]
    assert len(commands) == 2
    from batchgen.cli.main import _parser

    for command in commands:
        words = ["run", *shlex.split(command)]
        assert _parser(words).parse_args(words).deadline > 0
