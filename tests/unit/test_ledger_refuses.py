"""A ledger that another program holds, words without end, values that no row can hold, a stderr that is closed."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from command import KEY, ROOT, batchgen, manifest, prompts
from jobs_for_tests import job
from ledger_events import accepted, intent
from output_checks import check_invariant, rows_of
from scripted_gateway import ScriptedGateway

from batchgen.errors import RunStopped, Unkeepable
from batchgen.jobs import Status
from batchgen.ledger.events import Ended, Outcome
from batchgen.ledger.store import FILE_NAME, Ledger
from batchgen.ledger.writer import Writer

IMPATIENT = """\
import sys
from batchgen.ledger import connection, writer
from batchgen.cli import main

connection.BUSY_TIMEOUT = writer.BUSY_TIMEOUT = 0.2
sys.exit(main.main(sys.argv[1:]))
"""


def impatient(*words, cwd):
    """The command, which waits for nobody long."""
    return subprocess.run(
        [sys.executable, "-c", IMPATIENT, *map(str, words)],
        cwd=cwd,
        env=os.environ | KEY | {"PYTHONPATH": str(ROOT), "TMPDIR": str(cwd)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def held(ledger, how="EXCLUSIVE"):
    """What a backup tool does."""
    other = sqlite3.connect(ledger, isolation_level=None, check_same_thread=False)
    other.execute(f"BEGIN {how}")
    try:
        yield
    finally:
        other.close()


def output(folder):
    return folder / "outputs" / "tried"


@pytest.fixture
def gateway():
    with ScriptedGateway() as scripted:
        yield scripted


@pytest.mark.parametrize("command", ["run", "status", "plan", "verify", "audit"])
def test_a_ledger_that_is_held_from_the_start_is_said_with_3(tmp_path, gateway, command):
    path = manifest(tmp_path, gateway, prompts(2))
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    path = manifest(tmp_path, gateway, prompts(3))
    with held(output(tmp_path) / FILE_NAME):
        done = impatient(command, path, cwd=tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "Another program holds the ledger" in done.stderr
    assert gateway.count("create") == 2


@pytest.mark.parametrize("at", ["create", "list", "image"])
def test_a_ledger_that_is_held_in_the_middle_is_said_with_3_and_nothing_is_lost(tmp_path, gateway, at):
    path = manifest(tmp_path, gateway, prompts(3) + "run: {grace: 1s}\n", use="kapon")
    holding = held(output(tmp_path) / FILE_NAME, "IMMEDIATE")

    def hold(call):
        if call.number == 1:
            holding.__enter__()

    gateway.answers[at] = hold
    done = impatient("run", path, cwd=tmp_path)
    holding.__exit__(None, None, None)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "Another program holds the ledger" in done.stderr
    assert "Traceback" not in done.stderr
    gateway.answers.clear()
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    assert len(check_invariant(output(tmp_path))) == 3
    assert set(gateway.billed_by_job().values()) == {1}


async def test_while_another_program_holds_the_ledger_the_loop_goes_on_and_then_the_change_is_kept(tmp_path):
    ledger = Ledger.open(tmp_path / FILE_NAME)
    async with Writer(ledger) as writer:
        with held(tmp_path / FILE_NAME, "IMMEDIATE"):
            writing = asyncio.ensure_future(writer.record(intent(job(), 1)))
            longest, before = 0.0, time.monotonic()
            for _ in range(20):
                await asyncio.sleep(0.01)
                longest, before = max(longest, time.monotonic() - before), time.monotonic()
            assert not writing.done()
        await asyncio.wait_for(writing, 20)
    assert longest < 5
    assert ledger.attempt_of(job().id).status is Status.INTENT
    ledger.close()


def test_a_reader_that_stays_is_in_nobodys_way(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(2))
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    keeping = Ledger.open(output(tmp_path) / FILE_NAME)  # which keeps the write-ahead log
    reader = sqlite3.connect(output(tmp_path) / FILE_NAME, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM job").fetchone()
    done = impatient("run", manifest(tmp_path, gateway, prompts(4)), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    reader.close()
    keeping.close()


# --- values ---------------------------------------------------------------------------------------------------


def test_words_without_end_are_cut_where_they_enter_the_ledger(tmp_path, gateway):
    words = "x" * 2_000_000

    def failed(call):
        return gateway.yes(gateway.view(call.task, links=False) | {"task_status": "failed", "task_status_msg": words})

    gateway.answers["query"] = failed
    gateway.answers["list"] = lambda _: gateway.no(404, 1202)
    path = manifest(tmp_path, gateway, prompts(2) + "run: {max_attempts: 2}\n")
    assert batchgen("run", path, cwd=tmp_path).returncode == 1
    assert (output(tmp_path) / FILE_NAME).stat().st_size < 1_000_000
    assert all(len(row["message"]) <= 2000 for row in rows_of(output(tmp_path), "failures.csv"))


def test_a_link_that_no_host_would_take_is_not_kept_and_the_image_comes_all_the_same(tmp_path, gateway):
    def long_link(call):
        data = gateway.view(call.task)
        if "task_result" in data and len(gateway.of("query")) < 3:
            data["task_result"]["images"][0]["url"] += "?" + "x" * 1_000_000
        return gateway.yes(data)

    gateway.answers["query"] = long_link
    gateway.answers["list"] = lambda _: gateway.no(404, 1202)
    path = manifest(tmp_path, gateway, prompts(1))
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    assert (output(tmp_path) / FILE_NAME).stat().st_size < 500_000
    assert len(check_invariant(output(tmp_path))) == 1


def test_a_value_that_no_row_can_hold_ends_its_job_and_no_other(tmp_path, gateway):
    def create(call):
        task = call.store()
        if call.body["prompt"].endswith("1"):
            return gateway.yes({"task_id": task.id + "9" * 100_000, "task_status": "submitted"})
        return gateway.yes({"task_id": task.id, "task_status": "submitted"})

    gateway.answers["create"] = create
    path = manifest(tmp_path, gateway, prompts(4), use="anyapi")
    path.write_text(path.read_text(encoding="utf-8").replace("use: anyapi", "use: kapon"), encoding="utf-8")
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert len(check_invariant(output(tmp_path))) == 3
    (row,) = rows_of(output(tmp_path), "failures.csv")
    assert (row["status"], "characters" in row["message"]) == ("unknown", True)


def test_a_charge_that_cannot_be_true_is_not_known_and_its_images_come(tmp_path, gateway):
    gateway.answers["query"] = lambda call: gateway.yes(
        gateway.view(call.task) | {"final_unit_deduction": "99999999999999999999999"}
    )
    gateway.answers["list"] = lambda _: gateway.no(404, 1202)
    path = manifest(tmp_path, gateway, prompts(1))
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(check_invariant(output(tmp_path))) == 1


@pytest.mark.parametrize("task_id", ["x" * 5000, "\ud800"], ids=["long", "half a character"])
def test_an_event_that_cannot_be_kept_leaves_the_ledger_as_it_was(tmp_path, task_id):
    ledger = Ledger.open(tmp_path / FILE_NAME)
    ledger.record([intent(job(), 1)])
    with pytest.raises(Unkeepable):
        ledger.record([replace(accepted(job().id, 1), task_id=task_id)])
    assert ledger.attempt_of(job().id).status is Status.INTENT
    ledger.record(
        [
            Ended(
                job_id=job().id,
                attempt=1,
                status=Status.UNKNOWN,
                outcome=Outcome.UNKNOWN,
                at=2**40,
                message="\ud800" * 9,
            )
        ]
    )
    assert ledger.attempt_of(job().id).status is Status.UNKNOWN
    with pytest.raises(Unkeepable):
        ledger.record([replace(intent(job("another"), 1), at=2**70)])
    assert ledger.counts() == {}
    ledger.close()


def test_what_sqlite_refuses_in_the_middle_of_reading_is_a_sentence_too(tmp_path):
    ledger = Ledger.open(tmp_path / FILE_NAME)
    ledger.record([intent(job(f"{number}"), 1) for number in range(2000)])
    ledger.close()
    data = bytearray((tmp_path / FILE_NAME).read_bytes())
    data[8192:] = os.urandom(len(data) - 8192)
    (tmp_path / FILE_NAME).write_bytes(data)
    reader = Ledger.read(tmp_path / FILE_NAME)
    with pytest.raises(RunStopped, match="damaged"):
        reader.open_attempts()
    reader.db.close()


# --- streams ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-", "2>/dev/full"])
def test_a_stream_that_is_closed_ends_nothing(tmp_path, gateway, closed):
    path = manifest(tmp_path, gateway, prompts(3))
    entry = os.path.join(os.path.dirname(sys.executable), "batchgen")  # noqa: PTH118, PTH120
    command = f"exec {entry} run {path} {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=os.environ | KEY, timeout=60, check=False)
    assert done.returncode == 0
    assert len(check_invariant(output(tmp_path))) == 3
    db = sqlite3.connect(output(tmp_path) / FILE_NAME)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
