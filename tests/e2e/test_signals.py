"""A run whose terminal is closed collects what is paid for, as after SIGTERM."""

from __future__ import annotations

import base64
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading

import pytest
from command import KEY, prompts, wait_for
from json_server import JsonHandler, JsonServer
from output_checks import check_invariant
from PIL import Image


class LateImages(JsonServer):
    """OpenAI's images API, whose answers come when the test says so; the only copy of each image is in its answer."""

    def __init__(self):
        self.asked = 0
        self.go = threading.Event()
        outer = self

        class Handler(JsonHandler):
            def do_POST(self):  # noqa: N802 - the name that http.server calls
                self.body()
                outer.asked += 1
                number = outer.asked
                assert outer.go.wait(60)
                file = io.BytesIO()
                Image.new("RGB", (8, 8), (number, 0, 0)).save(file, "PNG")
                self.answer(200, {"data": [{"b64_json": base64.b64encode(file.getvalue()).decode()}]})

        super().__init__(Handler)

    def __exit__(self, *error):
        self.go.set()
        super().__exit__(*error)


def written(tmp_path, url, number=3):
    path = tmp_path / "m.yaml"
    path.write_text(
        f"version: 1\nname: tried\nprovider: late\nproviders:\n  late: {{use: openai, auth: none, base_url: '{url}',"
        f" models: [gpt-image-1], limits: {{concurrency: {number}}}}}\n{prompts(number)}",
        encoding="utf-8",
    )
    return path


def in_a_terminal(path, tmp_path, *before):
    """The command as the leader of a terminal's session, and the terminal's other end."""
    other_end, terminal = pty.openpty()
    command = [
        "setsid",
        "--ctty",
        *before,
        sys.executable,
        "-m",
        "batchgen",
        "run",
        str(path),
        "--summary",
        "runs.jsonl",
    ]

    run = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | KEY,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    return run, other_end


def test_a_closed_terminal_loses_nothing_that_is_paid_for(tmp_path):
    with LateImages() as gateway:
        run, other_end = in_a_terminal(written(tmp_path, gateway.url), tmp_path)
        wait_for(lambda: gateway.asked == 3)
        os.close(other_end)  # the kernel sends SIGHUP
        run.send_signal(signal.SIGHUP)  # and a shell one more
        gateway.go.set()
        assert run.wait(30) == 129
    assert len(check_invariant(tmp_path / "outputs" / "tried")) == 3
    summary = json.loads((tmp_path / "runs.jsonl").read_text(encoding="utf-8"))
    assert (summary["exit_code"], summary["reason_code"], summary["images"]) == (129, "interrupted", 3)


def test_under_nohup_a_closed_terminal_ends_nothing(tmp_path):
    with LateImages() as gateway:
        run, other_end = in_a_terminal(written(tmp_path, gateway.url), tmp_path, "nohup")
        wait_for(lambda: gateway.asked == 3)
        os.close(other_end)
        gateway.go.set()
        assert run.wait(30) == 0
    assert len(check_invariant(tmp_path / "outputs" / "tried")) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=str)
def test_a_signal_before_anything_is_sent_has_a_summary(tmp_path, number):
    path = written(tmp_path, "http://127.0.0.1:9")
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, batchgen.app.gateway as g\n"
        f"def struck(*_):\n    os.kill(os.getpid(), {int(number)})\ng.callback_listener = struck\n"
    )
    command = [sys.executable, "-m", "batchgen", "run", str(path), "--summary", "runs.jsonl"]
    env = os.environ | KEY | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 128 + number, done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "runs.jsonl").read_text(encoding="utf-8"))["reason_code"] == "interrupted"
