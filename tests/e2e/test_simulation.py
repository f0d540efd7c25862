"""Lives of the real code in a world from a seed, for a minute: docs/simulation.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def simulation(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)


def seed_of_commit() -> str:
    """Each commit plays other lives, and plays them again."""
    command = ["git", "rev-parse", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return str(int(done.stdout[:7] or "1", 16))


def test_lives_of_this_commit():
    done = simulation("--minutes", "1", "--start", seed_of_commit())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failures" in done.stdout


def test_seeds_that_have_failed_once():
    done = simulation("--cases")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_seed_gives_the_same_life_again_alone_and_after_others():
    alone = simulation("--lives", "5", "--start", "16", "--digests").stdout.splitlines()
    after_others = simulation("--lives", "20", "--digests").stdout.splitlines()
    assert len(alone) == 5
    assert alone == after_others[15:]
    assert len({line.split()[1] for line in after_others}) == 20
