"""A ledger that can no longer be written: answers are kept, or printed so that they can be adopted later."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
from command import KEY, ROOT, batchgen, prompts, started, wait_for
from jobs_for_tests import job
from ledger_events import accepted, intent, made
from output_checks import check_invariant
from scripted_gateway import ScriptedGateway

from batchgen.errors import RunStopped
from batchgen.jobs import ImageLink, Status
from batchgen.ledger.rescue import Rescue, adopt_rescued
from batchgen.ledger.reserve import Reserve
from batchgen.ledger.store import FILE_NAME, Ledger
from batchgen.ledger.writer import Writer

MB = 1024 * 1024


@contextmanager
def disk(folder, options):
    """A disk of its own."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root only")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder, *, leave=0):
    """Use up all of the disk but `leave` bytes."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 65536)
        except OSError:
            pass
    os.truncate(folder / "filler", max(0, (folder / "filler").stat().st_size - leave))


def fill_inodes(folder):
    number = 0
    try:
        while True:
            (folder / f"filler{number}").touch()
            number += 1
    except OSError:
        return


def written(folder, gateway, number, use="anyapi"):
    path = folder / "manifest.yaml"
    path.write_text(
        f'version: 1\nname: tried\nprovider: local\nproviders: {{local: {{use: {use}, base_url: "{gateway.base_url}",'
        f" api_key_env: SANDBOX_KEY, limits: {{concurrency: 9}}}}}}\nrun: {{grace: 1s}}\n{prompts(number)}",
        encoding="utf-8",
    )
    return path


def fills_the_disk(folder, *, how=fill, at=9):
    """A create whose answer arrives when the disk has just become full: nothing of it is in the ledger yet."""
    held = asyncio.Event()

    async def answer(call):
        if call.number == 1:  # until one is accepted, few are sent to an account that cannot be asked
            return None
        task = call.store()
        if call.number == at:
            await asyncio.to_thread(how, folder)
            held.set()
        await held.wait()
        return call.gateway.yes({"task_id": task.id, "task_status": "submitted"})

    return answer


def known_tasks(ledger):
    db = sqlite3.connect(ledger)
    try:
        return {task for (task,) in db.execute("SELECT task_id FROM attempt WHERE task_id IS NOT NULL")}
    finally:
        db.close()


class WithoutNames(ScriptedGateway):
    """AnyAPI sends no id of ours."""

    def accept(self, body):
        return super().accept({"external_task_id": f"bg-{len(self.tasks)}-1"} | body)


@pytest.mark.parametrize(("options", "how", "latency"), [("size=24m", fill, 1000), ("nr_inodes=90", fill_inodes, 0.1)])
def test_what_is_accepted_while_the_disk_fills_is_kept_and_nothing_more_is_begun(tmp_path, options, how, latency):
    """AnyAPI: a task id that is lost here is lost for ever."""
    with WithoutNames(latency=latency) as gateway, disk(tmp_path / "small", options) as small:
        gateway.answers["create"] = fills_the_disk(small, how=how)
        path = written(tmp_path, gateway, 40)
        words = ("run", path, "--output", small / "tried")
        stopped_with_a_sentence(batchgen(*words, cwd=tmp_path, timeout=60))
        assert known_tasks(small / "tried" / FILE_NAME) == set(gateway.tasks)
        assert len(gateway.tasks) < 20
        for file in small.glob("filler*"):
            file.unlink()
        gateway.answers.clear()
        gateway.latency = 0
        done = batchgen(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(check_invariant(small / "tried")) == 40 == len(gateway.tasks)


def test_a_disk_without_room_for_the_reserve_is_said_before_anything_is_sent(tmp_path):
    with ScriptedGateway() as gateway, disk(tmp_path / "small", "size=24m") as small:
        fill(small, leave=4 * MB)
        done = batchgen("run", written(tmp_path, gateway, 3, "kapon"), "--output", small / "tried", cwd=tmp_path)
        stopped_with_a_sentence(done)
        assert "Nothing was sent" in done.stderr
        assert gateway.count("create") == 0


def test_nothing_of_the_reserve_is_left_however_a_run_ends(tmp_path):
    with ScriptedGateway(latency=1000) as gateway:
        path = written(tmp_path, gateway, 2, "kapon")
        run = started("run", path, cwd=tmp_path)
        wait_for(lambda: len(gateway.tasks) == 2)
        run.kill()
        run.communicate()
        files = [file.name for file in (tmp_path / "outputs" / "tried").iterdir() if file.is_file()]
        assert sum((tmp_path / "outputs" / "tried" / name).stat().st_size for name in files) < MB
        assert set(files) <= {FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm", ".lock"}


def stopped_with_a_sentence(done):
    assert done.returncode == 3, done.stdout + done.stderr
    assert "disk" in done.stderr or "space" in done.stderr
    assert "defect" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("with_reserve", [True, False])
async def test_images_inside_an_answer_survive_a_full_disk(tmp_path, monkeypatch, with_reserve):
    """In the ledger by the reserve, else in a file elsewhere, from which they are adopted."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    image = ImageLink(index=0, url="data:;base64," + "A" * 3 * MB)
    said = []
    with disk(tmp_path / "small", "size=24m") as small:
        ledger = Ledger.open(small / FILE_NAME)
        with Reserve(small, 12 * MB) as reserve:
            rescue = Rescue(said.append)
            async with Writer(ledger, reserve if with_reserve else None, rescue) as writer:
                await writer.record(intent(job(), 1))
                fill(small)
                answer = replace(made(job().id, 1, 1), links=(image,))
                if with_reserve:
                    await writer.record(accepted(job().id, 1), answer)
                else:
                    with pytest.raises(RunStopped, match="disk"):
                        await writer.record(accepted(job().id, 1), answer)
                with pytest.raises(RunStopped):
                    await writer.record(intent(job("another"), 1))
        (small / "filler").unlink()
        files = list(tmp_path.glob("batchgen-rescue-*.jsonl"))
        if not with_reserve:
            assert sum(map(len, said)) < 10_000
            assert files[0].name in said[0]
            assert adopt_rescued(ledger, files[0]) == 1
            assert adopt_rescued(ledger, files[0]) == 0
        assert len(files) == (not with_reserve)
        assert ledger.attempt_of(job().id).status is Status.MADE
        assert ledger.links_to_fetch(job().id, 1) == [(image, False)]
        ledger.close()


