"""Several accounts make the jobs of one manifest: each job at one of them, billed once, whatever happens."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections import Counter
from contextlib import ExitStack
from functools import partial
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from command import batchgen, killed_at, prompts, started
from output_checks import check_invariant, rows_of
from pool_manifest import accepted, billed, pooled
from sandbox_process import SandboxProcess
from sandbox_server import SandboxServer
from scripted_gateway import ScriptedGateway
from vendors import KEY as VENDOR_KEY
from vendors import VENDORS


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


def test_an_account_that_cannot_be_asked_keeps_its_unknown_jobs_while_another_one_is_idle(tmp_path, sandboxes):
    first = sandboxes("--no-lists", "--no-lookup-by-external-id", "--faults", "drop_after=0.5")
    second = sandboxes()
    mute = {"base_url": first.base_url, "lists_tasks": "no", "lookup_by_external_id": "no"}
    accounts = {"mute": mute, "other": {"base_url": second.base_url}}
    spread = {"pool": ["mute", "other"], "by": "spread"}
    path = pooled(tmp_path, prompts(24), accounts, spread)
    done, result = run(path, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    lost = result["jobs"]["unknown"]
    by_job = billed([first, second])
    assert set(by_job.values()) == {1}
    assert len(by_job) == 24 == lost + len(check_invariant(tmp_path / "outputs" / "pooled"))
    done, result = run(path, tmp_path)  # nor does a later run send them, to whomever
    assert billed([first, second]) == by_job
    first.stop()  # who asks for it may have them made anywhere
    done, result = run(path, tmp_path, "--retry-unknown")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(check_invariant(tmp_path / "outputs" / "pooled")) == 24
    assert accepted(second) >= lost


def test_a_job_that_policy_refuses_is_offered_to_nobody_else(tmp_path, sandboxes):
    first, second = sandboxes(), sandboxes()
    text = "matrix: {prompt: [a boat, a policy-word, a forbidden-word, a lamp]}\n"
    accounts = {"a": {"base_url": first.base_url}, "b": {"base_url": second.base_url}}
    done, result = run(pooled(tmp_path, text, accounts), tmp_path)
    assert (done.returncode, result["jobs"]) == (1, {"done": 2, "rejected": 2})
    assert second.usage()["requests"] == {}


def test_shares_follow_weights_and_a_budget_of_an_account_is_kept(tmp_path, sandboxes):
    first, second, third = sandboxes(), sandboxes(), sandboxes()
    slow = {"limits": {"concurrency": 50}, "prices": {"unit": "USD", "default": 0.5}}
    accounts = {
        "a": {"base_url": first.base_url, "weight": 3, **slow},
        "b": {"base_url": second.base_url, **slow},
        "c": {"base_url": third.base_url, "budget": {"max_cost": 2.4}, "weight": 9, **slow},
    }
    path = pooled(tmp_path, prompts(44), accounts, {"pool": ["a", "b", "c"], "by": "spread"})
    planned = json.loads(batchgen("plan", path, "--json", cwd=tmp_path).stdout)
    assert {name: each["jobs"] for name, each in planned["make_by_account"].items()} == {"a": 30, "b": 10, "c": 4}
    assert (planned["cheapest"], planned["dearest"]) == ("22", "22")
    done, result = run(path, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    made = [accepted(each) for each in (first, second, third)]
    assert made == pytest.approx([30, 10, 4], abs=3)
    assert made[2] == 4
    assert "providers.c.budget" in result["accounts"][2]["stopped"]
    assert result["accounts"][2]["cost"] == "2"


def test_the_cheapest_account_makes_what_it_can_and_spills_only_where_that_is_said(tmp_path, sandboxes):
    dear, cheap = sandboxes(), sandboxes("--latency", "0.3")
    accounts = {
        "dear": {"base_url": dear.base_url, "prices": {"unit": "USD", "default": 0.5}},
        "cheap": {
            "base_url": cheap.base_url,
            "prices": {"unit": "USD", "default": 0.1},
            "limits": {"concurrency": 2},
            "models": ["kling-v1"],
        },
    }
    text = "matrix: {prompt: [a, b, c, d], model: [kling-v1, kling-v2]}\n"
    by_price = {"pool": ["dear", "cheap"], "by": "price"}
    done, _ = run(pooled(tmp_path, text, accounts, by_price), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (accepted(dear), accepted(cheap)) == (4, 4)
    text = "matrix: {prompt: [e, f, g, h, i, j], model: kling-v1}\n"
    done, _ = run(pooled(tmp_path, text, accounts, by_price | {"spill": True}, name="spilt"), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (accepted(dear), accepted(cheap)) == (8, 6)  # the cheap one had two slots


def test_the_run_ends_with_every_reason_when_the_last_account_has_stopped(tmp_path, sandboxes):
    first, second = sandboxes("--balance", "3"), sandboxes("--balance", "4")
    accounts = {"a": {"base_url": first.base_url}, "b": {"base_url": second.base_url}}
    path = pooled(tmp_path, prompts(12), accounts)
    done, result = run(path, tmp_path)
    assert done.returncode == 6
    assert result["reason"].count("1102") == 2
    assert result["jobs"] == {"pending": 5, "done": 7}
    # A budget ends a run with 3, and one account that can be cured is enough.
    done, result = run(
        pooled(tmp_path, prompts(12), accounts | {"b": {**accounts["b"], "budget": {"max_images": 4}}}), tmp_path
    )
    assert done.returncode == 3, done.stdout + done.stderr


def test_two_keys_of_one_account_have_one_set_of_slots(tmp_path, sandboxes):
    gateway = sandboxes("--concurrency", "3")
    limits = {"limits": {"concurrency": 3}}
    accounts = {
        "one": {"base_url": gateway.base_url, **limits},
        "two": {"base_url": gateway.base_url, "shares_limits_with": "one"},
    }
    path = pooled(tmp_path, prompts(15), accounts, {"pool": ["two", "one"], "by": "spread"})
    done, result = run(path, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(gateway.usage()["requests"]["create"]) == {"0"}  # none was one too many
    assert {each["images"] for each in result["accounts"]} == {7, 8}


def test_an_account_calls_a_model_by_its_own_name_and_the_pool_can_change(tmp_path, sandboxes):
    first, second = sandboxes("--balance", "2"), sandboxes()
    accounts = {
        "a": {"base_url": first.base_url},
        "b": {"base_url": second.base_url, "models": ["kling-v2-1"], "model_names": {"kling-v1": "kling-v2-1"}},
    }
    path = pooled(tmp_path, prompts(5), accounts)
    done, _ = run(path, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {row["model"] for row in check_invariant(tmp_path / "outputs" / "pooled")} == {"kling-v1"}
    assert {task["request"]["model_name"] for task in second.usage()["tasks"]} == {"kling-v2-1"}
    before = billed([first, second])
    for provider in (["b", "a"], "a", {"pool": ["a"]}):
        done, result = run(pooled(tmp_path, prompts(5), accounts, provider), tmp_path)
        assert (done.returncode, result["started"]) == (0, 0)
    done, result = run(pooled(tmp_path, prompts(6), accounts), tmp_path, "--provider", "b")
    assert (done.returncode, result["started"], result["accounts"]) == (0, 1, [])
    assert len(billed([first, second])) == len(before) + 1


def test_a_pool_is_rehearsed_in_the_sandbox(tmp_path):
    path = pooled(tmp_path, prompts(3), {"a": {}, "b": {}})
    done, result = run(path, tmp_path, "--provider", "sandbox")
    assert (done.returncode, result["images"]) == (0, 3), done.stdout + done.stderr
    assert "pooled-sandbox" in result["output"]


def test_three_accounts_one_poor_one_away_for_a_while_and_the_run_killed_again_and_again(tmp_path):
    """Each job is billed once: what was sent to an account is asked for there, whoever else is idle."""
    chance, options = random.Random(7), ("--emulate", "kapon", "--blank-images", "--latency", "0.3")
    with ExitStack() as stack:

        def gateway(*more):
            return stack.enter_context(SandboxProcess(*options, *more))

        kept = ("--concurrency", "4", "--state", str(tmp_path / "one.jsonl"))
        one, two = gateway(*kept), gateway("--balance", "12")
        three = gateway("--faults", "drop_after=0.1,error_after=0.1")
        slots = {"one": 4, "two": 3, "three": 3}
        accounts = {
            name: {"base_url": each.base_url, "limits": {"concurrency": slots[name]}}
            for name, each in zip(slots, (one, two, three), strict=True)
        }
        text = prompts(40, "run: {max_attempts: 9}\n")
        path = pooled(tmp_path, text, accounts, {"pool": ["one", "two", "three"], "spill": True})
        for kill in range(5):
            running = started("run", path, "--quiet", cwd=tmp_path)
            if kill == 1:
                one.kill()
            if kill == 3:
                one = gateway(*kept, "--port", str(urlsplit(one.base_url).port))
            try:
                running.communicate(timeout=chance.uniform(0.7, 1.1))
            except subprocess.TimeoutExpired:
                running.kill()
                running.communicate()
        done, _ = run(path, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(check_invariant(tmp_path / "outputs" / "pooled")) == 40
        by_job = billed([one, two, three])
        assert len(by_job) == 40
        assert set(by_job.values()) == {1}
        assert accepted(two) <= 12


def test_an_account_that_is_away_for_a_while_comes_back(tmp_path, sandboxes):
    """By `spill` the other one goes on meanwhile, and neither job is made twice."""
    with ScriptedGateway(latency=0.02) as first:
        second = sandboxes("--latency", "0.2")
        away = partial(web.Response, status=503, text="no healthy upstream")  # says that nothing was passed on
        first.answers["create"] = lambda call: away() if call.number <= 4 else None
        accounts = {
            "first": {"base_url": first.base_url, "lists_tasks": "no", "limits": {"concurrency": 3}},
            "second": {"base_url": second.base_url, "limits": {"concurrency": 2}},
        }
        path = pooled(tmp_path, prompts(40), accounts, {"pool": ["first", "second"], "spill": True})
        done, result = run(path, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert all(each["images"] and each["stopped"] is None for each in result["accounts"]), result["accounts"]
        assert "answers again" in done.stderr
        assert set((first.billed_by_job() + billed([second])).values()) == {1}
        assert len(check_invariant(tmp_path / "outputs" / "pooled")) == 40


def test_jobs_that_an_account_refuses_for_no_reason_of_their_own_go_to_the_next_one(tmp_path, sandboxes):
    with ScriptedGateway(latency=0.02) as first:
        second = sandboxes()
        first.answers["create"] = lambda _: first.no(400, 1201, "not for you")
        accounts = {
            "first": {"base_url": first.base_url, "lists_tasks": "no"},
            "second": {"base_url": second.base_url},
        }
        done, result = run(pooled(tmp_path, prompts(12), accounts), tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert [each["images"] for each in result["accounts"]] == [0, 12]
        assert "the account itself may be refused" in result["accounts"][0]["stopped"]
        assert "makes no more jobs" in done.stderr


def test_what_a_lost_account_has_in_flight_waits_for_it_and_the_run_says_so(tmp_path, sandboxes):
    with ScriptedGateway(latency=0.02) as first:
        second = sandboxes()
        first.answers["query"] = lambda _: first.no(500, 5000)
        accounts = {
            "first": {"base_url": first.base_url, "lists_tasks": "no", "limits": {"concurrency": 2}},
            "second": {"base_url": second.base_url, "limits": {"concurrency": 2}},
        }
        text = prompts(10, "run: {give_up_after: 2s, grace: 0s}\n")
        path = pooled(tmp_path, text, accounts, {"pool": ["first", "second"], "spill": True})
        done, result = run(path, tmp_path)
        assert done.returncode == 3, done.stdout + done.stderr
        assert result["jobs"]["done"] == 8
        assert "first: " in result["reason"]
        first.answers.clear()
        done, result = run(path, tmp_path)
        assert (done.returncode, result["started"]) == (0, 0)
        assert set((first.billed_by_job() + billed([second])).values()) == {1}


def test_the_budget_of_all_is_kept_by_all_of_them_together(tmp_path, sandboxes):
    first, second = sandboxes(), sandboxes()
    accounts = {
        "a": {"base_url": first.base_url, "limits": {"concurrency": 3}},
        "b": {"base_url": second.base_url, "limits": {"concurrency": 2}},
    }
    spread = {"pool": ["a", "b"], "by": "spread"}
    path = pooled(tmp_path, prompts(20, "budget: {max_images: 11}\n"), accounts, spread)
    done, result = run(path, tmp_path)
    assert (done.returncode, result["reason_code"]) == (3, "budget"), done.stdout + done.stderr
    assert accepted(first) + accepted(second) == 11


def test_a_crash_at_any_step_of_a_pool_pays_nothing_twice(tmp_path, sandboxes):
    """One account loses every second answer and has a budget for three jobs. BATCHGEN_ALL_POINTS=1 tries all steps."""
    first, second = sandboxes("--faults", "drop_after=0.5"), sandboxes()
    accounts = {
        "a": {"base_url": first.base_url, "budget": {"max_images": 3}},
        "b": {"base_url": second.base_url},
    }

    def place(name):
        (tmp_path / name).mkdir()
        text = f"matrix: {{prompt: [{name} one, {name} two, {name} three, {name} four]}}\n"
        return pooled(tmp_path / name, text, accounts, {"pool": ["a", "b"], "by": "spread"})

    steps = len(killed_at(0, place("whole")))
    tried = range(1, steps) if os.environ.get("BATCHGEN_ALL_POINTS") else range(steps // 8, steps, steps // 4)
    for step in tried:
        path = place(f"s{step}")
        killed_at(step, path)
        done, result = run(path, path.parent)
        if "unknown" in result["jobs"]:  # an account that has accepted nothing yet is not believed
            done, _ = run(path, path.parent, "--retry-unknown")
        assert done.returncode == 0, f"{step}: {done.stdout}{done.stderr}"
        rows = check_invariant(path.parent / "outputs" / "pooled")
        assert len(rows) == 4
        assert sum(row["provider"] == "a" for row in rows) <= 3
    by_job = billed([first, second])
    assert len(by_job) == 4 * (len(tried) + 1)
    assert set(by_job.values()) == {1}


DECLARED = """\
version: 1
name: tried
provider: {pool: [one, two], by: spread}
providers:
  one: {use: ./one.yaml, limits: {concurrency: 2}, models: ["runware:101@1"], model_names: {flux: "runware:101@1"}}
  two: {use: ./two.yaml, limits: {concurrency: 2}, models: [fal-ai/flux/dev], model_names: {flux: fal-ai/flux/dev}}
