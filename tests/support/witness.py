"""batchgen from outside: one manifest and its output folder at a lying gateway, and what must be true of them."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from command import batchgen, interrupted_after, started, wait_for
from output_checks import check_invariant, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from lying_gateway import LyingGateway

UNSURE = {"unknown", "gone", "partial"}  # what failures.csv may say of a job that was paid for
_SHIFT = "import os, time\n_real, _s = time.time, float(os.environ['SHIFT'])\ntime.time = lambda: _real() + _s\n"


class Witness:
    """Runs the real command in `folder` and compares what it left with what the gateway bills."""

    def __init__(self, folder: Path, gateway: LyingGateway) -> None:
        self.folder, self.gateway = folder, gateway
        self.path = folder / "manifest.yaml"
        self.root = folder / "outputs" / "tried"
        self.prompts: list[str] = []

    def write(self, jobs: int, *, n: int = 1, run: str = "", provider: str = "local", **account: object) -> None:
        """The manifest. The account is one of Kapon's kind unless `use` is given; `run` are more keys of that block."""
        self.prompts = [f"prompt number {number}" for number in range(jobs)]
        self.n = n
        local = {"use": "kapon", "base_url": self.gateway.base_url, "api_key_env": "SANDBOX_KEY"}
        local |= {"visibility_delay": 0.2, "limits": {"concurrency": 9 * n}} | account
        self.path.write_text(
            f"version: 1\nname: tried\nprovider: {provider}\nproviders: {json.dumps({'local': local})}\n"
            f"run: {{{'' if 'give_up_after' in run else 'give_up_after: 3s, '}grace: 1s{run}}}\n"
            f"matrix: {json.dumps({'prompt': self.prompts})}\ndefaults: {{n: {n}}}\n",
            encoding="utf-8",
        )

    def run(self, *words: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """One plain run; whatever it meets, it leaves no traceback and an output that agrees with itself.

        One that still asks after `timeout` seconds is interrupted, as its user would: that too is to lose nothing.
        """
        with interrupted_after(timeout):
            done = batchgen("run", self.path, "--quiet", *words, cwd=self.folder, timeout=timeout + 60)
        return self._ended(done)

    def _ended(self, done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode in {0, 1, 3, 6, 130}, (done.returncode, done.stderr)
        self.check(done.returncode)
        return done

    def runs(self, at_most: int = 4) -> subprocess.CompletedProcess[str]:
        """Plain runs until one says that everything is there."""
        for _ in range(at_most):
            done = self.run()
            if done.returncode == 0:
                break
        return done

    def killed_when(self, claim: Callable[[], bool]) -> None:
        """A run that is ended with SIGKILL as soon as a claim holds."""
        going = started("run", self.path, "--quiet", cwd=self.folder)
        wait_for(lambda: claim() or going.poll() is not None)
        going.kill()
        going.communicate()

    def shifted(self, seconds: float, *, kill_when: Callable[[], bool] | None = None) -> None:
        """A run by a clock that is so far ahead of the real one, or behind it."""
        site = self.folder / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(_SHIFT, encoding="utf-8")
        env = os.environ | {"SHIFT": str(seconds), "PYTHONPATH": str(site), "SANDBOX_KEY": "a-key-for-tests"}
        command = [sys.executable, "-m", "batchgen", "run", str(self.path), "--quiet"]
        going = subprocess.Popen(command, cwd=self.folder, env=env, stderr=subprocess.PIPE, text=True)
        if kill_when is not None:
            wait_for(lambda: kill_when() or going.poll() is not None)
            going.kill()
        going.communicate(timeout=120)

    def stopped_for(self, seconds: float, *, when: Callable[[], bool]) -> subprocess.CompletedProcess[str]:
        """A run that is suspended (Ctrl-Z, a laptop's lid) as soon as a claim holds, for so long at least."""
        going = started("run", self.path, "--quiet", cwd=self.folder)
        wait_for(when)
        going.send_signal(signal.SIGSTOP)
        wakes = (
            time.monotonic() + seconds
        )  # the time-out that has to pass is the kernel's: nothing else can stand for it
        wait_for(lambda: time.monotonic() > wakes)
        going.send_signal(signal.SIGCONT)
        output, errors = going.communicate(timeout=60)
        return self._ended(subprocess.CompletedProcess([], going.returncode, output, errors))

    # --- the oracle ---------------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, str]]:
        """The index, whose rows are the files."""
        return check_invariant(self.root) if self.root.exists() else []

    def failures(self) -> dict[str, str]:
        """What failures.csv says: the status of each prompt."""
        return {row["prompt"]: row["status"] for row in rows_of(self.root, "failures.csv")}

    def delivered(self) -> set[str]:
        """Prompts whose images are all there, each of them another one, and made for this prompt."""
        made_for, pictures = self.gateway.pictures(), {}
        for row in self.rows():
            prompt, task_id = made_for.get(row["sha256"], ("nobody's picture", ""))
            assert (prompt, task_id) == (row["prompt"], row["task_id"]), f"a wrong picture under {row['prompt']!r}"
            pictures.setdefault(prompt, set()).add(row["sha256"])
        return {prompt for prompt, found in pictures.items() if len(found) == self.n}

    def check_paid_once(self) -> None:
        """What holds at every moment."""
        twice = {prompt: number for prompt, number in self.gateway.billed().items() if number > 1}
        assert not twice, f"paid twice: {len(twice)} of {len(self.prompts)}; the lies told: {dict(self.gateway.struck)}"

    def check(self, code: int) -> None:
        """What holds after every run: paid once, the right pictures, and exit 0 only if all of them are there."""
        self.check_paid_once()
        delivered = self.delivered()
        if code == 0:
            assert delivered == set(self.prompts), f"exit 0, but {sorted(set(self.prompts) - delivered)} are not there"

    def unfinished(self) -> set[str]:
        """Prompts of tasks that the ledger knows and that a later run is to wait for or to fetch."""
        db = sqlite3.connect(self.root / "state.sqlite3")
        try:
            rows = db.execute("SELECT request FROM job WHERE status IN ('submitted', 'made')").fetchall()
        finally:
            db.close()
        return {json.loads(request)["prompt"] for (request,) in rows}

    def check_nothing_is_lost(self, *, but: Collection[str] = ()) -> None:
        """What was paid for is there, or said to be in doubt; `but` are prompts whose tasks may still be open."""
        lost = set(self.gateway.billed()) - self.delivered() - set(but)
        unsaid = {prompt: self.failures().get(prompt) for prompt in lost if self.failures().get(prompt) not in UNSURE}
        assert not unsaid, f"paid for and neither delivered nor said to be in doubt: {unsaid}"

    def all_there(self, *, runs: int = 4) -> None:
        """Plain runs bring everything, each image paid for once."""
        done = self.runs(runs)
        assert done.returncode == 0, (self.failures(), done.stderr)
        assert self.gateway.billed() == dict.fromkeys(self.prompts, 1)
