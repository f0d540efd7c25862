"""The Python API: typed results, an observer, errors as exceptions; the guide's example runs as it is written."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import re
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from command import manifest, prompts
from output_checks import check_invariant

import batchgen
from batchgen.errors import CommandError, ManifestInvalid, OutputBusy, ReasonCode
from batchgen.ledger import lock

GUIDE = Path(__file__).parents[2] / "docs" / "python-api.md"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SANDBOX_KEY", "a-key-for-tests")


def rehearsal(text, name="rehearsal"):
    path = Path("manifest.yaml")
    path.write_text(f"version: 1\nname: {name}\nprovider: sandbox\n{text}", encoding="utf-8")
    return path


class Seen(batchgen.Observer):
    """Remembers what it is told."""

    interval = 0.01

    def __init__(self):
        self.calls = []
        self.messages = []

    def on_start(self, counters):
        self.calls.append(("start", counters.images_wanted))

    def on_progress(self, counters):
        self.calls.append(("progress", counters.images_done))

    def on_end(self, counters):
        self.calls.append(("end", counters.images_done))

    def on_message(self, message, level="info"):
        self.messages.append((level, message))


def test_the_code_of_the_guide_runs_as_in_a_notebook(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    code = compile("\n".join(blocks), str(GUIDE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    namespace = {"__name__": "notebook"}

    async def notebook():
        await eval(code, namespace)  # noqa: S307 - our own guide

    asyncio.run(notebook())
    assert (namespace["plan"].make.jobs, namespace["again"].images) == (4, 4)
    assert namespace["result"].output == Path("elsewhere")
    assert "1 images" not in capsys.readouterr().err


def test_a_run_makes_what_is_missing_and_a_second_one_sends_nothing(tmp_path, gateway, capfd):
    path = manifest(tmp_path, gateway, prompts(3, "  n: [2]\n"))
    seen = Seen()
    result = batchgen.run(path, observer=seen)
    assert (result.ok, result.exit_code, result.reason_code, result.reason) == (True, 0, ReasonCode.COMPLETE, "")
    assert (result.images, result.started, dict(result.jobs)) == (6, 3, {batchgen.Status.DONE: 3})
    assert len(check_invariant(result.output)) == 6
    assert seen.calls[0] == ("start", 6)
    assert seen.calls[-1] == ("end", 6)
    assert {kind for kind, _ in seen.calls} == {"start", "progress", "end"}
    again = batchgen.run(path)
    assert (again.nothing_to_do, again.images, again.started) == (True, 6, 0)
    assert gateway.usage()["requests"]["create"] == {"0": 3}
    assert capfd.readouterr() == ("", "")


def test_a_result_is_frozen_and_its_cost_is_exact():
    path = rehearsal("matrix: {prompt: [a fox]}\n")
    result = batchgen.run(path, only=["prompt=*fox*"])
    assert isinstance(result.cost, Decimal)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.images = 7


def test_a_plan_counts_what_a_run_would_make_and_writes_nothing():
    path = rehearsal("matrix: {prompt: [a fox, a cat], n: [2]}\n")
    plan = batchgen.plan(path, limit=1)
    assert (plan.make.jobs, plan.make.images, plan.anything_to_do) == (1, 2, True)
    assert not Path("outputs").exists()


def test_what_stops_the_jobs_is_in_the_result():
    path = rehearsal("matrix: {prompt: [a fox, a cat]}\nbudget: {max_images: 1}\n")
    result = batchgen.run(path)
    assert (result.ok, result.exit_code, result.reason_code) == (False, 3, ReasonCode.BUDGET)
    assert "budget.max_images" in result.reason
    assert result.images == 1


def test_a_wrong_manifest_is_raised_before_anything_is_written():
    with pytest.raises(ManifestInvalid, match="prompt"):
        batchgen.run(rehearsal("matrix: {prompts: [a fox]}\n"))
    with pytest.raises(CommandError, match="--only"):
        batchgen.run(rehearsal("matrix: {prompt: [a fox]}\n"), only=["colour=red"])
    assert not Path("outputs").exists()


def test_an_output_that_another_run_has_is_raised():
    path = rehearsal("matrix: {prompt: [a fox]}\n")
    batchgen.run(path)
    with lock.held(Path("outputs/rehearsal")), pytest.raises(OutputBusy):
        batchgen.run(path)


async def test_inside_an_event_loop_run_says_what_to_use():
    with pytest.raises(CommandError, match=r"await batchgen\.run_async"):
        batchgen.run(rehearsal("matrix: {prompt: [a fox]}\n"))


async def test_two_runs_share_an_event_loop():
    first = rehearsal("matrix: {prompt: [a fox]}\n")
    results = await asyncio.gather(*(batchgen.run_async(first, output=folder) for folder in ("one", "two")))
    assert [(result.ok, str(result.output)) for result in results] == [(True, "one"), (True, "two")]


def test_no_signal_handler_is_installed_unless_asked():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    during = []

    class Look(batchgen.Observer):
        def on_start(self, _counters):
            during.extend(signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP))

    batchgen.run(rehearsal("matrix: {prompt: [a fox]}\n"), observer=Look())
    assert during == before


def test_a_cancelled_run_is_finished_by_the_next_one(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(6))

    async def cancelled():
        run = asyncio.create_task(batchgen.run_async(path))
        while not gateway.usage(tasks=False)["creates_accepted"]:
            await asyncio.sleep(0.01)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(cancelled())
    result = batchgen.run(path)
    assert (result.ok, result.images) == (True, 6)
    assert gateway.usage()["requests"]["create"] == {"0": 6}


def test_an_observer_that_fails_is_raised_when_the_jobs_have_ended():
    class Broken(batchgen.Observer):
        interval = 0.001

        def on_progress(self, _counters):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        batchgen.run(rehearsal("matrix: {prompt: [a fox]}\n"), observer=Broken())
    result = batchgen.run(rehearsal("matrix: {prompt: [a fox]}\n"))
    assert (result.images, result.started) == (1, 0)


def test_importing_the_package_loads_nothing():
    script = "import sys, batchgen; print([name for name in sys.modules if name.startswith('batchgen.')], batchgen.run)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] <function run")


@pytest.mark.parametrize("name", batchgen.__all__)
def test_every_public_name_is_there(name):
    assert getattr(batchgen, name) is not None
