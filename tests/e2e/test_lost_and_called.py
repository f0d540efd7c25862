"""Creates whose answer is lost, at accounts that cannot be asked and call back: what is billed, and what is found."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import signal
import sqlite3
import threading
import time
from collections import Counter

import pytest
from called_back import addresses, callback, free_port
from command import batchgen, manifest, prompts, started, wait_for
from output_checks import check_invariant, rows_of
from sandbox_server import SandboxServer
from vendors import KEY, VENDORS

PROMPTS = ("a fox", "a cat", "a dog", "an owl", "an elk", "a hen")
TROUBLES = (0, "cut", "lost", 503, "page", 404)  # `lost` and the last were never taken


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("VENDOR_KEY", KEY)


def written(folder, vendor, *prompts_, more="", concurrency=3):
    (folder / "my.yaml").write_text(vendor.definition(), encoding="utf-8")
    path = folder / "manifest.yaml"
    path.write_text(
        "version: 1\nname: tried\nprovider: mine\n"
        f"providers: {{mine: {{use: ./my.yaml, limits: {{concurrency: {concurrency}}}}}}}\n"
        f"{more}matrix: {{prompt: [{', '.join(prompts_ or PROMPTS)}]}}\n",
        encoding="utf-8",
    )
    return path


def output(folder):
    return folder / "outputs" / "tried"


def statuses(folder):
    return [row["status"] for row in rows_of(output(folder), "failures.csv")]


@pytest.mark.parametrize("name", ["bfl", "luma"])
def test_what_was_taken_is_found_by_its_callback_and_billed_once(name, tmp_path):
    with VENDORS[name](*TROUBLES) as vendor:
        path = written(tmp_path, vendor, more=callback(free_port()))
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 1, done.stdout + done.stderr
        assert statuses(tmp_path) == ["unknown"] * 2
        held = {row["prompt"] for row in rows_of(output(tmp_path), "failures.csv")}
        assert vendor.billed == dict.fromkeys(set(PROMPTS) - held, 1)
        assert len(check_invariant(output(tmp_path))) == 4
        assert len(set(vendor.addresses.values())) == 4
        assert not vendor.wrong_keys


def unknown(folder):
    ((prompt,),) = [[row["prompt"]] for row in rows_of(output(folder), "failures.csv") if row["status"] == "unknown"]
    return prompt


def test_calls_that_name_no_task_are_reported(tmp_path):
    with VENDORS["bfl"]() as vendor:
        path = written(tmp_path, vendor, "a fox", more=callback(free_port()))
        own = tmp_path / "my.yaml"
        text = own.read_text(encoding="utf-8").partition("examples:")[0]
        own.write_text(re.sub(r"(?m)^callback: .*$", "callback: {task: nothing}", text), encoding="utf-8")
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "1 callback arrived, and none named a task" in done.stderr


def test_without_a_callback_it_is_unknown(tmp_path):
    with VENDORS["bfl"](0, "cut", 503) as vendor:
        assert batchgen("run", written(tmp_path, vendor), cwd=tmp_path).returncode == 1
        assert statuses(tmp_path) == ["unknown"] * 2


def test_anyapi_loses_nothing_that_it_has_taken(tmp_path):
    faults = "drop_after=0.2,error_after=0.15,page_after=0.15,drop_before=0.1,callback_forged=0.2,callback_twice=0.2"
    options = ("--emulate", "anyapi", "--latency", "0.3", "--blank-images")
    with SandboxServer(*options, "--faults", faults, "--seed", "3") as gateway:
        path = manifest(tmp_path, gateway, prompts(24, callback(free_port())), use="anyapi", concurrency=8)
        done = batchgen("run", path, cwd=tmp_path)
        injected = gateway.usage()["faults"]
        billed = Counter(task["request"]["prompt"] for task in gateway.usage()["tasks"])
    assert sum(injected.get(name, 0) for name in ("drop_after", "error_after", "page_after")) >= 4, injected
    assert set(billed.values()) == {1}
    assert Counter(row["prompt"] for row in check_invariant(output(tmp_path))) == billed, done.stderr
    assert statuses(tmp_path) == ["unknown"] * (24 - len(billed))


@pytest.mark.parametrize("name", ["bfl", "anyapi"])
def test_what_a_killed_run_sent_is_found_by_the_callback_of_the_next(name, tmp_path):
    if name == "anyapi":
        server = SandboxServer("--emulate", "anyapi", "--latency", "3", "--blank-images")
    else:
        server = VENDORS["bfl"]("cut", "cut", "cut")
        server.call_after = 1.0
    with server as gateway:
        hook = callback(free_port())
        if name == "anyapi":
            path = manifest(tmp_path, gateway, prompts(6, hook), use="anyapi", concurrency=3)
            taken = lambda: len(gateway.usage()["tasks"])  # noqa: E731
        else:
            path = written(tmp_path, gateway, more=hook)
            taken = lambda: len(gateway.tasks)  # noqa: E731
        with started("run", path, cwd=tmp_path) as process:
            wait_for(lambda: taken() >= 3)
            process.send_signal(signal.SIGKILL)
            process.wait()
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(check_invariant(output(tmp_path))) == 6
        assert taken() == 6


def held(folder, vendor, port):
    """A run whose only answer was lost, and that waited for no callback; the address is known."""
    vendor.is_calling = False
    path = written(folder, vendor, "a fox", more=callback(port))
    assert batchgen("run", path, cwd=folder).returncode == 1
    assert statuses(folder) == ["unknown"]
    return path, next(iter(vendor.addresses.values()))


def test_a_callback_during_a_later_run_finds_what_is_unknown(tmp_path):
    port = free_port()
    with VENDORS["bfl"]("cut") as vendor:
        path, address = held(tmp_path, vendor, port)
        vendor.rounds = 10**6  # the other task runs until the callback has come
        written(tmp_path, vendor, "a fox", "a cat", more=callback(port))
        with started("run", path, cwd=tmp_path) as run:
            wait_for(lambda: len(vendor.tasks) == 2)
            wait_for(lambda: vendor.post(address, vendor.call("b0")) == 200)
            vendor.rounds = 1
            _, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors
        assert len(check_invariant(output(tmp_path))) == 2
        assert vendor.billed == {"a fox": 1, "a cat": 1}


def test_what_a_callback_named_is_not_forgotten_by_a_run_that_is_killed(tmp_path):
    """The gateway got its 200 and calls no more; the query that would confirm it was never answered."""
    port = free_port()
    with VENDORS["bfl"]("cut") as vendor:
        vendor.unanswered = "/get_result"
        path = written(tmp_path, vendor, "a fox", more=callback(port))
        with started("run", path, cwd=tmp_path) as run:
            wait_for(lambda: any("get_result" in path for path in vendor.paths))
            run.send_signal(signal.SIGKILL)
            run.wait()
        vendor.unanswered, vendor.is_calling = "", False
        path.write_text(path.read_text("utf-8").replace(callback(port), ""), encoding="utf-8")
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert vendor.billed == {"a fox": 1}


def test_a_callback_that_names_the_task_of_another_attempt_is_not_believed(tmp_path):
    """Of one that is made already, of one whose create is still to be answered, and of none."""
    port = free_port()
    with VENDORS["luma"](0, "cut") as vendor:
        vendor.is_calling = False
        path = written(tmp_path, vendor, "a fox", "a cat", more=callback(port), concurrency=1)
        with started("run", path, cwd=tmp_path) as run:
            wait_for(lambda: len(vendor.addresses) == 2)
            cat = vendor.addresses["a cat"]
            fox = vendor.addresses["a fox"]
            for body in ({"id": "l0"}, {"id": "l77"}, {"id": {"id": "l1"}}, {"id": "x" * 2000}, {"id": ["l1"]}):
                assert vendor.post(cat, {**body, "state": "completed"}) == 200
            assert vendor.post(fox, {"id": "l1", "state": "completed"}) == 200
            for forged in (cat[:-1], cat.replace("-1.", "-2."), f"{fox.partition('.bg')[0]}x", cat + "0"):
                assert vendor.post(forged, {"id": "l1"}) == 404
            _, errors = run.communicate(timeout=60)
        assert run.returncode == 1, errors
        assert unknown(tmp_path) == "a cat"
        (row,) = check_invariant(output(tmp_path))
        assert (row["prompt"], row["task_id"]) == ("a fox", "l0")


def test_a_callback_that_names_a_task_of_a_create_under_way_waits_for_its_answer(tmp_path):
    port = free_port()
    with VENDORS["luma"]("cut", "slow") as vendor:
        vendor.is_calling = False
        path = written(tmp_path, vendor, "a fox", "a cat", more=callback(port))
        with started("run", path, cwd=tmp_path) as run:
            wait_for(lambda: len(vendor.addresses) == 2)
            lost = next(iter(vendor.addresses))
            assert vendor.post(vendor.addresses[lost], {"id": "l1", "state": "completed"}) == 200
            time.sleep(1.5)  # a query confirms that there is such a task
            vendor.slow.set()
            _, errors = run.communicate(timeout=60)
        assert run.returncode == 1, errors
        (row,) = check_invariant(output(tmp_path))
        assert (row["prompt"], row["task_id"]) == (vendor.tasks["l1"]["prompt"], "l1")
        assert unknown(tmp_path) == lost


def test_a_flood_of_junk_at_the_address_of_a_lost_attempt_ends_with_the_run(tmp_path):
    """The address was learnt by somebody, who names ever new tasks there. The wait of a lost attempt is bounded."""
    end = threading.Event()
    port = free_port()
    with VENDORS["luma"]("cut") as vendor:
        vendor.is_calling = False

        def flood():
            wait_for(lambda: vendor.addresses)
            for number in itertools.takewhile(lambda _: not end.is_set(), itertools.count()):
                vendor.post(vendor.addresses["a fox"], {"id": f"junk-{number}", "more": [[[{}]]] * 99})

        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            done = batchgen("run", written(tmp_path, vendor, "a fox", more=callback(port)), cwd=tmp_path)
        finally:
            end.set()
            flooding.join()
        assert done.returncode == 1, done.stderr
        assert statuses(tmp_path) == ["unknown"]
        assert len(vendor.paths) < 100


def test_a_task_that_turns_up_after_its_job_was_sent_again_is_counted_and_named(tmp_path):
    port = free_port()
    with VENDORS["bfl"]("cut") as vendor:
        path, address = held(tmp_path, vendor, port)
        vendor.rounds = 10**6
        with started("run", path, "--retry-unknown", cwd=tmp_path) as run:
            wait_for(lambda: len(vendor.tasks) == 2)
            wait_for(lambda: vendor.post(address, vendor.call("b0")) == 200)
            vendor.rounds = 1
            _, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors
        done = batchgen("audit", path, "--offline", "--json", cwd=tmp_path)
        assert "get_result?id=b0" in done.stdout
        assert json.loads(done.stdout)["exit_code"] == done.returncode == 1
        db = sqlite3.connect(output(tmp_path) / "state.sqlite3")
        assert db.execute("SELECT outcome FROM attempt ORDER BY number").fetchall() == [("unknown",), ("made",)]
        db.close()


def test_a_task_that_turns_up_before_its_job_is_sent_again_is_taken_instead(tmp_path):
    """It is to be sent again, and waits for the one slot when the callback comes."""
    port = free_port()
    with VENDORS["bfl"]("cut") as vendor:
        path, address = held(tmp_path, vendor, port)
        vendor.rounds = 10**6
        written(tmp_path, vendor, "a cat", "a fox", more=callback(port), concurrency=1)
        with started("run", path, "--retry-unknown", cwd=tmp_path) as run:
            wait_for(lambda: len(vendor.tasks) == 2)
            assert vendor.post(address, vendor.call("b0")) == 200
            vendor.rounds = 1
            _, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors
        assert vendor.billed == {"a fox": 1, "a cat": 1}
        assert len(check_invariant(output(tmp_path))) == 2


def test_ctrl_c_and_doctor_say_what_becomes_of_a_lost_answer(tmp_path):
    with SandboxServer("--emulate", "anyapi", "--latency", "5", "--blank-images") as gateway:
        path = manifest(tmp_path, gateway, prompts(1), use="anyapi")
        without = batchgen("doctor", path, cwd=tmp_path).stdout
        path = manifest(tmp_path, gateway, prompts(1, callback(free_port())), use="anyapi")
        assert "With `callback` in the manifest, a callback can find it." in without
        assert "unless a callback names its task" in batchgen("doctor", path, cwd=tmp_path).stdout
        with started("run", path, cwd=tmp_path) as run:
            wait_for(lambda: addresses(gateway))
            run.send_signal(signal.SIGINT)
            run.send_signal(signal.SIGINT)
            _, errors = run.communicate(timeout=30)
    assert "a callback during a later run finds it all the same" in errors


def test_a_copy_of_the_output_has_the_same_addresses_and_a_new_output_others(tmp_path):
    port = free_port()
    with SandboxServer("--emulate", "anyapi", "--latency", "0.1", "--blank-images") as gateway:
        path = manifest(tmp_path, gateway, prompts(1, callback(port)), use="anyapi")
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("number 0", "number one"), encoding="utf-8")
        assert batchgen("run", path, "--output", "one", cwd=tmp_path).returncode == 0
        shutil.copytree(tmp_path / "one", tmp_path / "copy")
        path.write_text(text, encoding="utf-8")
        for name in ("one", "copy", "two"):
            assert batchgen("run", path, "--output", name, cwd=tmp_path).returncode == 0
        _, one, copy, two = addresses(gateway).values()
    assert one == copy != two
