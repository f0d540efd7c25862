"""Where the time of slots went: sums of unit-seconds, and what `--timings` says of a real run."""

from __future__ import annotations

import json

import pytest
from command import batchgen, manifest, prompts
from hypothesis import given
from hypothesis import strategies as st

from batchgen.engine.timings import Idle, Phase, SlotTime


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_each_phase_and_each_reason_gets_its_unit_seconds():
    clock = Clock()
    time = SlotTime(clock, lambda: 4)
    clock.now += 1  # 4 free
    time.move(3, out_of=None, into=Phase.CREATING)
    time.idle(Idle.SIZE)
    clock.now += 2  # 6 creating, 2 free
    time.move(3, out_of=Phase.CREATING, into=Phase.RUNNING)
    clock.now += 4  # 12 running, 4 free
    time.move(3, out_of=Phase.RUNNING, into=None)
    assert time.shares() == {
        Phase.RUNNING: pytest.approx(12 / 28),
        Phase.CREATING: pytest.approx(6 / 28),
        Idle.SIZE: pytest.approx(6 / 28),
        Idle.NO_JOB: pytest.approx(4 / 28),
    }
    assert next(time.report("kapon")) == "Slots of 'kapon': 28.0 unit-seconds in 7.0 s."


@given(steps=st.lists(st.tuples(st.floats(0.001, 100), st.sampled_from(Phase), st.sampled_from(Idle)), min_size=1))
def test_the_shares_are_always_the_whole(steps):
    clock = Clock()
    time = SlotTime(clock, lambda: 5)
    phase = None
    for seconds, into, why in steps:
        time.move(2, out_of=phase, into=into)
        time.idle(why)
        phase = into
        clock.now += seconds
    assert sum(time.shares().values()) == pytest.approx(1.0)


def test_a_run_says_where_the_time_of_its_slots_went(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(12), concurrency=3)
    run = batchgen("run", path, "--timings", cwd=tmp_path)
    assert run.returncode == 0
    assert "Slots of 'local': " in run.stderr
    lines = [line.split("%", 1) for line in run.stderr.splitlines() if line.startswith("  ") and "%" in line]
    shares = {kind.strip(): float(share) for share, kind in lines}
    assert shares[Phase.RUNNING] > 50
    assert sum(shares.values()) == pytest.approx(100, abs=1)


def test_the_same_as_json_lines(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(4), concurrency=3)
    run = batchgen("run", path, "--timings", "--log-format", "json", cwd=tmp_path)
    events = [json.loads(line) for line in run.stderr.splitlines()]
    (told,) = [event for event in events if event.get("event") == "slot_time"]
    assert told["account"] == "local"
    assert sum(told["shares"].values()) == pytest.approx(1.0, abs=0.01)
    (progress,) = [event for event in events if event.get("event") == "progress"]
    assert {"images_to_fetch", "task_seconds", "slots_in_use", "refusals", "seconds_left"} <= progress.keys()
