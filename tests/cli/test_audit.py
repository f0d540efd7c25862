"""`batchgen audit`: what was paid for against what is there, with the gateway as the second witness."""

from __future__ import annotations

import json
import shutil

import pytest
from command import accepted_by, batchgen, manifest, prompts, started, wait_for
from output_checks import check_invariant, rows_of
from sandbox_server import SandboxServer

LINES = ("--latency", "0.1", "--blank-images")


def audited(path, cwd, *words):
    done = batchgen("audit", path, "--json", *words, cwd=cwd)
    return done.returncode, json.loads(done.stdout)


def test_a_whole_output_is_consistent_and_one_sentence_says_so(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(3, "  n: [2]\n"))
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    done = batchgen("audit", path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "6 images paid for, 6 delivered, 0 twice."
    code, data = audited(path, tmp_path)
    assert (code, data["images"]["paid"], data["gateways"][0]["tasks"]) == (0, 6, 3)


def test_offline_it_asks_nobody_and_needs_no_gateway(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(2))
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    before = gateway.usage()["requests"]
    assert audited(path, tmp_path, "--offline")[1]["gateways"] == []
    after = gateway.usage()["requests"]
    assert (after.get("list"), after.get("query")) == (before.get("list"), before.get("query"))
    path.write_text(path.read_text(encoding="utf-8").replace("SANDBOX_KEY", "NO_SUCH_KEY"), encoding="utf-8")
    code, data = audited(path, tmp_path)
    assert code == 0
    assert "NO_SUCH_KEY" in data["gateways"][0]["error"]


def test_it_writes_nothing_into_the_output(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(2))
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    before = {file: file.read_bytes() for file in (tmp_path / "outputs").rglob("*") if file.is_file()}
    audited(path, tmp_path)
    assert {file: file.read_bytes() for file in (tmp_path / "outputs").rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("lists", ["--lists", "--no-lists"])
def test_what_was_found_by_asking_is_told(tmp_path, lists):
    with SandboxServer("--emulate", "kapon", lists, *LINES, "--faults", "drop_after=1") as gateway:
        path = manifest(tmp_path, gateway, prompts(3))
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        code, data = audited(path, tmp_path)
        assert (code, data["adopted_tasks"], data["images"]["paid"]) == (0, 3, 3)
        assert data["gateways"][0]["asked"] == ("list" if lists == "--lists" else "one by one")


def test_what_is_unknown_is_named(tmp_path):
    with SandboxServer("--emulate", "anyapi", *LINES, "--faults", "drop_after=1") as gateway:
        path = manifest(tmp_path, gateway, prompts(2), use="anyapi")
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        code, data = audited(path, tmp_path)
        assert (code, len(data["unknown"]), data["images"]["paid"]) == (1, 2, 0)
        assert "lists no tasks" in data["gateways"][0]["error"]


def test_a_paid_image_that_is_not_here_is_named(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(2))
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    output = tmp_path / "outputs" / "tried"
    lost = rows_of(output)[0]
    (output / lost["file_name"]).unlink()
    code, data = audited(path, tmp_path, "--offline")
    assert code == 1
    assert [one["job_id"] for one in data["paid_but_not_delivered"]] == [lost["job_id"]]
    assert data["sentence"] == "2 images paid for, 1 delivered, 0 twice."


def test_a_task_that_no_ledger_knows_is_adopted_and_fetched_unpaid(tmp_path):
    """The ledger is an old copy: what was sent after it was made is at the gateway alone."""
    with SandboxServer("--emulate", "kling", *LINES) as gateway:
        path = manifest(tmp_path, gateway, prompts(1))
        output = tmp_path / "outputs" / "tried"
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        shutil.copy(output / "state.sqlite3", tmp_path / "backup")
        index = (output / "index.csv").read_bytes()
        path.write_text(path.read_text(encoding="utf-8") + "    - two more\n    - three more\n", encoding="utf-8")
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        for row in rows_of(output)[1:]:
            (output / row["file_name"]).unlink()
        shutil.copy(tmp_path / "backup", output / "state.sqlite3")
        (output / "index.csv").write_bytes(index)

        code, data = audited(path, tmp_path)
        assert (code, [one["adoptable"] for one in data["not_in_the_ledger"]]) == (1, [True, True])
        said = batchgen("audit", path, "--adopt", cwd=tmp_path)
        assert said.returncode == 0, said.stdout + said.stderr
        assert "2 tasks adopted" in said.stdout
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        assert len(check_invariant(output)) == 3
        assert gateway.usage()["requests"]["create"] == {"0": 3}
        assert audited(path, tmp_path)[0] == 0


def test_tasks_of_another_output_are_counted_and_left_alone(tmp_path):
    with SandboxServer("--emulate", "kling", *LINES) as gateway:
        path = manifest(tmp_path, gateway, prompts(2))
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        path.write_text(path.read_text(encoding="utf-8").replace("prompt number", "another"), encoding="utf-8")
        other = ("--output", tmp_path / "other")
        assert batchgen("run", path, *other, cwd=tmp_path).returncode == 0
        code, data = audited(path, tmp_path, *other)
        assert (code, data["of_other_outputs"], data["not_in_the_ledger"]) == (0, 2, [])


def test_while_a_run_is_going_it_reads_and_does_not_adopt(tmp_path):
    with SandboxServer("--emulate", "kapon", "--latency", "60", "--blank-images") as gateway:
        path = manifest(tmp_path, gateway, prompts(2))
        run = started("run", path, cwd=tmp_path)
        wait_for(lambda: accepted_by(gateway) == 2)
        code, data = audited(path, tmp_path)
        adopting = batchgen("audit", path, "--adopt", cwd=tmp_path)
        run.kill()
        run.communicate()
        assert (code, data["images"]["in_flight"]) == (0, 2)
        assert adopting.returncode == 4


def test_nothing_to_audit_and_options_that_exclude_each_other_are_told(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(1))
    assert batchgen("audit", path, cwd=tmp_path).returncode == 2
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    done = batchgen("audit", path, "--rescue", path, cwd=tmp_path)
    assert done.returncode == 2
    assert "give both" in done.stderr
