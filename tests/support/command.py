"""The command `batchgen`, in this process or in one of its own, on a manifest that names a gateway."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.cli.main import main
from batchgen.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox_server import SandboxServer

ROOT = Path(__file__).resolve().parents[2]
KEY = {"SANDBOX_KEY": "a-key-for-tests"}


def batchgen(*words: object, cwd: Path, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run a command to its end within this process, with its own folder, keys and captured output.

    A process is started instead where a command cannot run here: its signal handlers need the main thread, and its
    event loop a thread without one. A command that takes more than `timeout` seconds ends the tests with a traceback.
    """
    arguments = [str(word) for word in words]
    if threading.current_thread() is not threading.main_thread() or asyncio._get_running_loop() is not None:
        return batchgen_process(*words, cwd=cwd, timeout=timeout)
    faulthandler.dump_traceback_later(timeout, exit=True, file=sys.__stderr__)
    try:
        with _as_in_a_process(cwd), captured("stdout") as output, captured("stderr") as errors:
            code = _exit_code(arguments)
        return subprocess.CompletedProcess(["batchgen", *arguments], code, output(), errors())
    finally:
        faulthandler.cancel_dump_traceback_later()


def _exit_code(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as end:  # of --help and --version
        return int(end.code or 0)


@contextmanager
def _as_in_a_process(cwd: Path) -> Iterator[None]:
    """The folder, the keys and the secrets of a command are its own."""
    folder, keys, secrets = Path.cwd(), {name: os.environ.get(name) for name in KEY}, dict(redact._secrets)
    redact._secrets.clear()
    os.environ.update(KEY)
    os.chdir(cwd)
    try:
        yield
    finally:
        os.chdir(folder)
        for name, value in keys.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})
        redact._secrets.update(secrets)


@contextmanager
def captured(name: str) -> Iterator[Callable[[], str]]:
    """Send a standard stream to a file, which has a descriptor as a process's has; gives what was written."""
    before, text = getattr(sys, name), ""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        setattr(sys, name, file)
        try:
            yield lambda: text
        finally:
            setattr(sys, name, before)
            file.seek(0)
            text = file.read()


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Press Ctrl-C, as a user would, when a command in this process has taken so long."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def batchgen_process(*words: object, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end as a process of its own, for what only a process has: descriptors, a kill, a start."""
    return subprocess.run(
        [sys.executable, "-m", "batchgen", *map(str, words)],
        cwd=cwd,
        env=os.environ | KEY,
        capture_output=True,
        text=True,
        check=False,
        **{"timeout": 120, **options},
    )


def started(*words: object, cwd: Path) -> subprocess.Popen[str]:
    """Start a command as a process of its own and go on."""
    command = [sys.executable, "-m", "batchgen", *map(str, words)]
    return subprocess.Popen(
        command, cwd=cwd, env=os.environ | KEY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def killed_at(step: int, path: Path, *words: str) -> list[str]:
    """Run a manifest until the step (see `crash_points.py`), or to the end where it is 0; the steps that were met."""
    log = path.parent / "steps"
    log.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "crash_points.py", "run", path, *words],
        cwd=path.parent,
        env=os.environ | KEY | {"CRASH_AT": str(step), "CRASH_LOG": str(log), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in {0, -signal.SIGKILL}, done.stderr
    return log.read_text(encoding="utf-8").splitlines()


def manifest(
    folder: Path, gateway: SandboxServer, text: str, *, use: str = "kapon", concurrency: int = 27, longest: float = 0.0
) -> Path:
    """A manifest of one account; `longest`: seconds of a task, before which fal's list does not show it."""
    delay = max(2.0, longest if use == "fal" else 0.0)
    path = folder / "manifest.yaml"
    path.write_text(
        f"version: 1\nname: tried\nprovider: local\n"
        f'providers: {{local: {{use: {use}, base_url: "{gateway.base_url}", api_key_env: SANDBOX_KEY,'
        f" visibility_delay: {delay:g}, limits: {{concurrency: {concurrency}}}}}}}\n{text}",
        encoding="utf-8",
    )
    return path


def prompts(number: int, more: str = "") -> str:
    lines = "".join(f"    - prompt number {i}\n" for i in range(number))
    return f"matrix:\n  prompt:\n{lines}{more}"


def billed_by_job(gateway: SandboxServer) -> Counter[str]:
    """Tasks that were or will be paid for, by the job of their external id."""
    tasks = [task for task in gateway.usage()["tasks"] if task["status"] != "failed"]
    return Counter(task["external_task_id"].split("-")[1] for task in tasks)


def billed_by_prompt(gateway: SandboxServer) -> Counter[str]:
    """The same by what was asked for, where each job has a prompt of its own."""
    return Counter(task["request"]["prompt"] for task in gateway.usage()["tasks"] if task["status"] != "failed")


def drawn_on(terminal: int) -> bytes:
    """All that is written to a terminal until its other end is closed; this end is closed then, too."""
    drawn = b""
    with suppress(OSError):  # the other end is closed
        while piece := os.read(terminal, 65536):
            drawn += piece
    os.close(terminal)
    return drawn


def accepted_by(gateway: SandboxServer) -> int:
    return gateway.usage(tasks=False)["creates_accepted"]


def wait_for(claim, seconds: float = 30.0) -> None:
    """Wait until a claim holds; the wait is bounded, and nothing is asserted by time having passed."""
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "this never came to be"
        time.sleep(0.02)
