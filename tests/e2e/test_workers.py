"""Workers die, hang, lie and come late: nothing is paid twice, nothing is torn, nothing is lost.

Real processes, which the tests kill and stop; the witness is the gateway, which counts what it billed.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import threading
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from command import KEY, ROOT, batchgen_process, billed_by_job, manifest, started, wait_for
from output_checks import check_invariant
from sandbox_process import SandboxProcess

JOBS = 16


@pytest.fixture(scope="module")
def gateway_process():
    with SandboxProcess("--emulate", "kapon", "--latency", "0.1", "--blank-images", "--concurrency", "60") as gateway:
        yield gateway


@pytest.fixture
def work(tmp_path, gateway_process, monkeypatch):
    """A manifest whose prompts are of this test alone; the gateway is one for all tests."""
    lines = "".join(f"    - {tmp_path.name} {i}\n" for i in range(JOBS))
    path = manifest(tmp_path, gateway_process, f"matrix:\n  prompt:\n{lines}", concurrency=60)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests/support/worker_faults'}{os.pathsep}{ROOT}")
    return path


@pytest.fixture
def faults(monkeypatch):
    def have(**named):
        monkeypatch.setenv("WORKER_FAULTS", json.dumps(named))

    have(within=30)
    return have


def run(path, *words, code=0):
    done = batchgen_process("run", path, "--workers", "2", *words, cwd=path.parent)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "http://" not in done.stderr
    return done


@contextmanager
def running(path):
    run = started("run", path, "--workers", "2", cwd=path.parent)
    try:
        yield run
    finally:
        run.kill()
        run.communicate()


def ended(run):
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 0, errors
    return errors


def check(path, gateway, *, images=JOBS):
    rows = check_invariant(path.parent / "outputs" / "tried")
    assert len(rows) == images
    assert double(path, gateway) == 0
    return rows


def double(path, gateway):
    """How many creates of this test's jobs were billed beside the first of each job."""
    with closing(sqlite3.connect(path.parent / "outputs/tried/state.sqlite3")) as db:
        jobs = {job for (job,) in db.execute("SELECT id FROM job")}
    by_job = billed_by_job(gateway)
    assert len(jobs) == JOBS
    assert all(by_job[job] for job in jobs)
    return sum(by_job[job] - 1 for job in jobs)


def children(pid):
    """Every process that this one started and has not ended."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            state, parent = stat.read_text(encoding="utf-8").rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found[int(stat.parent.name)] = (stat.parent / "cmdline").read_bytes()
    return found


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def busy(path, log):
    """Whether workers were handed downloads, and some images are here."""
    return any(log.iterdir()) and any((path.parent / "outputs/tried").glob("images/*"))


@pytest.fixture
def log(tmp_path):
    (tmp_path / "log").mkdir()
    return tmp_path / "log"


def test_a_killed_worker_is_replaced_and_no_worker_ever_has_a_key(work, faults, gateway_process, log):
    faults(log=str(log), slow=0.4)
    with running(work) as run:
        wait_for(lambda: busy(work, log))
        secret = KEY["SANDBOX_KEY"].encode()
        for child in (processes := children(run.pid)):
            assert secret not in Path(f"/proc/{child}/environ").read_bytes()
        assert len(processes) == 3  # and one that tracks their semaphores
        os.kill(int(next(log.iterdir()).name), signal.SIGKILL)
        ended(run)
    check(work, gateway_process)
    given = b"".join(file.read_bytes() for file in log.iterdir())
    assert b"http://" in given  # the links are there: it was logged
    assert secret not in given


def test_a_stopped_worker_is_given_up_and_this_process_downloads(work, faults, gateway_process, log):
    faults(log=str(log), slow=0.4, within=1, grace=1)
    with running(work) as run:
        wait_for(lambda: busy(work, log))
        os.kill(stopped := int(next(log.iterdir()).name), signal.SIGSTOP)
        assert "did not answer in 3 s" in ended(run)
    assert not is_alive(stopped)
    check(work, gateway_process)


def test_an_image_that_ends_its_workers_harms_no_other_and_not_this_process(work, faults, gateway_process):
    planned = batchgen_process("plan", work, "--format", "csv", cwd=work.parent).stdout
    poison = list(csv.DictReader(planned.splitlines()))[5]["job_id"]
    faults(poison=[poison], tries=2)
    done = run(work, code=1)
    assert "The image ended the workers that downloaded it" in done.stdout + done.stderr
    assert poison not in {row["job_id"] for row in check(work, gateway_process, images=JOBS - 1)}
    faults()
    run(work, "--retry-failed")
    check(work, gateway_process)


def test_workers_end_with_a_killed_run_and_the_next_one_goes_on(work, faults, gateway_process, log):
    faults(log=str(log), slow=0.4)
    with running(work) as killed:
        wait_for(lambda: busy(work, log))
        orphans = list(children(killed.pid))
        killed.kill()
        wait_for(lambda: not any(map(is_alive, orphans)), seconds=1.0)
        assert len(orphans) == 3
    run(work)
    check(work, gateway_process)


@contextmanager
def refusing():
    """A server that answers 403 to everything."""

    class Refusal(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()
            server.count += 1

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    server.count = 0
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("trusts", [False, True], ids=["as it is", "control: a worker is believed"])
def test_a_worker_that_sees_no_link_makes_nothing_gone(work, faults, gateway_process, trusts):
    with refusing() as server:
        blind = f"http://127.0.0.1:{server.server_port}/"
        faults(blind=blind, **({"trusts": 1, "tries": 1} if trusts else {}))
        first = run(work, code=int(trusts))
        assert server.count >= JOBS
        run(work, "--retry-failed", code=int(trusts))
    if trusts:
        assert double(work, gateway_process) >= JOBS
    else:
        assert "HTTP 403" in first.stderr
        check(work, gateway_process)


@pytest.mark.parametrize("one_name", [False, True], ids=["as it is", "control: one name for all tries"])
def test_a_late_worker_tears_no_image(work, faults, gateway_process, one_name):
    faults(late=1, within=0.3, **({"one_name": 1} if one_name else {}))
    done = batchgen_process("run", work, "--workers", "2", cwd=work.parent)
    if one_name:
        with pytest.raises((AssertionError, FileNotFoundError)):
            check(work, gateway_process)
    else:
        assert done.returncode == 0, done.stderr
        assert "took longer than" in done.stderr
        check(work, gateway_process)


def test_workers_of_another_version_are_refused_before_anything_is_sent(work, faults, gateway_process):
    before = gateway_process.usage()["creates_accepted"]
    faults(protocol=99)
    done = run(work, code=2)
    assert "A worker has another version of batchgen" in done.stderr
    assert "protocol 99" in done.stderr
    assert gateway_process.usage()["creates_accepted"] == before
