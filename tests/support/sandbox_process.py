"""`batchgen sandbox` as a process of its own, for tests that need a gateway while they kill something else."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[2]
_ADDRESS = re.compile(r"listens on (http://\S+)")


class SandboxProcess:
    """Started when made, on a free port unless `--port` is among the options; stopped at the context's end.

    It plays a real account unless it is `marked` as a sandbox. `base_url` is that of an account at it.
    """

    def __init__(self, *options: str, env: dict[str, str] | None = None, marked: bool = False) -> None:
        port = () if "--port" in options else ("--port", "0")
        unmarked = () if marked else ("--unmarked",)
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "batchgen", "sandbox", *port, *unmarked, *options],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(env or {})},
        )
        self.introduction = self._process.stdout.readline()
        found = _ADDRESS.search(self.introduction)
        if found is None:
            raise RuntimeError(f"the sandbox did not start: exit code {self._process.wait()}")
        self.base_url = found[1]

    def usage(self, *, tasks: bool = True) -> dict[str, Any]:
        """What was requested and billed so far."""
        url = f"{self.base_url.removesuffix('/kling')}/_usage?tasks={int(tasks)}"
        with urlopen(url, timeout=30) as answer:  # noqa: S310 - our own server's
            return json.load(answer)

    def stop(self) -> int:
        """End it as a service manager does, and give its exit code. A second call only gives the code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """Kill it."""
        return self._end(signal.SIGKILL)

    def _end(self, number: int) -> int:
        if self._process.poll() is None:
            self._process.send_signal(number)
        code = self._process.wait(timeout=20)
        self._process.stdout.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()
