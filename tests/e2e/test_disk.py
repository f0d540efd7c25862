"""A disk that refuses: a sentence, exit code 3, and the next run goes on once it is mended."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from command import KEY, ROOT, batchgen, billed_by_job, manifest, prompts
from output_checks import check_invariant

CAPS = "-dac_override,-dac_read_search"
AS_ANYBODY = ["setpriv", f"--bounding-set={CAPS}", f"--inh-caps={CAPS}"] if os.getuid() == 0 else []


def run_as_somebody(path, cwd):
    """The command without root's right to write everywhere."""
    return subprocess.run(
        [*AS_ANYBODY, sys.executable, "-m", "batchgen", "run", path],
        cwd=cwd,
        env=os.environ | KEY | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def ours(tmp_path):
    """A folder in which rights count, for root too."""
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    writing = [*AS_ANYBODY, sys.executable, "-c", f"open({str(closed / 'file')!r}, 'w')"]
    try:
        done = subprocess.run(writing, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("root may write everywhere, and setpriv is not here to take that right away")
    if "PermissionError" not in done.stderr:
        pytest.skip("rights do not count here")
    return tmp_path


def finished(done, output, gateway, images):
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(check_invariant(output)) == images
    assert set(billed_by_job(gateway).values()) == {1}


def stopped_with_a_sentence(done, word):
    assert done.returncode == 3, done.stdout + done.stderr
    assert word in done.stderr
    assert "defect" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("refused", [".", "images"])
def test_a_tree_that_may_not_be_written(ours, gateway, refused):
    path = manifest(ours, gateway, prompts(2))
    output = ours / "outputs" / "tried"
    (output / refused).mkdir(parents=True)
    (output / refused).chmod(0o555)
    stopped_with_a_sentence(run_as_somebody(path, ours), "ermission denied")
    (output / refused).chmod(0o755)
    finished(run_as_somebody(path, ours), output, gateway, 2)


def test_a_ledger_that_may_not_be_written(ours, gateway):
    path = manifest(ours, gateway, prompts(2))
    output = ours / "outputs" / "tried"
    assert run_as_somebody(path, ours).returncode == 0
    path.write_text(path.read_text(encoding="utf-8") + "    - one more\n", encoding="utf-8")
    (output / "state.sqlite3").chmod(0o444)
    stopped_with_a_sentence(run_as_somebody(path, ours), "state.sqlite3")
    (output / "state.sqlite3").chmod(0o644)
    finished(run_as_somebody(path, ours), output, gateway, 3)


@pytest.mark.parametrize("name", ["state.sqlite3", ".scratch/.probe", ".lock", "index.csv", ".index.csv.new"])
def test_a_folder_where_a_file_should_be(tmp_path, gateway, name):
    path = manifest(tmp_path, gateway, prompts(2))
    output = tmp_path / "outputs" / "tried"
    (output / name / "inner").mkdir(parents=True)
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode in {2, 3}, done.stdout + done.stderr
    assert "defect" not in done.stderr
    assert name.rpartition("/")[2] in done.stderr or str(output) in done.stderr
    shutil.rmtree(output / name)
    finished(batchgen("run", path, cwd=tmp_path), output, gateway, 2)


@pytest.mark.parametrize("name", ["images", "images/kling-v1"])
def test_a_file_where_a_folder_should_be(tmp_path, gateway, name):
    path = manifest(tmp_path, gateway, prompts(2))
    output = tmp_path / "outputs" / "tried"
    (output / name).parent.mkdir(parents=True)
    (output / name).write_text("mine")
    done = batchgen("run", path, cwd=tmp_path)
    stopped_with_a_sentence(done, name)
    (output / name).unlink()
    finished(batchgen("run", path, cwd=tmp_path), output, gateway, 2)


def test_a_folder_where_an_image_should_be(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(2))
    output = tmp_path / "outputs" / "tried"
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    (image, _) = sorted(file for file in (output / "images").rglob("*.png"))
    image.unlink()
    (image / "inner").mkdir(parents=True)
    stopped_with_a_sentence(batchgen("run", path, cwd=tmp_path), image.name)
    shutil.rmtree(image)
    finished(batchgen("run", path, cwd=tmp_path), output, gateway, 2)
