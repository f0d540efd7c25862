"""Pools whose accounts cannot be asked and call back: whose task a callback names, and what is billed."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing, suppress

import pytest
from called_back import callback, free_port
from command import batchgen, started, wait_for
from output_checks import check_invariant, rows_of
from vendors import KEY, VENDORS


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("VENDOR_KEY", KEY)


def written(folder, accounts, *prompts, port, concurrency=1, pool=None, more="", delay="0.3"):
    for name, vendor in accounts.items():
        (folder / f"{name}.yaml").write_text(vendor.definition(visibility_delay=delay), encoding="utf-8")
    own = ", ".join(f"{name}: {{use: ./{name}.yaml, limits: {{concurrency: {concurrency}}}}}" for name in accounts)
    path = folder / "pool.yaml"
    path.write_text(
        f"version: 1\nname: called\nprovider: {{pool: [{', '.join(pool or accounts)}], by: spread}}\n"
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


def lost(folder, accounts, port):
    """A run of the first account alone, whose only answer was lost and that waited for no callback; the address."""
    name, first = next(iter(accounts.items()))
    first.is_calling = False
    assert batchgen("run", written(folder, accounts, "a fox", port=port, pool=[name]), cwd=folder).returncode == 1
    assert statuses(folder) == {"unknown": 1}
    return first.addresses["a fox"]


@pytest.mark.parametrize("resend", ["--retry-unknown", "run: {on_unknown: resend}"])
def test_a_task_that_turns_up_before_another_account_makes_its_job_is_taken_instead(resend, tmp_path):
    """Both accounts are busy when the callback comes, and the other one has a free slot first."""
    port = free_port()
    with VENDORS["bfl"]("cut") as first, VENDORS["bfl"]() as second:
        accounts = {"a": first, "b": second}
        address = lost(tmp_path, accounts, port)
        first.rounds = second.rounds = 10**6
        is_option = resend.startswith("--")
        more = "" if is_option else f"{resend}\n"
        path = written(tmp_path, accounts, "a cat", "a dog", "a fox", port=port, more=more)
        with started("run", path, *([resend] if is_option else []), cwd=tmp_path) as run:
            wait_for(lambda: len(first.tasks) + len(second.tasks) == 3)
            wait_for(lambda: first.post(address, first.call("b0")) == 200)
            second.rounds = 1
            wait_for(lambda: len(second.creates) > 1 or [*(output(tmp_path) / "images").rglob("*.*")])
            first.rounds = 1
            _, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors
        assert billed(first, second) == {"a fox": 1, "a cat": 1, "a dog": 1}
        assert len(check_invariant(output(tmp_path))) == 3


def test_what_a_callback_named_before_a_job_was_sent_again_holds_in_a_run_without_callbacks(tmp_path):
    port = free_port()
    with VENDORS["bfl"]("cut") as first, VENDORS["bfl"]() as second:
        accounts = {"a": first, "b": second}
        address = lost(tmp_path, accounts, port)
        first.rounds = second.rounds = 10**6
        path = written(tmp_path, accounts, "a cat", "a dog", "a fox", port=port)
        with started("run", path, "--retry-unknown", cwd=tmp_path) as run:
            wait_for(lambda: len(first.tasks) + len(second.tasks) == 3)
            wait_for(lambda: accepted(tmp_path) == 2)  # else their answers are lost with the run
            wait_for(lambda: first.post(address, first.call("b0")) == 200)
            run.kill()
            run.wait()
        first.rounds = second.rounds = 1
        done = batchgen("run", written(tmp_path, accounts, "a cat", "a dog", "a fox", port=0), cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert billed(first, second) == {"a fox": 1, "a cat": 1, "a dog": 1}


def test_a_callback_for_an_account_that_left_the_pool_is_kept_for_the_next_run(tmp_path):
    port = free_port()
    with VENDORS["bfl"]("cut") as first, VENDORS["bfl"]() as second:
        accounts = {"a": first, "b": second}
        address = lost(tmp_path, accounts, port)
        second.rounds = 10**6
        path = written(tmp_path, accounts, "a fox", "a cat", port=port, pool=["b"])
        with started("run", path, cwd=tmp_path) as run:
            wait_for(lambda: second.tasks)
            assert first.post(address, first.call("b0")) == 200
            second.rounds = 1
            run.communicate(timeout=60)
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert billed(first, second) == {"a fox": 1, "a cat": 1}


def test_equal_task_ids_of_two_gateways_are_two_tasks(tmp_path):
    """A killed run has what callbacks named at both, and could query neither; one account has left the pool since."""
    port, prompts = free_port(), ("a fox", "a cat", "a dog", "an elk")
    with VENDORS["luma"]("cut", "cut") as first, VENDORS["luma"]("cut", "cut") as second:
        first.unanswered = second.unanswered = "/l0", "/l1"
        accounts = {"a": first, "b": second}
        path = written(tmp_path, accounts, *prompts, port=port, concurrency=2)
        with started("run", path, cwd=tmp_path) as run:
            wait_for(lambda: len(named(tmp_path)) == 4)
            run.kill()
            run.wait()
        assert set(named(tmp_path)) == {'["l0"]', '["l1"]'}
        first.unanswered = second.unanswered = ""
        written(tmp_path, accounts, *prompts, port=port, pool=["b"])
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert billed(first, second) == dict.fromkeys(prompts, 1)
        assert len(check_invariant(output(tmp_path))) == 4


def accepted(folder):
    """How many attempts have a task."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(output(folder) / "state.sqlite3")) as db:
        return db.execute("SELECT count(*) FROM attempt WHERE task_id IS NOT NULL").fetchone()[0]
    return 0


def named(folder):
    """What callbacks have named for each attempt."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(output(folder) / "state.sqlite3")) as db:
        return [value for (value,) in db.execute("SELECT value FROM meta WHERE key LIKE 'called:%'")]
    return []


def test_a_callback_that_names_a_task_of_a_create_under_way_at_another_account_of_the_gateway_waits(tmp_path):
    """Two keys of one gateway: a task is whose create is answered with it, whichever of them sent that."""
    port = free_port()
    with VENDORS["luma"]("cut", "slow") as vendor:
        vendor.is_calling = False
        path = written(tmp_path, {"a": vendor, "b": vendor}, "a fox", "a cat", port=port, delay="0.1")
        with started("run", path, cwd=tmp_path) as run:
            wait_for(lambda: len(vendor.addresses) == 2)
            lost = next(iter(vendor.addresses))
            assert vendor.post(vendor.addresses[lost], {"id": "l1", "state": "completed"}) == 200
            wait_for(lambda: any("l1" in path for path in vendor.paths))
            vendor.slow.set()
            _, errors = run.communicate(timeout=60)
        assert run.returncode == 1, errors
        (row,) = check_invariant(output(tmp_path))
        assert (row["prompt"], row["task_id"]) == (vendor.tasks["l1"]["prompt"], "l1")
        assert statuses(tmp_path) == {"unknown": 1}


def test_an_account_of_a_pool_without_its_key_is_reported_before_anything_is_written(tmp_path):
    with VENDORS["bfl"]() as first, VENDORS["bfl"]() as second:
        path = written(tmp_path, {"a": first, "b": second}, "a fox", port=0)
        (tmp_path / "b.yaml").write_text(second.definition().replace("VENDOR_KEY", "NO_KEY"), encoding="utf-8")
        done = batchgen("run", path, cwd=tmp_path)
        assert (done.returncode, "NO_KEY" in done.stderr) == (2, True)
        assert not output(tmp_path).parent.exists()
        assert not first.creates
