"""`verify` while a run is going, and what a run is said to cost."""

from __future__ import annotations

import json
import threading

from command import batchgen, manifest, prompts, started, wait_for
from scripted_gateway import ScriptedGateway

PRICED = "prices: {unit: EUR, default: 0.5}, limits:"


def priced(tmp_path, gateway, text):
    path = manifest(tmp_path, gateway, text)
    path.write_text(path.read_text(encoding="utf-8").replace("limits:", PRICED), encoding="utf-8")
    return path


def test_verify_beside_a_run_gives_no_false_alarm(tmp_path):
    go = threading.Event()
    with ScriptedGateway() as gateway:
        path = manifest(tmp_path, gateway, prompts(6))
        assert batchgen("run", path, "--limit", "2", cwd=tmp_path).returncode == 0

        def one_is_late(call):
            if call.task.prompt.endswith(" 5") and not go.is_set():
                return call.gateway.yes({"task_id": call.task.id, "task_status": "processing"})
            return None

        gateway.answers["query"] = one_is_late
        gateway.answers["list"] = lambda call: call.gateway.no(404, 1202)
        run = started("run", path, cwd=tmp_path)
        images = tmp_path / "outputs" / "tried" / "images"
        wait_for(lambda: len(list(images.rglob("*.png"))) == 5)
        done = batchgen("verify", path, "--json", cwd=tmp_path)
        told = json.loads(done.stdout)
        go.set()
        assert run.wait(60) == 0
        run.communicate()
    assert (done.returncode, told["findings"]) == (0, [])
    assert "process" in told["running"]


def test_verify_beside_a_run_still_finds_what_is_wrong(tmp_path, gateway):
    import fcntl

    path = manifest(tmp_path, gateway, prompts(2))
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    output = tmp_path / "outputs" / "tried"
    next(output.rglob("*.png")).unlink()
    with (output / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told = json.loads(batchgen("verify", path, "--json", cwd=tmp_path).stdout)
    assert [finding["fault"] for finding in told["findings"]] == ["missing"]


def test_costs_have_their_unit(tmp_path):
    with ScriptedGateway() as gateway:
        path = priced(tmp_path, gateway, prompts(3))
        done = batchgen("run", path, "--max-cost", "1.2", cwd=tmp_path)
        assert done.stderr.count("1.2 EUR") == 1
        assert "0.5 EUR" in done.stderr
        assert "1 EUR spent, 0 reserved" in batchgen("status", path, cwd=tmp_path).stdout
        told = json.loads(batchgen("status", path, "--json", "--output", "outputs/tried", cwd=tmp_path).stdout)
        assert (told["cost"], told["unit"]) == ("1", "EUR")
        told = json.loads(batchgen("run", path, "--json", cwd=tmp_path).stdout)
        assert (told["cost"], told["unit"]) == ("0.5", "EUR")


def test_what_another_output_paid_costs_this_run_nothing(tmp_path):
    with ScriptedGateway() as gateway:

        def once(call):
            known = {task.external_id for task in call.gateway.tasks.values()}
            return call.gateway.no(400, 1201, "repeated id") if call.body["external_task_id"] in known else None

        gateway.answers["create"] = once
        path = priced(tmp_path, gateway, prompts(3))
        first = json.loads(batchgen("run", path, "--json", cwd=tmp_path).stdout)
        words = ["run", path, "--json", "--output", "other", "--max-cost", "0.6"]
        second = json.loads(batchgen(*words, cwd=tmp_path).stdout)
    assert (first["cost"], second["cost"], second["images"]) == ("1.5", "0", 3)


def test_what_an_earlier_run_began_costs_this_one_nothing(tmp_path):
    with ScriptedGateway(latency=600) as gateway:
        path = priced(tmp_path, gateway, prompts(2, "run: {task_timeout: 1s}\n"))
        first = json.loads(batchgen("run", path, "--json", cwd=tmp_path).stdout)
        gateway.latency = 0
        path.write_text(path.read_text(encoding="utf-8").replace("1s", "60s"), encoding="utf-8")
        second = json.loads(batchgen("run", path, "--json", cwd=tmp_path).stdout)
    assert (first["cost"], second["cost"], second["images"]) == ("1", "0", 2)
