"""The real command on a manifest that names a sandbox in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox_process import SandboxProcess

ROOT = Path(__file__).resolve().parents[2]
KEY = {"SANDBOX_KEY": "a-key-for-tests"}


def batchgen(*words: object, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "batchgen", *map(str, words)]
    return subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | KEY,
        capture_output=True,
        text=True,
        check=False,
        **{"timeout": 120, **options},
    )


def started(*words: object, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "batchgen", *map(str, words)]
    return subprocess.Popen(
        command, cwd=cwd, env=os.environ | KEY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def manifest(folder: Path, gateway: SandboxProcess, text: str, *, use: str = "kapon", concurrency: int = 27) -> Path:
    path = folder / "manifest.yaml"
    path.write_text(
        f"version: 1\nname: tried\nprovider: local\n"
        f'providers: {{local: {{use: {use}, base_url: "{gateway.base_url}", api_key_env: SANDBOX_KEY,'
        f" visibility_delay: 2, limits: {{concurrency: {concurrency}}}}}}}\n{text}",
        encoding="utf-8",
    )
    return path


def prompts(number: int, more: str = "") -> str:
    lines = "".join(f"    - prompt number {i}\n" for i in range(number))
    return f"matrix:\n  prompt:\n{lines}{more}"


def billed_by_job(gateway: SandboxProcess) -> Counter[str]:
    """Tasks that were or will be paid for, by the job of their external id."""
    tasks = [task for task in gateway.usage()["tasks"] if task["status"] != "failed"]
    return Counter(task["external_task_id"].split("-")[1] for task in tasks)


def accepted_by(gateway: SandboxProcess) -> int:
    return gateway.usage(tasks=False)["creates_accepted"]


def wait_for(claim, seconds: float = 30.0) -> None:
    """Wait until a claim holds; the wait is bounded, and nothing is asserted by time having passed."""
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "this never came to be"
        time.sleep(0.02)
