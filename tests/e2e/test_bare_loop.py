"""The bare loop that the benchmarks hold the engine against ends, whoever comes last."""

from __future__ import annotations

import subprocess
import sys

from command import ROOT
from sandbox_process import SandboxProcess


def test_it_ends_where_the_last_task_is_asked_for_singly_and_the_others_wait_for_the_list(tmp_path):
    (tmp_path / "prompts.txt").write_text("a fox\na cat\na dog\n", encoding="utf-8")
    with SandboxProcess("--emulate", "kapon", "--latency", "0.05", "--blank-images") as gateway:
        loop = [sys.executable, ROOT / "tests" / "benchmarks" / "bare_loop.py", gateway.base_url, "prompts.txt", "bare"]
        bounds = ["--slots", "3", "--latency", "0.05", "--lists", "1", "--queries", "1"]
        subprocess.run([*loop, *bounds], cwd=tmp_path, check=True, timeout=30)
    assert len(list((tmp_path / "bare" / "images").iterdir())) == 3