defaults: {aspect_ratio: 1:1, model: flux}
matrix:
  prompt: [a fox, a cat, a dog, an owl, {prompt: a boar, parameters: {CFGScale: 7}},
           {prompt: a pig, parameters: {guidance_scale: 7}}]
  parameters: {seed: 7}
"""


def test_definitions_with_other_parameters_share_what_both_can_send_and_what_is_lost_stays(tmp_path, monkeypatch):
    """The user's seed is no mark at fal alone: what is lost there is `unknown`, and is not offered to the other one."""
    monkeypatch.setenv("VENDOR_KEY", VENDOR_KEY)
    with VENDORS["runware"](0, "cut", "page") as one, VENDORS["fal"](0, "cut") as two:
        for name, vendor in (("one", one), ("two", two)):
            (tmp_path / f"{name}.yaml").write_text(vendor.definition(), encoding="utf-8")
        path = tmp_path / "manifest.yaml"
        path.write_text(DECLARED, encoding="utf-8")
        for _ in range(2):
            assert batchgen("run", path, cwd=tmp_path).returncode == 1
            billed_by_both = one.billed + two.billed
            assert billed_by_both == dict.fromkeys(("a fox", "a cat", "a dog", "an owl", "a boar", "a pig"), 1)
            (lost,) = rows_of(tmp_path / "outputs" / "tried", "failures.csv")
            assert (lost["status"], lost["provider"]) == ("unknown", "two")
            assert len(check_invariant(tmp_path / "outputs" / "tried")) == 5
        assert "a boar" in one.billed
        assert "a pig" in two.billed
