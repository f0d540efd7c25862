"""A large output in which nothing has changed is not read again: its totals are cached, only folders are checked."""

from __future__ import annotations

import json
import os
from time import time_ns
from typing import TYPE_CHECKING

import pytest
from command import batchgen, manifest, prompts

from batchgen.jobs import Status
from batchgen.ledger.store import FILE_NAME, FOLDER_TIMES, Ledger
from batchgen.reconcile import folders, reconcile
from batchgen.storage.tree import Tree

if TYPE_CHECKING:
    from pathlib import Path

HOUR_NS = 3600 * 10**9


@pytest.fixture
def done(tmp_path: Path, gateway, monkeypatch) -> Path:
    """A finished output that counts as large, whose folders have not changed for an hour."""
    path = manifest(tmp_path, gateway, prompts(6))
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    root = tmp_path / "outputs" / "tried"
    monkeypatch.setattr(folders, "time_ns", lambda: time_ns() + HOUR_NS)
    monkeypatch.setattr(reconcile, "LARGE", 6)
    return root


@pytest.fixture
def ledger(done):
    ledger = Ledger.open(done / FILE_NAME)
    yield ledger
    ledger.close()


def images(root: Path) -> list[Path]:
    return sorted(file for file in (root / "images").rglob("*") if file.is_file())


def folder_times(ledger: Ledger) -> dict[str, int]:
    return json.loads(ledger.meta(FOLDER_TIMES) or "{}")


def test_only_folders_are_checked_once_each_file_was(done, ledger):
    assert reconcile.record_missing(ledger, Tree(done)) == 0
    assert folder_times(ledger)
    images(done)[0].write_bytes(b"changed in place: for verify to find")
    assert reconcile.record_missing(ledger, Tree(done)) == 0


def test_a_file_that_is_lost_is_noticed_by_its_folder(done, ledger):
    reconcile.record_missing(ledger, Tree(done))
    images(done)[0].unlink()
    assert reconcile.record_missing(ledger, Tree(done)) == 1
    assert not folder_times(ledger)


def test_a_file_that_was_replaced_is_noticed_by_its_folder(done, ledger, tmp_path):
    reconcile.record_missing(ledger, Tree(done))
    (tmp_path / "other.png").write_bytes(b"another picture")
    (tmp_path / "other.png").replace(images(done)[0])
    assert reconcile.record_missing(ledger, Tree(done)) == 1


def test_a_folder_whose_time_was_set_back_is_not_checked_in_place_of_its_files(done, ledger):
    """As in a copy that left the images out, or after a restore."""
    reconcile.record_missing(ledger, Tree(done))
    image = images(done)[0]
    times = image.parent.stat()
    image.unlink()
    os.utime(image.parent, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert reconcile.record_missing(ledger, Tree(done)) == 1


def test_a_folder_that_has_just_changed_is_not_checked_in_place_of_its_files(done, ledger, monkeypatch):
    monkeypatch.setattr(folders, "time_ns", time_ns)
    (images(done)[0].parent / "new").write_bytes(b"")
    reconcile.record_missing(ledger, Tree(done))
    assert not folder_times(ledger)


def test_a_small_output_is_checked_file_by_file(done, ledger, monkeypatch):
    monkeypatch.setattr(reconcile, "LARGE", 7)
    reconcile.record_missing(ledger, Tree(done))
    images(done)[0].write_bytes(b"changed in place")
    assert reconcile.record_missing(ledger, Tree(done)) == 1


def test_the_cached_totals_of_a_finished_run_are_those_of_its_rows(ledger):
    assert ledger.cached_totals()
    known = (ledger.counts(), ledger.images_in_index(), ledger.anything_to_do())
    ledger.db.execute("DELETE FROM meta WHERE key = 'sums'")
    assert (ledger.counts(), ledger.images_in_index(), ledger.anything_to_do()) == known
    assert known == ({Status.DONE: 6}, 6, False)


def test_any_change_removes_the_cached_totals(done, ledger):
    images(done)[0].unlink()
    reconcile.record_missing(ledger, Tree(done))
    assert not ledger.cached_totals()
    assert ledger.anything_to_do()
