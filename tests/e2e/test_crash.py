"""A crash at every step: the command is killed at each point of its run, and the plain command goes on from there.

The points are found by `crash_points.py` in a clean run. A fixed stride of them is tried; with BATCHGEN_ALL_POINTS=1
all are, with BATCHGEN_ALL_POINTS=9 each ninth, and at further accounts. The gateway, a process of its own that nobody
kills, counts what was billed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from called_back import callback, free_port
from command import KEY, ROOT, batchgen
from output_checks import check_invariant, rows_of
from sandbox_process import SandboxProcess

from batchgen.catalog.definitions import text_of

ALL = int(os.environ.get("BATCHGEN_ALL_POINTS") or 0)  # each so many; 0: the few of every run
AT_ONCE = 2
BEYOND = 3  # runs differ by a few steps: threads take turns differently
LAUNCHER = Path(__file__).parents[1] / "support" / "crash_points.py"

LOOKUP = "use: kapon"
LIST_ONLY = 'use: kapon, lookup_by_external_id: "no", lists_tasks: "yes"'
NEITHER = "use: anyapi"
AT_ONCE_MADE = "use: openai, defaults: {aspect_ratio: 3:2}"
BY_OWN_ID, BY_LIST, TASK_ONLY, IN_ANSWER = "use: runware", "use: fal", "use: bfl", "use: gemini"  # of definitions
LISTED, QUEUED, CALLED, FREE = "use: replicate", "use: comfyui", "use: luma", "use: a1111"  # further ones
BY_COMMAND = "use: ./by-command.yaml"
ONE_IMAGE = (TASK_ONLY, IN_ANSWER, CALLED)  # a task of theirs makes one
HELD = (
    NEITHER,
    AT_ONCE_MADE,
    TASK_ONLY,
    IN_ANSWER,
)  # accounts that cannot be asked: a job whose answer was lost is held
FOUND = (CALLED, BY_COMMAND)  # only what was never taken is held

JOBS = """\
matrix:
  prompt:
    - {{prompt: "{name} one"}}
    - {{prompt: "{name} two"{more}}}
    - {{prompt: "{name} three"}}
"""
EDITED = """\
matrix:
  prompt:
    - {{prompt: "{name} four"}}
    - {{prompt: "{name} two", id: renamed{more}}}
    - {{prompt: "{name} three", aspect_ratio: 1:1}}
    - {{prompt: "{name} three"}}