async def test_what_was_refused_is_tried_once_more_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    said = []
    with disk(tmp_path / "small", "size=8m") as small:
        ledger = Ledger.open(small / FILE_NAME)
        async with Writer(ledger, None, Rescue(said.append)) as writer:
            await writer.record(intent(job(), 1))
            fill(small)
            links = (ImageLink(index=0, url="data:;base64," + "A" * MB),)
            with pytest.raises(RunStopped, match="disk"):
                await writer.record(accepted(job().id, 1), replace(made(job().id, 1, 1), links=links))
            (small / "filler").unlink()
        assert ledger.attempt_of(job().id).status is Status.MADE
        assert said == list(tmp_path.glob("batchgen-rescue-*")) == []
        ledger.close()


# --- a ledger that refuses: no file may grow (EFBIG is an EIO to SQLite), held by another program ------------------

LIMITED = """import asyncio, resource, signal, sys
from batchgen.ledger import writer
from batchgen.cli import main

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
asked = writer.Writer.__init__

def limited(self, ledger, *more, **named):
    asked(self, ledger, *more, **named)
    insert = ledger.stage
    def stage(events):
        events = list(events)
        if any(type(event).__name__ in {"Accepted", "Made"} for event in events):
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        insert(events)
    ledger.stage = stage
    ledger.record = lambda events: (stage(events), ledger.commit())

writer.Writer.__init__ = limited
sys.exit(main.main(sys.argv[1:]))
"""


def limited(*words, cwd, **env):
    """The command in a process whose files cannot grow from the first answer on."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, words)],
        cwd=cwd,
        env=os.environ | KEY | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_the_ledger_cannot_keep_is_said_and_is_taken_in_from_the_log(tmp_path, log_format):
    with WithoutNames() as gateway:
        path = written(tmp_path, gateway, 3)
        done = limited("run", path, "--log-format", log_format, cwd=tmp_path, TMPDIR=str(tmp_path))
        assert done.returncode == 3, done.stderr
        assert "Traceback" not in done.stderr
        assert len(gateway.tasks) == 3
        (tmp_path / "log").write_text(done.stderr, encoding="utf-8")
        adopted = batchgen("audit", path, "--adopt", "--offline", "--rescue", tmp_path / "log", cwd=tmp_path)
        assert "3 rescued" in adopted.stdout, adopted.stdout + adopted.stderr
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(check_invariant(tmp_path / "outputs" / "tried")) == 3 == len(gateway.tasks)
