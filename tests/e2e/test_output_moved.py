"""An output folder that is moved away while its run is going: it keeps its lock, and nothing is lost."""

from __future__ import annotations

import os

import pytest
from command import batchgen, manifest, prompts, started, wait_for
from output_checks import check_invariant
from scripted_gateway import ScriptedGateway

from batchgen.errors import OutputBusy
from batchgen.ledger import lock
from batchgen.ledger.store import FILE_NAME, Ledger


def test_the_lock_of_another_run_is_not_taken_away_by_the_one_whose_folder_was_moved(tmp_path):
    here, moved = tmp_path / "here", tmp_path / "moved"
    here.mkdir()
    with lock.held(here):
        here.rename(moved)
        here.mkdir()
        second = lock.held(here)
        second.__enter__()
        assert lock.holder(moved) is not None
    assert (here / lock.FILE_NAME).exists()
    with pytest.raises(OutputBusy), lock.held(here):
        pass
    second.__exit__(None, None, None)
    assert list(here.iterdir()) == list(moved.iterdir()) == []


def test_a_run_whose_output_was_moved_stops_and_leaves_what_stands_there_alone(tmp_path):
    with ScriptedGateway(latency=1000) as gateway:
        path = manifest(tmp_path, gateway, prompts(3), concurrency=3)
        output, moved = tmp_path / "outputs" / "tried", tmp_path / "outputs" / "moved"
        first = started("run", path, cwd=tmp_path)
        wait_for(lambda: len(gateway.tasks) == 3)
        output.rename(moved)
        other = manifest(tmp_path, gateway, prompts(1).replace("prompt number", "another"), concurrency=3)
        second = started("run", other, cwd=tmp_path)
        wait_for(lambda: len(gateway.tasks) == 4)
        scratch = output / ".scratch" / "of-the-second"
        scratch.write_bytes(b"being downloaded")
        gateway.latency = 0
        _, said = first.communicate(timeout=60)
        assert first.returncode == 3, said
        assert "was moved" in said
        assert "Traceback" not in said
        second.communicate(timeout=60)
        assert second.returncode == 0
        assert len(check_invariant(output)) == 1
        path = manifest(tmp_path, gateway, prompts(3), concurrency=3)
        done = batchgen("run", path, "--output", moved, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(check_invariant(moved)) == 3
        assert len(gateway.tasks) == 4


def test_the_log_of_another_ledger_at_the_old_path_is_left_alone(tmp_path):
    here, moved = tmp_path / "here", tmp_path / "moved"
    here.mkdir()
    first = Ledger.open(here / FILE_NAME)
    first.mark_reconciled("first")
    os.rename(here, moved)  # noqa: PTH104
    here.mkdir()
    second = Ledger.open(here / FILE_NAME)
    second.mark_reconciled("second")
    first.close()
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in here.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert Ledger.open(copy / FILE_NAME).is_reconciled("second")
    second.close()
    assert Ledger.open(moved / FILE_NAME).is_reconciled("first")
