"""`plan`: what it counts and the reasons it gives, against a ledger that a real run left."""

from __future__ import annotations

import json

import pytest
from command import batchgen, manifest, prompts


def planned(path, *words):
    done = batchgen("plan", path, "--json", *words, cwd=path.parent)
    assert done.returncode in {0, 5}, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def made(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(3, "  aspect_ratio: [1:1]\n"))
    assert planned(path)["make"]["reasons"] == {"nothing is there yet": 3}
    assert batchgen("plan", path, "--exit-code", cwd=tmp_path).returncode == 5
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    assert batchgen("plan", path, "--exit-code", cwd=tmp_path).returncode == 0
    return path


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "reasons"),
    [
        ("prompt number 1", "another prompt", {"new prompt": 1}),
        ("[1:1]", "[16:9]", {"changed: aspect_ratio 1:1 → 16:9": 3}),
        ("[1:1]", "[1:1, 16:9]", {"new combination of a known prompt": 3}),
        ("matrix:", "defaults: {n: 2}\nmatrix:", {"changed: n 1 → 2": 3}),
        ("matrix:", "repeat: 2\nmatrix:", {"one more repeat": 3}),
    ],
)
def test_each_job_to_make_has_a_reason(made, old, new, reasons):
    edit(made, old, new)
    assert planned(made)["make"]["reasons"] == reasons


def test_a_lost_file_is_fetched_again_not_made_again(made):
    next((made.parent / "outputs" / "tried" / "images").rglob("*.png")).unlink()
    plan = planned(made)
    assert (plan["make"]["jobs"], plan["done"]["jobs"], plan["resumed"]["jobs"]) == (0, 2, 1)
    assert list(plan["resumed"]["reasons"]) == ["file lost or changed: to be fetched again, unpaid"]
    assert batchgen("plan", made, "--exit-code", cwd=made.parent).returncode == 5


def test_failed_jobs_say_why(made):
    edit(made, "prompt number 0", "a forbidden-word")
    assert batchgen("run", made, cwd=made.parent).returncode == 1
    (reason,) = planned(made)["ended"]["rejected"]["reasons"]
    assert reason.startswith("1301 ")


def test_what_is_no_longer_wanted_is_counted(made):
    edit(made, "    - prompt number 0\n", "")
    assert planned(made)["retired_images"] == 1


def test_a_budget_that_will_stop_the_run_is_said_before(made):
    edit(made, "matrix:", "budget: {max_images: 4}\nmatrix:")
    edit(made, "    - prompt number 2\n", "    - prompt number 2\n    - one more\n    - and another\n")
    assert planned(made)["within_budget"] == 1
    assert "stops the run after 1 job" in batchgen("plan", made, cwd=made.parent).stdout


def test_jobs_are_listed_only_when_details_are_asked_for(made):
    assert "listed" not in planned(made)
    listed = planned(made, "--detailed")["listed"]
    assert [(row["status"], row["prompt"]) for row in listed] == [("done", f"prompt number {i}") for i in range(3)]
    assert len(batchgen("plan", made, "--detailed", cwd=made.parent).stdout.splitlines()) >= 5


def test_only_selects_what_is_planned(made):
    edit(made, "[1:1]", "[1:1, 16:9]")
    plan = planned(made, "--only", "prompt=*number 1", "--only", "aspect_ratio=16:9")
    assert (plan["make"]["jobs"], plan["done"]["jobs"]) == (1, 0)


def test_a_valid_manifest_is_reported_with_its_jobs(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(3, "  n: [1, 2]\n"))
    assert batchgen("validate", path.name, cwd=tmp_path).stdout == f"{path.name}: valid, 6 jobs\n"


def test_a_damaged_ledger_is_refused_and_kept(made):
    state = made.parent / "outputs" / "tried" / "state.sqlite3"
    state.write_bytes(b"not a ledger " * 100)
    for command in ("plan", "run", "status", "verify"):
        done = batchgen(command, made, cwd=made.parent)
        assert done.returncode == 2, (command, done.stderr)
        assert "state.sqlite3" in done.stderr
    assert state.read_bytes() == b"not a ledger " * 100
