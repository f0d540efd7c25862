"""Runs that meet the end of their time, or of the network: they wait as long as they are told to, and lose nothing."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from command import accepted_by, batchgen, billed_by_job, manifest, prompts, started, wait_for
from output_checks import check_invariant
from sandbox_process import SandboxProcess

LINES = ("--emulate", "kapon", "--blank-images")


def finished(output, gateway, images):
    assert len(check_invariant(output)) == images
    assert set(billed_by_job(gateway).values()) == {1}
    assert len(billed_by_job(gateway)) == images


def test_a_deadline_ends_the_run_and_the_next_one_goes_on(tmp_path):
    with SandboxProcess(*LINES, "--latency", "0.5") as gateway:
        path = manifest(tmp_path, gateway, prompts(30, "run: {grace: 1s}\n"), concurrency=3)
        began = time.monotonic()
        done = batchgen("run", path, "--deadline", "2s", cwd=tmp_path)
        assert done.returncode == 3, done.stderr
        assert "deadline" in done.stderr
        assert 2.0 <= time.monotonic() - began < 20.0
        assert 0 < accepted_by(gateway) < 30
        check_invariant(tmp_path / "outputs" / "tried")
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("concurrency: 3", "concurrency: 27"), encoding="utf-8")
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        finished(tmp_path / "outputs" / "tried", gateway, 30)


def test_a_network_that_is_away_for_a_while_is_waited_for(tmp_path):
    state = ("--state", str(tmp_path / "gateway.jsonl"))
    with SandboxProcess(*LINES, "--latency", "0.3", *state) as first:
        path = manifest(tmp_path, first, prompts(20, "run: {give_up_after: 60s}\n"), concurrency=4)
        run = started("run", path, cwd=tmp_path)
        wait_for(lambda: accepted_by(first) >= 5)
        first.kill()
    refused = time.monotonic()
    port = str(urlsplit(first.base_url).port)
    wait_for(lambda: run.poll() is not None or time.monotonic() > refused + 2.0)
    assert run.poll() is None, run.communicate()[1]
    with SandboxProcess(*LINES, "--latency", "0.3", *state, "--port", port) as again:
        _, errors = run.communicate(timeout=100)
        assert run.returncode == 0, errors
        finished(tmp_path / "outputs" / "tried", again, 20)


def test_a_network_that_stays_away_ends_the_run_after_the_time_that_was_set(tmp_path):
    state = ("--state", str(tmp_path / "gateway.jsonl"))
    with SandboxProcess(*LINES, "--latency", "0.3", *state) as first:
        path = manifest(tmp_path, first, prompts(20, "run: {give_up_after: 3s, grace: 1s}\n"), concurrency=4)
        run = started("run", path, cwd=tmp_path)
        wait_for(lambda: accepted_by(first) >= 5)
        first.kill()
    _, errors = run.communicate(timeout=100)
    assert run.returncode == 3, errors
    assert "run.give_up_after" in errors
    with SandboxProcess(*LINES, "--latency", "0.1", *state, "--port", str(urlsplit(first.base_url).port)) as again:
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        finished(tmp_path / "outputs" / "tried", again, 20)
