"""The ledger's file: earlier versions, and network file systems."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from command import KEY, ROOT, manifest, prompts
from output_checks import check_invariant

from batchgen.errors import CommandError
from batchgen.jobs import Status
from batchgen.ledger import versions
from batchgen.ledger.mounts import shared_kind
from batchgen.ledger.store import FILE_NAME, Ledger
from batchgen.ledger.versions import VERSION, migrate

KEPT = sorted((Path(__file__).parents[1] / "cases" / "ledgers").glob("version-*.sqlite3"))
TABLE = """\
/dev/sda1 / ext4 rw,relatime 0 0
tmpfs /run tmpfs rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/local ext4 rw 0 0
//server/share /mnt/two\\040words cifs rw 0 0
me@host: /home/me/far fuse.sshfs rw 0 0
host /work 9p rw 0 0
/dev/sdc1 /work xfs rw 0 0
"""


def test_each_version_has_a_kept_file():
    assert [path.name for path in KEPT] == [f"version-{number}.sqlite3" for number in range(1, VERSION + 1)]


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.stem)
def test_a_ledger_of_an_earlier_version_opens_with_all_that_it_knew(tmp_path, kept):
    """What the kept files hold is told in `ledgers/README.md`."""
    path = tmp_path / FILE_NAME
    shutil.copy(kept, path)
    ledger = Ledger.open(path)
    assert ledger.counts() == {
        Status.DONE: 1,
        Status.FAILED: 1,
        Status.UNKNOWN: 1,
        Status.SUBMITTED: 1,
        Status.MADE: 1,
        Status.PENDING: 1,
    }
    assert len(list(ledger.index_rows())) == 2
    assert {attempt.external_id.startswith("bg-1") for attempt in ledger.open_attempts()} == {True}
    assert ledger.spent().cost == 8_500_000
    assert ledger.db.execute("PRAGMA user_version").fetchone() == (VERSION,)
    ledger.close()


def older(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {VERSION - 1}")
    db.close()


def test_a_step_changes_the_file_and_its_version_together(tmp_path):
    path = tmp_path / FILE_NAME
    Ledger.open(path).close()
    older(path)
    db = sqlite3.connect(path, isolation_level=None)
    broken = {VERSION - 1: "ALTER TABLE job ADD COLUMN colour TEXT; ALTER TABLE no_such_table ADD COLUMN a"}
    with pytest.raises(sqlite3.OperationalError):
        migrate(db, VERSION, broken)
    columns = "SELECT count(*) FROM pragma_table_info('job') WHERE name = 'colour'"
    assert db.execute(columns).fetchone() == (0,)
    assert db.execute("PRAGMA user_version").fetchone() == (VERSION - 1,)
    migrate(db, VERSION, {VERSION - 1: "ALTER TABLE job ADD COLUMN colour TEXT"})
    assert db.execute(columns).fetchone() == (1,)
    assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)
    db.close()


def test_who_only_reads_leaves_an_earlier_ledger_alone_and_says_what_to_do(tmp_path):
    path = tmp_path / FILE_NAME
    Ledger.open(path).close()
    older(path)
    before = path.read_bytes()
    for opened in (Ledger.read, Ledger.preview):
        with pytest.raises(CommandError, match="brings it up to date"):
            opened(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/data/outputs", None),
        ("/run/outputs", None),
        ("/home/me/outputs", "nfs4"),
        ("/home/local/outputs", None),
        ("/homestead", None),
        ("/mnt/two words/outputs", "cifs"),
        ("/home/me/far/outputs", "fuse.sshfs"),
        ("/srv/outputs", None),
    ],
)
def test_a_network_file_system_is_known_by_the_table_of_mounts(folder, kind):
    assert shared_kind(Path(folder), TABLE) == kind


def test_on_a_network_file_system_no_write_ahead_log_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "shared_kind", lambda _: "nfs4")
    ledger = Ledger.open(tmp_path / FILE_NAME)
    assert ledger.db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    ledger.set_wanted_jobs([])
    assert not (tmp_path / f"{FILE_NAME}-wal").exists()
    ledger.close()


def test_a_run_on_a_network_file_system_says_so_and_brings_everything(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(40, "  n: [2]\n"))
    program = (
        "import sys; from batchgen.ledger import store; from batchgen.app import run; from batchgen.cli import main\n"
        "store.shared_kind = run.shared_kind = lambda folder: 'nfs4'\n"
        "sys.exit(main.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "run", path, "--json"],
        cwd=tmp_path,
        env=os.environ | KEY | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "network file system (nfs4)" in done.stderr
    assert json.loads(done.stdout)["images"] == len(check_invariant(tmp_path / "outputs" / "tried")) == 80
