"""A budget is about the prices at which the tasks were sent, not about those that the manifest has later."""

from __future__ import annotations

import sqlite3

from command import batchgen, prompts, started, wait_for
from scripted_gateway import ScriptedGateway


def priced(folder, gateway, number, price="", budget=""):
    path = folder / "manifest.yaml"
    prices = f"prices: {{default: {price}}}, " if price else ""
    path.write_text(
        f'version: 1\nname: tried\nprovider: local\nproviders: {{local: {{use: kapon, base_url: "{gateway.base_url}",'
        f" api_key_env: SANDBOX_KEY, {prices}limits: {{concurrency: 9}}}}}}\n{budget}{prompts(number)}",
        encoding="utf-8",
    )
    return path


def kill_with_tasks_running(path, cwd, gateway, number):
    gateway.latency = 1000
    run = started("run", path, cwd=cwd)
    ledger = cwd / "outputs" / "tried" / "state.sqlite3"
    wait_for(lambda: len(gateway.tasks) == number and submitted(ledger) == number)
    run.kill()
    run.communicate()
    gateway.latency = 0


def submitted(ledger):
    db = sqlite3.connect(ledger)
    try:
        return db.execute("SELECT count(*) FROM job WHERE status = 'submitted'").fetchone()[0]
    finally:
        db.close()


def costs(cwd):
    db = sqlite3.connect(cwd / "outputs" / "tried" / "state.sqlite3")
    try:
        return [cost for (cost,) in db.execute("SELECT cost FROM attempt ORDER BY intended_at, job_id")]
    finally:
        db.close()


def test_a_task_costs_the_price_at_which_it_was_sent(tmp_path):
    with ScriptedGateway() as gateway:
        kill_with_tasks_running(priced(tmp_path, gateway, 2, "1"), tmp_path, gateway, 2)
        done = batchgen("run", priced(tmp_path, gateway, 2, "0.01"), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert costs(tmp_path) == [1_000_000, 1_000_000]


def test_what_is_in_flight_is_settled_at_its_price_before_a_budget_lets_more_begin(tmp_path):
    """Two at 1 each are in flight; at today's price, 3, the first to be settled would seem to cost 2 more."""
    with ScriptedGateway() as gateway:
        kill_with_tasks_running(priced(tmp_path, gateway, 2, "1"), tmp_path, gateway, 2)
        path = priced(tmp_path, gateway, 4, "3", "budget: {max_cost: 8}\n")
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert sorted(costs(tmp_path)) == [1_000_000, 1_000_000, 3_000_000, 3_000_000]


def test_a_failed_task_gives_back_the_price_at_which_it_was_reserved(tmp_path):
    """At today's price, 3, two that fail would give back 6 of the 2 that they had reserved."""
    with ScriptedGateway() as gateway:
        kill_with_tasks_running(priced(tmp_path, gateway, 2, "1"), tmp_path, gateway, 2)
        ids = set(gateway.tasks)
        gateway.answers["query"] = lambda call: (
            gateway.yes(gateway.view(call.task, links=False) | {"task_status": "failed"})
            if call.task is not None and call.task.id in ids
            else None
        )
        gateway.answers["list"] = lambda _: gateway.no(404, 1202)
        text = "budget: {max_cost: 6}\nrun: {max_attempts: 1}\n"
        done = batchgen("run", priced(tmp_path, gateway, 5, "3", text), cwd=tmp_path)
        assert done.returncode == 3, done.stderr
        assert len(gateway.tasks) - 2 == 2


def test_what_was_begun_without_a_price_counts_at_the_price_of_today(tmp_path):
    with ScriptedGateway() as gateway:
        kill_with_tasks_running(priced(tmp_path, gateway, 2), tmp_path, gateway, 2)
        path = priced(tmp_path, gateway, 4, "1", "budget: {max_cost: 3}\n")
        assert '"within_budget": 1' in batchgen("plan", path, "--json", cwd=tmp_path).stdout
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 3, done.stderr
        assert len(gateway.tasks) == 3
