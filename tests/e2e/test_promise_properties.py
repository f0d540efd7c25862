"""The three principles as properties: random gateways that lie within written bounds, and the real command.

1. An absence is believed only with a control: nothing is paid twice, whatever a gateway says that it does not have.
2. What is in hand is kept: all that is paid for is delivered, each picture under its own job.
3. Rehearsal and reality never mix, and exits tell a person (6) from a clock (3).

A handful of scenarios each, always the same; `BATCHGEN_SCENARIOS=200 pytest tests/e2e/test_promise_properties.py` tries
as many new ones. A scenario that failed once is kept as an example.
The bounds, beyond which nobody could keep the promise: what lags or arrives late does so for less than
`visibility_delay`; a look-up that hides running tasks hides them all, or for less than that; a proxy repeats POSTs only
where the account's look-up works; no lie outlives the first two runs.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from command import KEY, batchgen
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from lying_gateway import REFUSALS, Lies, LyingGateway
from witness import Witness

MORE = int(os.environ.get("BATCHGEN_SCENARIOS", "0"))
WITHIN = 1.0  # seconds: `visibility_delay`
HONEST = Lies()


def scenarios(few):
    """As many as asked for; few and always the same ones where nobody asks. Shrinking would take an hour."""
    return settings(
        max_examples=MORE or few,
        derandomize=not MORE,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A manifest, its account, how the gateway lies, and when the first run is killed."""

    lies: Lies
    jobs: int = 4
    n: int = 1
    account: dict[str, Any] = field(default_factory=dict)
    killed_after: int = 0  # creates; 0: never
    away: bool = False  # the images' drive is not there during the second run


def run_once(folder, gateway, scenario):
    """What a scenario looks like when its gateway stops lying, and the exit code of its first whole run."""
    os.environ |= KEY
    witness = Witness(Path(folder), gateway)
    slow = ", task_timeout: 4s" if scenario.lies.slow else ""
    witness.write(
        scenario.jobs, n=scenario.n, run=f"{slow}, max_attempts: 9", visibility_delay=WITHIN, **scenario.account
    )
    if scenario.killed_after:
        witness.killed_when(lambda: gateway.count("create") >= scenario.killed_after)
        witness.check_paid_once()
    return witness, witness.run(timeout=15.0).returncode


# --- 1: an absence is believed only with a control -----------------------------------------------------------

ASKED = {
    "by id": {"lists_tasks": "no"},
    "by list": {"lookup_by_external_id": "no", "lists_tasks": "yes"},
    "both": {"lookup_by_external_id": "try", "lists_tasks": "yes"},
    "never": {"use": "anyapi"},
}


@st.composite
def absences(draw):
    """Lost answers, and questions about them that are answered wrongly."""
    asked = draw(st.sampled_from(sorted(ASKED)))
    finds = draw(st.sampled_from(["yes", "never", "ended", "lags", "proxy", "cached", "other"]))
    works = finds in {"yes", "cached"} and asked in {"by id", "both"}
    hides = draw(st.sampled_from(["", "", "ids", "tasks"]))
    lies = Lies(
        seed=draw(st.integers(0, 9999)),
        lost=draw(st.sampled_from([0.3, 0.6, 1.0])),
        never_arrived=draw(st.sampled_from([0.0, 0.5])),
        lost_by=draw(st.sampled_from(["cut", "502", "504"])),
        lost_after=draw(st.sampled_from([0.0, 0.3])),
        accepted_after=draw(st.sampled_from([0.0, 0.5])),
        repeated=draw(st.sampled_from([0.0, 0.5])) if works else 0.0,
        second_copy=draw(st.sampled_from(sorted(REFUSALS))),
        mixed_up=draw(st.sampled_from([0.0, 0.3])) if asked != "never" else 0.0,
        finds=finds,
        lag=draw(st.sampled_from([0.0, 0.4])),
        order=draw(st.sampled_from(["newest", "oldest", "shuffled"])),
        page_cap=draw(st.sampled_from([2, 5, 500])),
        gaps=draw(st.booleans()),
        hides=hides,
        ids=draw(st.sampled_from(["", "", "upper", "cut", "none"])),
        clock=draw(st.sampled_from(["ms", "s", "behind", "ahead"])),
        slow=draw(st.sampled_from([0.0, 0.0, 0.0, 1.0])),
    )
    jobs = draw(st.integers(3, 8))
    return Scenario(lies=lies, jobs=jobs, account=ASKED[asked], killed_after=draw(st.sampled_from([0, 0, 1, jobs])))


@scenarios(4)
@example(scenario=Scenario(lies=Lies(seed=15, lost=0.5, finds="never"), jobs=8, account=ASKED["by id"]))
@example(  # tasks that take longer than run.task_timeout stay open: exit 1, and no failure
    scenario=Scenario(
        lies=Lies(
            seed=500,
            lost=0.3,
            lost_by="504",
            accepted_after=0.5,
            second_copy=1304,
            mixed_up=0.3,
            finds="never",
            order="shuffled",
            gaps=True,
            ids="none",
            clock="s",
            slow=1.0,
        ),
        jobs=6,
        account=ASKED["by id"],
        killed_after=1,
    )
)
@given(scenario=absences())
def test_an_absence_is_believed_only_with_a_control(scenario):
    with tempfile.TemporaryDirectory() as folder, LyingGateway(scenario.lies) as gateway:
        gateway.remember(12, seconds=7200)
        witness, code = run_once(folder, gateway, scenario)
        if code in {0, 1}:  # else it was stopped, and what is open is not yet in doubt
            witness.check_nothing_is_lost(but=witness.unfinished() if scenario.lies.slow else ())
        gateway.lies = HONEST
        code = witness.runs(3).returncode
        witness.check_nothing_is_lost()
        assert set(witness.failures().values()) <= {"unknown"}, witness.failures()
        assert code == int(bool(witness.failures()))
        if "use" not in scenario.account:  # it can be asked, and now tells the truth
            assert set(gateway.billed()) == witness.delivered()