"""


Asked = tuple[str, str]


def asked_by(row: dict[str, str]) -> Asked:
    """What tells the jobs of these manifests apart."""
    return row["prompt"], row.get("aspect_ratio") or row.get("size", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLocation:
    """A folder with a manifest whose prompts no other place has, so that one gateway serves all of them."""

    folder: Path
    gateway: SandboxProcess
    account: str

    @property
    def output(self) -> Path:
        return self.folder / "outputs" / "tried"

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.yaml"

    def write(self, text: str) -> None:
        self.folder.mkdir(exist_ok=True)
        more = "" if self.account in ONE_IMAGE else ", n: 2"
        more += ", watermark_info: {enabled: true}" if self.account in (LOOKUP, LIST_ONLY) else ""
        account = f'{self.account}, base_url: "{self.gateway.base_url}", api_key_env: SANDBOX_KEY, visibility_delay: 1'
        self.manifest.write_text(
            "version: 1\nname: tried\nprovider: local\n"
            f"providers: {{local: {{{account}, limits: {{concurrency: 3}}}}}}\n{self._more()}"
            + text.format(name=self.folder.name, more=more),
            encoding="utf-8",
        )

    def _more(self) -> str:
        """What the manifest says besides; a definition whose key a command prints is written beside it."""
        if self.account == BY_COMMAND:
            text = re.sub("(?m)^auth: .*$", "auth: {command: [printenv, SANDBOX_KEY]}", text_of("runware"))
            (self.folder / "by-command.yaml").write_text(text, encoding="utf-8")
        return callback(free_port()) if self.account == CALLED else ""

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return batchgen("run", self.manifest, *words, cwd=self.folder)

    def run_killed_at(self, step: int) -> list[str]:
        """Run until the step, or to the end where the step is 0 or never comes; the steps that were met."""
        log = self.folder / "steps"
        log.unlink(missing_ok=True)
        env = os.environ | KEY | {"CRASH_AT": str(step), "CRASH_LOG": str(log), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, LAUNCHER, "run", self.manifest],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode in {0, 1, -signal.SIGKILL}, done.stderr
        return log.read_text(encoding="utf-8").splitlines()


@dataclass(slots=True, kw_only=True)
class Trial:
    """One scenario at one gateway: what comes before the killed run, and how the jobs then have to stand."""

    gateway: SandboxProcess
    account: str
    root: Path
    name: str
    before: object
    jobs: int
    images: int
    held: list[Asked] = field(default_factory=list)

    def place(self, name: object) -> SourceLocation:
        place = SourceLocation(folder=self.root / f"{self.name}-{name}", gateway=self.gateway, account=self.account)
        place.folder.mkdir()
        self.before(place)
        return place

    def points(self) -> list[str]:
        return self.place("clean").run_killed_at(0)

    def check(self, step: int) -> None:
        """Kill at the step, go on with the plain command, and hold what is there to what was asked for."""
        place = self.place(step)
        met = place.run_killed_at(step)
        where = f"killed at {step}, {met[-1]}"
        done = place.run()
        rows = check_invariant(place.output)
        unknown = [asked_by(row) for row in rows_of(place.output, "failures.csv")]
        if self.account in HELD + FOUND:
            self._check_held(place, done, unknown, where)
        elif len(unknown) == self.jobs:
            # Killed before anything was accepted: no task exists by which the look-up could be tried. Sent again one by
            # one, the first is the control of the others.
            assert done.returncode == 1, f"{where}: {done.stdout}{done.stderr}"
            done = place.run("--retry-unknown")
            assert done.returncode == 0, f"{where}: {done.stdout}{done.stderr}"
            rows, unknown = check_invariant(place.output), []
        else:
            assert done.returncode == 0, f"{where}: {done.stdout}{done.stderr}"
        delivered = Counter(map(asked_by, rows))
        assert len(delivered.keys() | set(unknown)) == self.jobs, where
        assert unknown or len(rows) == self.images, where
        assert not (delivered.keys() & set(unknown)), where

    def _check_held(
        self, place: SourceLocation, done: subprocess.CompletedProcess[str], unknown: list[Asked], where: str
    ) -> None:
        assert done.returncode == (1 if unknown else 0), f"{where}: {done.stdout}{done.stderr}"
        assert all(row["status"] == "unknown" for row in rows_of(place.output, "failures.csv")), where
        assert not unknown or "failures.csv says why" in done.stdout, where
        self.held += unknown


def sampled(points: list[str], stride: int) -> set[int]:
    """Every step; or each `stride`-th, and the one at which the first answer is there and nobody has read it."""
    if ALL:
        return set(range(1, len(points) + BEYOND + 1, ALL))
    return {*range(1 + stride // 2, len(points) + 1, stride), points.index("received") + 1}


def crash_everywhere(trial: Trial, stride: int, capsys) -> list[str]:
    """Kill at every point (or at each `stride`-th), check, and compare with what the gateway billed."""
    points = trial.points()
    steps = sorted(sampled(points, stride))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(trial.check, steps))
    tasks = trial.gateway.usage()["tasks"]
    billed = Counter(asked_by(task["request"]) for task in tasks)
    if trial.account != FREE:  # which is sent again
        assert {key: number for key, number in billed.items() if number != 1} == {}
    if trial.account in FOUND:
        assert not billed.keys() & set(trial.held)
    with capsys.disabled():
        print(
            f"\n{trial.name}: {len(points)} crash points, {len(steps)} tried, {len(tasks)} tasks billed, none twice,",
            f"{len(trial.held)} jobs held",
        )
    return points


def nothing(place: SourceLocation) -> None:
    place.write(JOBS)


def done_and_edited(place: SourceLocation) -> None:
    """All is there; then a job goes, one comes, one has a new name, a file is lost and one was changed."""
    place.write(JOBS)
    assert place.run().returncode == 0
    two = [row["file_name"] for row in rows_of(place.output) if row["prompt"].endswith("two")]
    (place.output / two[0]).unlink()
    (place.output / two[1]).write_bytes(b"retouched")
    place.write(EDITED)


def answer_never_read(place: SourceLocation) -> None:
    """The first create was accepted, and the process died before its answer was read."""
    place.write(JOBS)
    scout = replace(place, folder=place.folder.with_name(f"{place.folder.name}-scout"))
    scout.write(JOBS)
    first = scout.run_killed_at(0).index("received") + 1
    place.run_killed_at(first)


FURTHER = [
    ("declared list of all", LISTED, ("--emulate", "replicate"), 0),
    ("declared queue", QUEUED, ("--emulate", "comfyui"), 0),
    (
        "declared callback",
        CALLED,
        ("--emulate", "luma", "--latency", "2"),
        0,
    ),  # it calls once, when the next run listens
    ("declared free", FREE, ("--emulate", "a1111"), 0),
    ("declared command", BY_COMMAND, ("--emulate", "runware"), 0),
]
FURTHER = FURTHER if ALL else []


@pytest.mark.parametrize(
    ("kind", "account", "options", "stride"),
    [
        ("look-up", LOOKUP, ("--emulate", "kapon"), 37),
        ("list only", LIST_ONLY, ("--emulate", "kapon", "--no-lookup-by-external-id", "--lists"), 37),
        ("neither", NEITHER, ("--emulate", "anyapi"), 37),
        ("made at once", AT_ONCE_MADE, ("--emulate", "openai"), 37),
        ("declared own id", BY_OWN_ID, ("--emulate", "runware"), 151),
        ("declared list", BY_LIST, ("--emulate", "fal"), 151),
        ("declared task", TASK_ONLY, ("--emulate", "bfl"), 151),
        ("declared answer", IN_ANSWER, ("--emulate", "gemini"), 151),
        *FURTHER,
    ],
)
def test_killed_at_any_step_nothing_is_billed_twice_and_nothing_lost(tmp_path, capsys, kind, account, options, stride):
    with SandboxProcess("--latency", "0.01", "--blank-images", "--concurrency", "99", *options) as gateway:
        trial = Trial(
            gateway=gateway,
            account=account,
            root=tmp_path,
            name=kind.replace(" ", "-"),
            before=nothing,
            jobs=3,
            images=3 if account in ONE_IMAGE else 4,
        )
        points = crash_everywhere(trial, stride, capsys)
    assert {"send", "received", "after COMMIT", "fsync"} <= set(points)
    assert any(point.startswith("os.rename") for point in points)
    assert account in FOUND or bool(trial.held) == (account in HELD)


@pytest.mark.parametrize(
    ("kind", "before", "jobs", "images"),
    [("edited", done_and_edited, 4, 5), ("answer-never-read", answer_never_read, 3, 4)],
)
def test_killed_at_any_step_of_a_run_that_goes_on_the_next_one_does(tmp_path, capsys, kind, before, jobs, images):
    with SandboxProcess("--emulate", "kapon", "--latency", "0.01", "--blank-images", "--concurrency", "99") as gateway:
        trial = Trial(
            gateway=gateway, account=LOOKUP, root=tmp_path, name=kind, before=before, jobs=jobs, images=images
        )
        crash_everywhere(trial, 41, capsys)
