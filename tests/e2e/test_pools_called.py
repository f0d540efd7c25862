"""Pools whose accounts cannot be asked and call back: whose task a callback names, and what is billed."""

from __future__ import annotations

import signal
from collections import Counter

import pytest
from called_back import callback, free_port
from command import batchgen, started, wait_for
from output_checks import check_invariant, rows_of
from vendors import KEY, VENDORS


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("VENDOR_KEY", KEY)


def written(folder, accounts, *prompts, port, concurrency=1, by="spread", pool=None, more=""):
    for name, vendor in accounts.items():
        (folder / f"{name}.yaml").write_text(vendor.definition(), encoding="utf-8")
    own = ", ".join(f"{name}: {{use: ./{name}.yaml, limits: {{concurrency: {concurrency}}}}}" for name in accounts)
    path = folder / "pool.yaml"
    path.write_text(
        f"version: 1\nname: called\nprovider: {{pool: [{', '.join(pool or accounts)}], by: {by}}}\n"
        f"providers: {{{own}}}\n{callback(port) if port else ''}{more}matrix: {{prompt: [{', '.join(prompts)}]}}\n",
        encoding="utf-8",
    )
    return path


def output(folder):
    return folder / "outputs" / "called"


def statuses(folder):
    return Counter(row["status"] for row in rows_of(output(folder), "failures.csv"))


def billed(*vendors):
    return sum((vendor.billed for vendor in vendors), Counter())


def test_what_any_account_has_lost_is_found_at_that_account(tmp_path):
    prompts = [f"a fox {n}" for n in range(8)]
    with VENDORS["bfl"]("cut", 503, "page") as first, VENDORS["bfl"]("cut", 503) as second:
        path = written(tmp_path, {"a": first, "b": second}, *prompts, port=free_port(), concurrency=2)
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert billed(first, second) == dict.fromkeys(prompts, 1)
        assert len(check_invariant(output(tmp_path))) == 8


def lost(folder, accounts, port, *prompts):
    """A run of the first account alone, whose only answer was lost and that waited for no callback."""
    first = next(iter(accounts.values()))
    first.is_calling = False
    path = written(folder, accounts, "a fox", port=port, pool=[next(iter(accounts))])
    assert batchgen("run", path, cwd=folder).returncode == 1
    assert statuses(folder) == {"unknown": 1}
    return path, first.addresses["a fox"]


@pytest.mark.parametrize("resend", ["--retry-unknown", "on_unknown"])
def test_a_task_that_turns_up_before_another_account_makes_its_job_is_taken_instead(resend, tmp_path):
    port = free_port()
    with VENDORS["bfl"]("cut") as first, VENDORS["bfl"]() as second:
        accounts = {"a": first, "b": second}
        path, address = lost(tmp_path, accounts, port)
        first.rounds = second.rounds = 10**6
        more = "run: {on_unknown: resend}\n" if resend == "on_unknown" else ""
        written(tmp_path, accounts, "a cat", "a dog", "a fox", port=port, more=more)
        words = [resend] if resend.startswith("--") else []
        with started("run", path, *words, cwd=tmp_path) as run:
            wait_for(lambda: len(first.tasks) + len(second.tasks) == 3)
            print(first.tasks, second.tasks)
            wait_for(lambda: first.post(address, first.call("b0")) == 200)
            second.rounds = 1
            wait_for(lambda: len(second.creates) > 1 or rows(tmp_path))
            first.rounds = 1
            _, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors
        assert billed(first, second) == {"a fox": 1, "a cat": 1, "a dog": 1}, errors


def rows(folder):
    return len(list((output(folder) / "images").glob("*"))) >= 1


def test_a_callback_for_an_account_that_left_the_pool_is_kept(tmp_path):
    port = free_port()
    with VENDORS["bfl"]("cut") as first, VENDORS["bfl"]() as second:
        accounts = {"a": first, "b": second}
        path, address = lost(tmp_path, accounts, port)
        second.rounds = 10**6
        written(tmp_path, accounts, "a fox", "a cat", port=port, pool=["b"])
        with started("run", path, cwd=tmp_path) as run:
            wait_for(lambda: len(second.tasks) == 1)
            print("answer", first.post(address, first.call("b0")))
            second.rounds = 1
            _, errors = run.communicate(timeout=60)
        print(run.returncode, errors)
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert billed(first, second) == {"a fox": 1, "a cat": 1}


def test_killed_with_both_in_flight_and_the_pool_changed(tmp_path):
    port = free_port()
    with VENDORS["bfl"]("cut", "cut") as first, VENDORS["bfl"]("cut", "cut") as second:
        accounts = {"a": first, "b": second}
        first.call_after = second.call_after = 1.5
        path = written(tmp_path, accounts, "a fox", "a cat", "a dog", "an elk", "a hen", port=port, concurrency=2)
        with started("run", path, cwd=tmp_path) as run:
            wait_for(lambda: len(first.tasks) + len(second.tasks) >= 4)
            run.send_signal(signal.SIGKILL)
            run.wait()
        written(tmp_path, accounts, "a fox", "a cat", "a dog", "an elk", "a hen", port=port, pool=["b"])
        done = batchgen("run", path, cwd=tmp_path)
        print(done.stdout + done.stderr)
        assert set(billed(first, second).values()) == {1}
        assert done.returncode == 0
        assert len(check_invariant(output(tmp_path))) == 5
