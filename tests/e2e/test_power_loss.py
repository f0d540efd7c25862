"""Power may fail at any moment: what was told to a disk before money is spent, read from the system calls."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from command import KEY, ROOT, manifest, prompts
from output_checks import check_invariant
from sandbox_process import SandboxProcess
from system_calls import Call, can_be_traced, read, traced

SYNCS = {"fsync", "fdatasync"}
SENDS = {"sendto", "sendmsg", "write", "writev"}
WRITES = {"write", "pwrite64"}
EXTERNAL_ID = re.compile(r"bg-1[a-z2-7]{25}-\d+")

pytestmark = pytest.mark.skipif(
    not can_be_traced(), reason="strace is not here, or may not look into processes: apt-get install strace"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A whole run of twelve tasks, one of which fails at the gateway, and its system calls."""
    folder = tmp_path_factory.mktemp("power")
    with SandboxProcess(
        "--emulate", "kapon", "--latency", "0.1", "--blank-images", "--faults", "drop_after=0.2"
    ) as gateway:
        path = manifest(folder, gateway, prompts(10, "    - please fail-this-task\nrun: {max_attempts: 2}\n"))
        env = os.environ | KEY | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "batchgen", "run", path]
        done, calls = traced(command, folder / "trace", cwd=folder, env=env)
    assert done.returncode == 1, done.stderr
    check_invariant(folder / "outputs" / "tried")
    return folder, calls


def creates(calls: list[Call]) -> list[tuple[str, Call]]:
    """Every create that left, by the external id in its body."""
    bodies = [call for call in calls if call.name in SENDS and "external_task_id" in call.text and "/" not in call.path]
    return [(EXTERNAL_ID.search(call.text)[0], call) for call in bodies]


def syncs_between(calls: list[Call], path_ends: str, first: int, last: int) -> list[Call]:
    return [c for c in calls if c.name in SYNCS and c.path.endswith(path_ends) and first < c.begun and c.ended < last]


def test_each_intent_is_on_disk_before_its_create_leaves(run):
    _, calls = run
    sent = creates(calls)
    assert len({id_ for id_, _ in sent}) == len(sent) >= 12
    for id_, create in sent:
        written = [c for c in calls if c.name == "pwrite64" and c.path.endswith("-wal") and id_ in c.text]
        assert written, f"{id_} was never written"
        assert syncs_between(calls, "-wal", written[0].ended, create.begun), f"{id_} left before its intent was on disk"


def test_the_head_of_a_create_does_not_leave_before_the_intent_either(run):
    _, calls = run
    heads = [call for call in calls if call.name in SENDS and '"POST /kling/v1/images/generations' in call.text]
    intents: dict[str, int] = {}
    for call in calls:
        if call.name == "pwrite64" and call.path.endswith("-wal"):
            for id_ in EXTERNAL_ID.findall(call.text):
                intents.setdefault(id_, call.ended)
    for number, head in enumerate(heads, start=1):
        synced = [at for at in intents.values() if syncs_between(calls, "-wal", at, head.begun)]
        assert len(synced) >= number


def test_the_folders_that_hold_the_ledger_are_on_disk_before_the_first_create(run):
    folder, calls = run
    _, first = creates(calls)[0]
    made = [c for c in calls if c.name.startswith("mkdir") and c.text.endswith("= 0") and "outputs" in c.path]
    holding = [c for c in made if (folder / c.path) in (folder / "outputs" / "tried" / "state.sqlite3").parents]
    assert len(holding) == 2
    for made_folder in holding:
        parent = str((folder / made_folder.path).parent)
        assert [
            c for c in calls if c.name in SYNCS and c.path == parent and made_folder.ended < c.begun < first.begun
        ], f"{parent} was not synced"


def test_what_is_moved_into_place_is_on_disk_before(run):
    folder, calls = run
    moves = [c for c in calls if c.name.startswith("rename") and c.text.endswith("= 0")]
    assert len(moves) >= 11
    for move in moves:
        source = str(folder / move.path)
        writes = [c for c in calls if c.name in WRITES and c.path == source]
        assert writes, source
        assert syncs_between(calls, Path(source).name, writes[-1].ended, move.begun), source


def test_calls_that_threads_interleave_are_put_together():
    lines = [
        '1 pwrite64(4</a-wal>, "x", 1, 0) = 1',
        "1 fdatasync(4</a-wal> <unfinished ...>",
        '2 sendto(9<socket:[7]>, "POST", 4, 0, NULL, 0) = 4',
        "1 <... fdatasync resumed>) = 0",
        "1 +++ exited with 0 +++",
    ]
    calls = list(read(lines))
    assert [(call.name, call.path, call.begun, call.ended) for call in calls] == [
        ("pwrite64", "/a-wal", 0, 0),
        ("sendto", "socket:[7]", 2, 2),
        ("fdatasync", "/a-wal", 1, 3),
    ]
