"""Runs that nobody watches: a summary, who is told, and how little a run with nothing to do costs."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml
from command import KEY, ROOT, batchgen, manifest, prompts
from prometheus_client.parser import text_string_to_metric_families

from batchgen.cli import hooks


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
    assert all(record["started_at"] <= record["ended_at"] and record["ended_at"].endswith("Z") for record in records)


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


def test_a_command_that_does_not_end_is_ended_with_what_it_started():
    assert "was ended" in hooks._run(("sh", "-c", "sleep 600 & sleep 600"), "{}", 0.5)


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
    before = index.stat().st_mtime_ns, gateway.usage()["requests"]
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
    after = index.stat().st_mtime_ns, gateway.usage()["requests"]
    after[1].pop("usage"), before[1].pop("usage", None)
    assert after == before


def block(begins, page="scheduling.md"):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```[^\n]*\n(.*?)```", text, re.DOTALL)
    return next(text for text in blocks if text.startswith(begins))


@pytest.fixture
def srv(tmp_path, gateway):
    """What docs/scheduling.md has in /srv/images."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    command = tmp_path / ".venv" / "bin" / "batchgen"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m batchgen "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    path = manifest(tmp_path, gateway, prompts(2)).rename(tmp_path / "nightly.yaml")
    path.write_text(path.read_text(encoding="utf-8").replace("SANDBOX_KEY", "KAPON_API_KEY"), encoding="utf-8")
    return tmp_path


CRON = {"HOME": "/", "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", "KAPON_API_KEY": KEY["SANDBOX_KEY"]}


def test_the_crontab_of_the_page_works_as_it_stands(srv):
    _, line = block("KAPON_API_KEY").splitlines()
    *when, command = line.split(maxsplit=5)
    assert len(when) == 5
    assert "%" not in command  # which cron takes for a line break
    command = command.replace("/srv/images", str(srv))
    done = subprocess.run(["/bin/sh", "-c", command], cwd="/", env=CRON, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert lines(srv / "runs.jsonl")[0]["images"] == 2


def test_the_systemd_service_of_the_page_works_as_it_stands(srv):
    text = block("# /etc/systemd").replace("/srv/images", str(srv))
    service = dict(line.split("=", 1) for line in text.partition("[Timer]")[0].splitlines() if "=" in line)
    words = shlex.split(service["ExecStart"])
    assert words[0].startswith("/")
    how = {"cwd": service["WorkingDirectory"], "env": CRON, "capture_output": True, "text": True}
    done = subprocess.run(words, check=False, **how)
    assert done.returncode == 0, done.stderr
    assert all(json.loads(line) for line in done.stderr.splitlines())
    with (srv / "outputs" / "tried" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        busy = subprocess.run(words, check=False, **how).returncode
    assert service["SuccessExitStatus"].split() == ["3", str(busy), "143"]


def night(srv):
    """What cron does with the line of docs/operations.md: without a terminal, and with an environment of its own."""
    _, line = block("KAPON_API_KEY", "operations.md").splitlines()
    *_when, command = line.split(maxsplit=5)
    assert "%" not in command  # which cron takes for a line break
    command = command.replace("/srv/images", str(srv))
    return subprocess.run(["/bin/sh", "-c", command], cwd="/", env=CRON, capture_output=True, text=True, check=False)


def metric(srv, name, **labels):
    text = (srv / "metrics" / "batchgen.prom").read_text(encoding="utf-8")
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    found = [s.value for s in samples if s.name == f"batchgen_run_{name}" and labels.items() <= s.labels.items()]
    return found[0] if found else None


def test_the_metrics_and_failures_of_a_nightly_run_reach_the_operator(srv):
    (srv / "metrics").mkdir()
    done = night(srv)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")  # no mail
    assert (metric(srv, "exit_code"), metric(srv, "images"), metric(srv, "active")) == (0, 2, 0)
    path = srv / "nightly.yaml"
    path.write_text(path.read_text(encoding="utf-8") + "    - a forbidden-word\n", encoding="utf-8")
    done = night(srv)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)  # a mail of one sentence
    assert "1 rejected" in done.stderr
    assert (metric(srv, "exit_code"), metric(srv, "jobs", status="rejected")) == (1, 1)
    assert metric(srv, "reason", reason_code="incomplete") == 1
    page = (srv / "outputs" / "tried" / "report.html").read_text(encoding="utf-8")
    assert "1301" in page
    assert "a forbidden-word" in page
    path.write_text("version: 1\nname: tried\nmatrx: 3\n", encoding="utf-8")
    done = night(srv)
    assert done.returncode == 2
    assert "matrx" in done.stderr
    assert (metric(srv, "exit_code", manifest="tried"), metric(srv, "images")) == (2, None)
    assert [record["exit_code"] for record in lines(srv / "runs.jsonl")] == [0, 1, 2]


def test_each_alert_of_the_page_names_metrics_that_a_run_writes(srv):
    (srv / "metrics").mkdir()
    assert night(srv).returncode == 0
    rules = yaml.safe_load(block("groups:", "operations.md"))["groups"][0]["rules"]
    named = {name for rule in rules for name in re.findall(r"batchgen_run_(\w+)", rule["expr"])}
    assert {"exit_code", "jobs", "active", "start_timestamp_seconds"} <= named
    assert [name for name in named if metric(srv, name) is None] == []
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    written = (srv / "metrics" / "batchgen.prom").read_text(encoding="utf-8")
    table = page.partition("| metric | value |")[2].partition("\n\n")[0]
    told = {
        name for line in table.splitlines() for name in re.findall(r"`(\w+)(?:\{[\w,]+\})?`", line.partition("| ")[2])
    }
    assert set(re.findall(r"# TYPE batchgen_run_(\w+) gauge", written)) == told
