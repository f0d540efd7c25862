"""Killed at random, again and again, with and without injected faults: nothing lost, nothing paid twice.

The default is a small run; `BATCHGEN_SOAK=1 pytest tests/e2e/test_random_kills.py` kills 30 times on 600 images, at a
gateway and at definitions of each kind that can be asked.
"""

from __future__ import annotations

import os
import random
import subprocess

import pytest
from command import batchgen, billed_by_prompt, manifest, prompts, started
from output_checks import check_invariant
from sandbox_process import SandboxProcess

SOAK = bool(os.environ.get("BATCHGEN_SOAK"))
IMAGES, KILLS, LATENCY, SLOTS = (600, 30, 3.0, 40) if SOAK else (60, 5, 1.0, 10)
BAD = "drop_after=0.04,error_after=0.04,hang=0.004,truncate=0.03,corrupt=0.02"


ACCOUNTS = ("kapon", "fal", "replicate", "runware", "comfyui") if SOAK else ("kapon",)


@pytest.mark.parametrize("account", ACCOUNTS)
@pytest.mark.parametrize("faults", ["", BAD if SOAK else BAD.replace("hang=0.004,", "")], ids=["no faults", "faults"])
def test_random_kills_lose_nothing_and_pay_nothing_twice(tmp_path, faults, account):
    chance = random.Random(7)
    options = [
        "--emulate",
        account,
        "--concurrency",
        str(SLOTS),
        "--latency",
        str(LATENCY),
        "--latency-sigma",
        "0.5",
        "--blank-images",
    ]
    with SandboxProcess(*options, *(["--faults", faults] if faults else [])) as gateway:
        text = prompts(IMAGES, "run: {max_attempts: 9}\n")
        path = manifest(tmp_path, gateway, text, use=account, concurrency=SLOTS, longest=8 * LATENCY)
        for _ in range(KILLS):
            run = started("run", path, "--quiet", cwd=tmp_path)
            try:
                run.communicate(timeout=chance.uniform(0.6, 1.6))
            except subprocess.TimeoutExpired:
                run.kill()
                run.communicate()
        for _ in range(4):  # an image may stay torn through all tries of one run
            done = batchgen("run", path, cwd=tmp_path)
            if done.returncode == 0:
                break
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(check_invariant(tmp_path / "outputs" / "tried")) == IMAGES
        billed = billed_by_prompt(gateway)
        assert len(billed) == IMAGES
        assert set(billed.values()) == {1}
