"""Parameters that an account declares, from the manifest to every view of the output, with the real command."""

from __future__ import annotations

import csv
import io
import json
import shutil

import pytest
from command import batchgen
from output_checks import check_invariant, rows_of

MANIFEST = """\
version: 1
name: tried
provider: studio
providers:
  studio:
    use: sandbox
    parameters: {seed: {type: integer}, style: {type: string}, extra: {type: object}}
matrix:
  prompt: [a fox, {prompt: a cat forbidden-word, parameters: {style: "=1+1"}}]
  parameters: {seed: [7, 2.0], extra: {b: 1.0, a: [x]}}
include: [{prompt: plain}]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parameters")
    (folder / "m.yaml").write_text(MANIFEST, encoding="utf-8")
    done = batchgen("run", "m.yaml", cwd=folder)
    assert done.returncode == 1, done.stdout + done.stderr  # two are rejected
    return folder


def test_the_views_have_a_column_for_each_that_is_given(made):
    rows = check_invariant(made / "outputs" / "tried")
    shown = [(row["prompt"], row["parameter.seed"], row["parameter.extra"], row["parameter.style"]) for row in rows]
    extra = '{"a":["x"],"b":1}'
    assert shown == [("a fox", "7", extra, ""), ("a fox", "2", extra, ""), ("plain", "", "", "")]
    assert json.loads(rows[0]["params"]) == {"n": 1, "seed": 7, "extra": {"a": ["x"], "b": 1}}
    failed = rows_of(made / "outputs" / "tried", "failures.csv")
    assert [(row["status"], row["parameter.style"]) for row in failed] == [("rejected", "=1+1")] * 2


def test_an_output_without_them_has_no_such_column(tmp_path):
    (tmp_path / "m.yaml").write_text(
        "version: 1\nname: tried\nprovider: sandbox\nmatrix: {prompt: a}\n", encoding="utf-8"
    )
    assert batchgen("run", "m.yaml", cwd=tmp_path).returncode == 0
    (row,) = rows_of(tmp_path / "outputs" / "tried", "index.csv")
    assert not [name for name in row if name.startswith("parameter.")]


def test_plan_shows_and_selects_them(made):
    done = batchgen("plan", "m.yaml", "--format", "csv", "--only", "seed=2", "--only", "style==1+1", cwd=made)
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert (row["parameter.seed"], row["parameter.style"]) == ("2", "'=1+1")  # no formula for a spreadsheet
    shown = batchgen("plan", "m.yaml", "--detailed", cwd=made).stdout
    assert 'extra={"a":["x"],"b":1}, seed=7' in shown
    listed = json.loads(batchgen("plan", "m.yaml", "--detailed", "--json", cwd=made).stdout)["listed"]
    assert [job.get("seed") for job in listed] == [7, 2, 7, 2, None]


def test_a_changed_parameter_is_said_to_be_why(made, tmp_path):
    shutil.copytree(made / "outputs", tmp_path / "outputs")
    text = MANIFEST.replace("seed: [7, 2.0]", "seed: [7, 3]")
    (tmp_path / "m.yaml").write_text(text, encoding="utf-8")
    done = batchgen("plan", "m.yaml", cwd=tmp_path)
    assert "2 jobs, 2 images" in done.stdout
    assert batchgen("run", "m.yaml", "--only", "seed=3", "--only", "prompt=a fox", cwd=tmp_path).returncode == 0
    assert "retired" in {path.name for path in (tmp_path / "outputs" / "tried").iterdir()}


def test_export_and_gallery_have_them_and_where_selects_by_them(made):
    to = made / "out.jsonl"
    done = batchgen("export", "m.yaml", "--format", "jsonl", "--to", to, "--where", "parameter.seed<5", cwd=made)
    assert done.returncode == 0, done.stderr
    (record,) = map(json.loads, to.read_text(encoding="utf-8").splitlines())
    assert record["parameter.seed"] == "2"
    assert batchgen("gallery", "m.yaml", cwd=made).returncode == 0
    (columns,) = (made / "outputs" / "tried" / "gallery").rglob("columns.js")
    assert "parameter.seed" in columns.read_text(encoding="utf-8")


def test_a_ledger_that_was_lost_is_rebuilt_with_them(made, tmp_path):
    shutil.copytree(made / "outputs", tmp_path / "outputs")
    (tmp_path / "m.yaml").write_text(MANIFEST, encoding="utf-8")
    for path in (tmp_path / "outputs" / "tried").glob("state.sqlite3*"):
        path.unlink()
    done = batchgen("audit", "m.yaml", "--adopt", cwd=tmp_path)
    assert "3" in done.stdout, done.stdout + done.stderr
    plan = json.loads(batchgen("plan", "m.yaml", "--json", cwd=tmp_path).stdout)
    assert plan["done"]["jobs"] == 3
