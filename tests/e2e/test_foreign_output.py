"""An output folder that somebody else has made: nothing is written, moved or deleted outside it."""

from __future__ import annotations

import sqlite3

import pytest
from command import batchgen, manifest, prompts
from output_checks import check_invariant, rows_of
from scripted_gateway import ScriptedGateway

OWN = (
    *(".lock", ".scratch", "state.sqlite3", "state.sqlite3-wal", "state.sqlite3-journal"),
    *(".index.csv.new", ".failures.csv.new", ".sandbox.jsonl"),
)


@pytest.fixture
def gateway():
    with ScriptedGateway() as scripted:
        yield scripted


@pytest.fixture
def outside(tmp_path):
    """What must not change, and no new file beside it."""
    folder = tmp_path / "outside"
    (folder / "inner").mkdir(parents=True)
    (folder / "file.png").write_bytes(b"mine")
    yield folder
    assert sorted(path.name for path in folder.rglob("*")) == ["file.png", "inner"]
    assert (folder / "file.png").read_bytes() == b"mine"


def run(tmp_path, gateway, number=2):
    path = manifest(tmp_path, gateway, prompts(number))
    return batchgen("run", path, cwd=tmp_path)


def refused(done, gateway, creates=0):
    assert done.returncode in {2, 3}, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "defect" not in done.stderr
    assert gateway.count("create") == creates


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("target", ["file.png", "new", "inner"])
def test_a_link_in_place_of_a_file_of_batchgen_s_own_is_refused(tmp_path, gateway, outside, name, target):
    output = tmp_path / "outputs" / "tried"
    output.mkdir(parents=True)
    (output / name).symlink_to(outside / target)
    done = run(tmp_path, gateway)
    refused(done, gateway)
    assert "symbolic link" in done.stderr


@pytest.mark.parametrize("command", ["status", "plan", "verify", "audit"])
def test_commands_that_only_look_follow_no_link_to_a_ledger(tmp_path, gateway, command):
    assert run(tmp_path, gateway).returncode == 0
    output = tmp_path / "outputs" / "tried"
    (output / "state.sqlite3").rename(tmp_path / "elsewhere")
    (output / "state.sqlite3").symlink_to(tmp_path / "elsewhere")
    done = batchgen(command, tmp_path / "manifest.yaml", cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    assert "symbolic link" in done.stderr


@pytest.mark.parametrize("top", ["images", ".scratch"])
def test_a_link_where_it_is_tried_whether_files_can_be_made_is_not_followed(tmp_path, gateway, outside, top):
    folder = tmp_path / "outputs" / "tried" / top
    folder.mkdir(parents=True)
    (folder / ".probe").symlink_to(outside / "new")
    assert run(tmp_path, gateway).returncode == 0


def test_a_link_among_the_scratch_files_is_not_followed(tmp_path, gateway, outside):
    assert run(tmp_path, gateway, 1).returncode == 0
    output = tmp_path / "outputs" / "tried"
    row = rows_of(output)[0]
    (output / row["file_name"]).unlink()
    (output / ".scratch").mkdir()
    (output / ".scratch" / f"{row['job_id']}-1-0-0").symlink_to(outside / "new")
    assert run(tmp_path, gateway, 1).returncode == 0
    assert len(check_invariant(output)) == 1


def test_the_image_folder_may_be_on_another_disk_and_a_folder_below_it_may_not(tmp_path, gateway, outside):
    output, other = tmp_path / "outputs" / "tried", tmp_path / "another disk"
    output.mkdir(parents=True)
    other.mkdir()
    (output / "images").symlink_to(other)
    assert run(tmp_path, gateway).returncode == 0
    assert len(check_invariant(output)) == 2
    (other / "kling-v1").rename(tmp_path / "away")
    (other / "kling-v1").symlink_to(outside / "inner")
    done = run(tmp_path, gateway)
    refused(done, gateway, creates=2)
    assert "leads out of" in done.stderr


@pytest.mark.parametrize(
    "path", ["../../outside/file.png", "images/../../../outside/file.png", "{outside}/file.png", "retired/../../x", "x"]
)
@pytest.mark.parametrize("dropped", [True, False])
def test_a_ledger_that_names_files_elsewhere_is_refused(tmp_path, gateway, outside, path, dropped):
    assert run(tmp_path, gateway).returncode == 0
    db = sqlite3.connect(tmp_path / "outputs" / "tried" / "state.sqlite3")
    with db:
        db.execute("UPDATE image SET path = ?, bytes = 4", (path.format(outside=outside),))
    db.close()
    done = run(tmp_path, gateway, 1 if dropped else 3)
    refused(done, gateway, creates=2)
    assert "own folders" in done.stderr


def test_a_ledger_with_a_job_id_that_would_lead_elsewhere_is_refused(tmp_path, gateway):
    assert run(tmp_path, gateway).returncode == 0
    db = sqlite3.connect(tmp_path / "outputs" / "tried" / "state.sqlite3")
    with db:
        for table, column in (("job", "id"), ("attempt", "job_id"), ("image", "job_id"), ("wanted", "job_id")):
            db.execute(f"UPDATE {table} SET {column} = '../../outside/' || {column}")
    db.close()
    refused(run(tmp_path, gateway, 1), gateway, creates=2)
