"""Several accounts make the jobs of one manifest: each job at one of them, billed once, whatever happens."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from command import batchgen, prompts
from output_checks import check_invariant
from pool_manifest import accepted, billed, pooled
from sandbox_server import SandboxServer


@pytest.fixture
def sandboxes():
    """Starts sandboxes with options, and ends them all."""
    running = []

    def start(*options):
        running.append(SandboxServer("--emulate", "kapon", "--blank-images", "--latency", "0.02", *options))
        return running[-1]

    yield start
    for each in running:
        each.stop()


def run(path, folder, *words):
    done = batchgen("run", path, "--json", *words, cwd=folder)
    return done, json.loads(done.stdout) if done.stdout else {}


def test_an_account_without_money_leaves_the_rest_to_the_next_one(tmp_path, sandboxes):
    first, second = sandboxes("--balance", "5"), sandboxes()
    path = pooled(tmp_path, prompts(20), {"a": {"base_url": first.base_url}, "b": {"base_url": second.base_url}})
    done, result = run(path, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = check_invariant(tmp_path / "outputs" / "pooled")
    assert Counter(row["provider"] for row in rows) == {"a": 5, "b": 15}
    assert set(billed([first, second]).values()) == {1}
    assert [(each["name"], each["images"]) for each in result["accounts"]] == [("a", 5), ("b", 15)]
    assert "1102" in result["accounts"][0]["stopped"]
    assert result["accounts"][1]["stopped"] is None
