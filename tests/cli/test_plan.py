"""`plan`: what it counts and the reasons it gives, against a ledger that a real run left."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
from types import SimpleNamespace

import pytest
from command import KEY, batchgen, drawn_on, manifest, prompts

from batchgen.cli.terminal import cells


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


TABLE = """
matrix:
  prompt:
    - =HYPERLINK({{ product }})
    - "a long prompt about {{ product }} 狐狐狐狐狐狐狐狐狐狐狐, and a line nobody sees\\nhere"
  vars: {product: ["@mug", "lamp, \\"big\\""]}
"""


def test_the_list_has_prompts_labels_and_the_names_that_a_run_gives(tmp_path, gateway):
    path = manifest(tmp_path, gateway, TABLE)
    listed = planned(path, "--detailed")["listed"]
    assert [row["labels"] for row in listed] == [{"product": "@mug"}, {"product": 'lamp, "big"'}] * 2
    text = batchgen("plan", path, "--detailed", cwd=tmp_path).stdout
    assert "            product=@mug\n            =HYPERLINK(@mug)\n" in text
    assert "line nobody sees here\n" in text  # not cut: this is no terminal
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    assert all((tmp_path / "outputs" / "tried" / row["file_name"]).exists() for row in listed)
    assert all(row["file_name"] in text for row in listed)


def test_the_list_as_csv_has_no_formula_and_a_column_for_each_label(tmp_path, gateway):
    path = manifest(tmp_path, gateway, TABLE)
    done = batchgen("plan", path, "--format", "csv", "--only", "product=@mug", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = csv.DictReader(io.StringIO(done.stdout))
    assert (first["status"], first["prompt"], first["label.product"]) == ("pending", "'=HYPERLINK(@mug)", "'@mug")
    assert second["prompt"].endswith("nobody sees\nhere")
    assert first["file_name"].startswith("images/kling-v1/16x9/")


@pytest.mark.parametrize("columns", [80, 40])
def test_on_a_terminal_the_prompts_are_cut_to_its_width(tmp_path, gateway, columns):
    path = manifest(tmp_path, gateway, TABLE)
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "batchgen", "plan", path, "--detailed"]
    env = os.environ | KEY | {"COLUMNS": str(columns)}
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=child, stderr=subprocess.PIPE) as process:
        os.close(child)
        drawn = drawn_on(parent)
    assert process.returncode == 0
    lines = [line for line in drawn.decode().splitlines() if line.startswith(" " * 12)]
    assert len(lines) == 8
    assert {cells(line) <= columns for line in lines} == {True}
    assert any(line.endswith("…") for line in lines)


def test_the_space_on_the_disk_is_estimated_from_the_images_that_are_there(made, monkeypatch):
    path = made.parent / "outputs" / "tried"
    mean = sum(file.stat().st_size for file in path.rglob("*.png")) / 3
    edit(made, "[1:1]", "[1:1, 16:9]\ndefaults: {n: 2}")
    assert planned(made)["disk_bytes"] == round(mean * 2) * 6
    assert planned(made, "--output", "elsewhere")["disk_bytes"] == 12 * 1_500_000
    assert "  disk              about 18 MB\n" in batchgen("plan", made, "--output", "e", cwd=made.parent).stdout
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=17_000_000))
    text = batchgen("plan", made, "--output", "e", cwd=made.parent).stdout
    assert "about 18 MB, and only 17 MB are free: free some, or choose another --output\n" in text


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
