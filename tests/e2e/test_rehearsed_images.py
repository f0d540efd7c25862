"""What a sandbox painted and what a real account made are never taken for each other."""

from __future__ import annotations

import json
import sqlite3

import pytest
from command import batchgen, prompts, started, wait_for
from output_checks import check_invariant
from sandbox_server import SandboxServer
from scripted_gateway import ScriptedGateway

PLAIN = "version: 1\nname: tried\nprovider: {name}\nproviders:\n  {providers}\n" + prompts(8)


def written(tmp_path, name, url="http://127.0.0.1:9", more=""):
    real = f'kapon: {{base_url: "{url}", api_key_env: SANDBOX_KEY}}{more}'
    (tmp_path / "m.yaml").write_text(PLAIN.format(name=name, providers=real), encoding="utf-8")


def command(tmp_path, *words, code=0):
    done = batchgen(*words, cwd=tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def told(tmp_path, *words, code=0):
    return json.loads(command(tmp_path, *words, "--json", code=code).stdout)


def rows(tmp_path):
    return check_invariant(tmp_path / "outputs" / "tried")


def test_painted_images_are_made_anew_at_the_real_account(tmp_path):
    written(tmp_path, "sandbox")
    command(tmp_path, "run", "m.yaml")
    with ScriptedGateway() as gateway:
        written(tmp_path, "kapon", gateway.base_url)
        plan = told(tmp_path, "plan", "m.yaml")
        assert (plan["make"]["jobs"], plan["done"]["jobs"]) == (8, 0)
        assert "painted by a sandbox" in str(plan["make"]["reasons"])
        audit = told(tmp_path, "audit", "m.yaml", "--offline")
        assert (audit["images"]["paid"], audit["images"]["delivered"], audit["painted_jobs"]) == (0, 0, 8)
        assert "A sandbox painted 8 images" in command(tmp_path, "run", "m.yaml").stderr
        assert len(gateway.tasks) == 8
        audit = told(tmp_path, "audit", "m.yaml")
        assert (audit["images"]["paid"], audit["images"]["delivered"], audit["painted_jobs"]) == (8, 8, 0)
        command(tmp_path, "verify", "m.yaml")
        assert "Nothing to do" in command(tmp_path, "run", "m.yaml").stdout
        assert len(gateway.tasks) == 8
    assert {row["provider"] for row in rows(tmp_path)} == {"kapon"}
    assert len(list((tmp_path / "outputs" / "tried" / "retired").rglob("*-painted.png"))) == 8


def test_painted_images_are_not_adopted_for_a_real_account(tmp_path):
    written(tmp_path, "sandbox")
    command(tmp_path, "run", "m.yaml")
    written(tmp_path, "kapon")
    adopted = told(tmp_path, "audit", "m.yaml", "--adopt", "--offline")
    assert (adopted["images"]["paid"], adopted["images"]["delivered"]) == (0, 0)
    assert told(tmp_path, "plan", "m.yaml")["make"]["jobs"] == 8


def test_painted_images_are_not_in_the_way_of_a_run_after_one_that_was_killed(tmp_path):
    written(tmp_path, "sandbox")
    command(tmp_path, "run", "m.yaml")
    with ScriptedGateway(latency=1.0) as gateway:
        written(tmp_path, "kapon", gateway.base_url)
        going = started("run", "m.yaml", "--quiet", cwd=tmp_path)
        wait_for(lambda: gateway.tasks)
        going.kill()
        going.communicate()
        gateway.latency = 0.1
        assert told(tmp_path, "audit", "m.yaml", "--adopt", "--offline")["images"]["delivered"] == 0
        command(tmp_path, "run", "m.yaml")
        assert len(gateway.tasks) == len(rows(tmp_path)) == 8


def test_painted_images_leave_the_index_though_the_budget_ends_the_real_run(tmp_path):
    written(tmp_path, "sandbox")
    command(tmp_path, "run", "m.yaml")
    with ScriptedGateway() as gateway:
        written(tmp_path, "kapon", gateway.base_url, "\nbudget: {max_images: 3}")
        command(tmp_path, "run", "m.yaml", code=3)
    assert [row["provider"] for row in rows(tmp_path)] == ["kapon"] * 3


def test_what_a_sandbox_of_its_own_process_painted_does_not_count_either(tmp_path):
    with SandboxServer("--emulate", "kapon", "--latency", "0.1", "--blank-images", marked=True) as sandbox:
        written(tmp_path, "kapon", sandbox.base_url)
        command(tmp_path, "run", "m.yaml")
        assert "Nothing to do" in command(tmp_path, "run", "m.yaml").stdout
    with ScriptedGateway() as gateway:
        written(tmp_path, "kapon", gateway.base_url)
        command(tmp_path, "run", "m.yaml")
        assert len(gateway.tasks) == 8
    assert len(rows(tmp_path)) == 8


def test_so_does_what_a_sandbox_painted_inside_its_answers(tmp_path):
    openai = PLAIN.replace("kapon", "openai")
    with SandboxServer("--emulate", "openai", "--latency", "0", "--blank-images", marked=True) as sandbox:
        account = f'there: {{use: openai, base_url: "{sandbox.base_url}", api_key_env: SANDBOX_KEY}}'
        (tmp_path / "m.yaml").write_text(openai.format(name="there", providers=account), encoding="utf-8")
        command(tmp_path, "run", "m.yaml")
    database = sqlite3.connect(tmp_path / "outputs" / "tried" / "state.sqlite3")
    assert database.execute("SELECT DISTINCT rehearsal, base_url <> '' FROM attempt").fetchall() == [(1, 1)]
    database.close()


def test_what_is_under_way_in_a_sandbox_is_left_for_the_real_account(tmp_path):
    with SandboxServer("--emulate", "kapon", "--latency", "600", marked=True) as sandbox:
        written(tmp_path, "kapon", sandbox.base_url, "\nrun: {task_timeout: 0.2s}")
        command(tmp_path, "run", "m.yaml", code=1)
    with ScriptedGateway() as gateway:
        written(tmp_path, "kapon", gateway.base_url)
        command(tmp_path, "run", "m.yaml")
        assert len(gateway.tasks) == 8


def test_paid_images_satisfy_a_rehearsal_and_are_not_retired(tmp_path):
    with ScriptedGateway() as gateway:
        written(tmp_path, "kapon", gateway.base_url)
        command(tmp_path, "run", "m.yaml")
        written(tmp_path, "sandbox", gateway.base_url)
        plan = told(tmp_path, "plan", "m.yaml")
        assert (plan["make"]["jobs"], plan["done"]["jobs"], plan["retired_images"]) == (0, 8, 0)
        assert "made by a real account" in str(plan["done"]["reasons"])
        assert "made by a real account" in command(tmp_path, "run", "m.yaml").stderr
    assert {row["provider"] for row in rows(tmp_path)} == {"kapon"}


@pytest.mark.parametrize(("option", "status"), [("--retry-unknown", "unknown"), ("--retry-failed", "gone")])
def test_a_job_in_doubt_stays_in_doubt_after_it_was_rehearsed(tmp_path, option, status):
    with ScriptedGateway() as gateway:
        written(tmp_path, "kapon", gateway.base_url)
        command(tmp_path, "run", "m.yaml")
        creates = gateway.count("create")
        database = sqlite3.connect(tmp_path / "outputs" / "tried" / "state.sqlite3", isolation_level=None)
        outcome = {"unknown": "unknown", "gone": "lost"}[status]
        database.execute("DELETE FROM image")
        database.execute("DELETE FROM meta WHERE key <> 'id_version'")
        database.execute("UPDATE attempt SET outcome = ?, cost = NULL", (outcome,))
        database.execute("UPDATE job SET status = 'pending'")  # as the option leaves it in a rehearsal
        database.close()
        for file in (tmp_path / "outputs" / "tried" / "images").rglob("*.png"):
            file.unlink()
        (tmp_path / "outputs" / "tried" / "index.csv").unlink()
        written(tmp_path, "sandbox", gateway.base_url)
        command(tmp_path, "run", "m.yaml")
        written(tmp_path, "kapon", gateway.base_url)
        plan = told(tmp_path, "plan", "m.yaml")
        assert (plan["make"]["jobs"], plan["ended"][status]["jobs"]) == (0, 8), option
        assert gateway.count("create") == creates


def test_painted_images_cost_nothing_of_the_real_budget(tmp_path):
    written(tmp_path, "sandbox")
    command(tmp_path, "run", "m.yaml")
    with ScriptedGateway() as gateway:
        written(tmp_path, "kapon", gateway.base_url, "\nbudget: {max_images: 8}")
        assert told(tmp_path, "plan", "m.yaml")["within_budget"] is None
        command(tmp_path, "run", "m.yaml")
        assert len(gateway.tasks) == 8