# --- 2: what is in hand is kept ------------------------------------------------------------------------------


@st.composite
def losses(draw):
    """Answers about tasks that are late, short or about others; images that are refused; kills; a drive that goes."""
    lies = Lies(
        seed=draw(st.integers(0, 9999)),
        forgets=draw(st.integers(0, 2)),
        fewer=draw(st.integers(0, 3)),
        shuffled=draw(st.booleans()),
        foreign=draw(st.integers(0, 2)),
        list_links=draw(st.sampled_from([1, 9])),
        words=draw(st.sampled_from(["processing", "canceled", "queued", ""])),
        policy=draw(st.sampled_from([0.0, 0.0, 0.3])),
        image_refusals=draw(st.integers(0, 3)),
        lost=draw(st.sampled_from([0.0, 0.2])),
    )
    jobs, n = draw(st.integers(3, 8)), draw(st.integers(1, 3))
    killed_after = draw(st.sampled_from([0, 1, jobs, jobs]))
    account = draw(st.sampled_from([ASKED["by id"], ASKED["both"]]))
    return Scenario(lies=lies, jobs=jobs, n=n, account=account, killed_after=killed_after, away=draw(st.booleans()))


def a_run_without_its_drive(witness):
    """The images are away for one run, in which the gateway has none of them any more; then they are all back."""
    before = witness.delivered()
    gateway, images, away = witness.gateway, witness.root / "images", witness.folder / "away"
    gateway.answers |= {"image": lambda _: gateway.page_of_text(404), "query": lambda _: gateway.no(404, 1203)}
    gateway.answers["create"] = lambda _: gateway.no(429, 1102, "empty")
    images.rename(away)
    assert "Traceback" not in batchgen("run", witness.path, cwd=witness.folder).stderr
    for left in sorted(images.rglob("*"), reverse=True) if images.exists() else ():
        left.rmdir()
    if images.exists():
        images.rmdir()
    away.rename(images)
    witness.run()
    assert witness.delivered() >= before
    gateway.answers |= {"image": gateway._image, "query": gateway._query, "create": gateway._create}


@scenarios(4)
@example(scenario=Scenario(lies=Lies(fewer=1, shuffled=True), n=3, account=ASKED["by id"]))
@example(scenario=Scenario(lies=Lies(fewer=3, shuffled=True, image_refusals=1), n=3, account=ASKED["by id"]))
@given(scenario=losses())
def test_what_is_in_hand_is_kept(scenario):
    with tempfile.TemporaryDirectory() as folder, LyingGateway(scenario.lies) as gateway:
        witness, _ = run_once(folder, gateway, scenario)
        if scenario.away and (witness.root / "images").exists():
            a_run_without_its_drive(witness)
        gateway.lies = replace(HONEST, seed=scenario.lies.seed, policy=scenario.lies.policy)
        code = witness.runs(3).returncode
        refused = {task.prompt for task in gateway.tasks.values() if task.is_refused}
        assert witness.failures() == dict.fromkeys(refused, "rejected")
        assert code == int(bool(refused))
        assert witness.delivered() == set(witness.prompts) - refused == set(gateway.billed())


# --- 3: rehearsal and reality; a person and a clock ----------------------------------------------------------

MOODS = {"honest": 0, "wrong key": 6, "empty": 6, "closed": 6, "outage": 3}


def in_a_mood(gateway, mood):
    answers = {
        "honest": gateway._create,
        "wrong key": lambda _: gateway.no(401, 1002, "no such key"),
        "empty": lambda _: gateway.no(429, 1102, "resource pack used up"),
        "closed": lambda _: gateway.no(429, 1100, "account abnormal"),
        "outage": lambda _: gateway.page_of_text(503),
    }
    gateway.answers["create"] = answers[mood]


@scenarios(2)
@example(steps=["sandbox", "honest"])
@example(steps=["wrong key", "outage", "sandbox"])
@given(steps=st.lists(st.sampled_from(["sandbox", *MOODS]), min_size=1, max_size=3))
def test_rehearsal_and_reality_never_mix_and_exits_tell_a_person_from_a_clock(steps):
    with tempfile.TemporaryDirectory() as folder, LyingGateway() as gateway:
        os.environ |= KEY
        witness, is_made = Witness(Path(folder), gateway), False
        for step in [*steps, "honest"]:
            provider = "sandbox" if step == "sandbox" else "local"
            in_a_mood(gateway, "honest" if step == "sandbox" else step)
            witness.write(12, provider=provider, run=", give_up_after: 1s", lists_tasks="no", limits={"concurrency": 4})
            done = batchgen("run", witness.path, "--quiet", cwd=witness.folder)
            assert "Traceback" not in done.stderr, done.stderr
            is_expected = done.returncode == (0 if is_made or step == "sandbox" else MOODS[step])
            is_in_doubt = step in {"honest", "sandbox"} and done.returncode == 1 and witness.failures()
            assert is_expected or is_in_doubt, (steps, step, done.returncode, done.stderr)
            if provider == "local":
                witness.check(done.returncode)
                is_made = is_made or done.returncode == 0
        witness.runs()
        assert witness.delivered() == set(witness.prompts)
