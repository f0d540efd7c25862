"""Checks of images: each looks once, what it does wrong stops nothing, and what it may spend is bounded."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys

import pytest
from command import KEY, batchgen, billed_by_job, killed_at, manifest, prompts, started, wait_for
from output_checks import check_invariant, rows_of
from sandbox_server import SandboxServer

from batchgen import load_manifest, run_async
from batchgen.ledger.store import FILE_NAME, reading

ALL = bool(os.environ.get("BATCHGEN_ALL_POINTS"))

# Notes each image that it sees, and rejects those whose number, in the order of arrival, is in its first argument.
SCORER = """
import json, sys
for line in sys.stdin:
    image = json.loads(line)
    with open("seen", "a+") as seen:
        seen.seek(0)
        number = len(seen.readlines())
        seen.write(json.dumps(image) + "\\n")
    bad = sys.argv[1] == "all" or str(number) in sys.argv[1].split("-")
    verdict = {"verdict": "reject", "why": "bad"} if bad else {}
    print(json.dumps({**verdict, "scores": {"n": number}}), flush=True)
"""


@pytest.fixture(scope="module")
def gateway():
    with SandboxServer("--latency", "0.05") as running:
        yield running


@pytest.fixture
def output(tmp_path, gateway):
    """Writes a manifest of four images with these checks; `run` it."""

    def write(checks, more="", prompts=4):
        (tmp_path / "score.py").write_text(SCORER, encoding="utf-8")
        lines = "".join(f"    - {tmp_path.name} {number}\n" for number in range(prompts))
        return manifest(tmp_path, gateway, f"matrix:\n  prompt:\n{lines}checks: {checks}\n{more}")

    return write


def scorer(rejects="none", more="name: score"):
    return f"{{command: [{json.dumps(sys.executable)}, score.py, {rejects!r}], {more}}}"


def command(path, name, *words, code=0):
    done = batchgen(name, path, *words, cwd=path.parent)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def root_of(path):
    return path.parent / "outputs" / "tried"


def rows(path):
    with reading(root_of(path) / FILE_NAME) as ledger:
        return list(ledger.index_rows())


def seen(path):
    return [json.loads(line) for line in (path.parent / "seen").read_text(encoding="utf-8").splitlines()]


def billed(path, gateway):
    jobs = {row["job_id"] for row in rows_of(root_of(path))}
    return [number for job, number in billed_by_job(gateway).items() if job in jobs]


# --- looking --------------------------------------------------------------------------------------------------


def test_each_image_is_seen_once_by_each_version(output):
    path = output(f"[blank, {scorer('1')}]")
    done = command(path, "run", "--json")
    assert [(each["reviewer"], each["checked"], each["rejected"]) for each in json.loads(done.stdout)["checks"]] == [
        ("blank@1", 4, 0),
        ("score@1", 4, 1),
    ]
    assert "The check score@1 rejected 1 of 4 images." in done.stderr
    assert sorted(row.mark for row in rows(path)) == ["", "", "", "reject"]
    assert sorted(row.scores["score.n"] for row in rows(path)) == [0, 1, 2, 3]
    assert all(row.scores["blank.contrast"] > 0.01 for row in rows(path))
    facts = seen(path)[0]
    assert {"path", "job_id", "index", "prompt", "parameters", "labels", "sha256"} == facts.keys()
    command(path, "run")
    command(path, "check")
    assert len(seen(path)) == 4
    output(f"[blank, {scorer('none', 'name: score, version: 2')}]")
    command(path, "check")
    assert len(seen(path)) == 8
    assert [row.mark for row in rows(path)] == [""] * 4  # the new version replaces the verdicts of the old one
    assert command(path, "verify").returncode == 0


def test_what_a_person_says_is_stronger_than_a_check(output):
    path = output(f"[{scorer('all')}]")
    command(path, "run")
    name = rows_of(root_of(path))[0]["file_name"]
    command(path, "review", "--keep", name)
    assert [row.mark for row in rows(path)] == ["keep", "reject", "reject", "reject"]
    command(path, "review", "--clear", name)
    assert [row.mark for row in rows(path)] == ["reject"] * 4


@pytest.mark.parametrize(
    ("check", "says"),
    [
        ("command: [no-such-command]", "cannot be started: no-such-command"),
        ('command: [sh, -c, "echo not installed >&2; exit 3"]', "ended without an answer: not installed"),
        ("command: [sleep, '60'], timeout: 0.2s", "no answer within 0.2 s"),
        ('command: [sh, -c, "while read x; do echo hello; done"]', "no JSON: hello"),
        ('command: [sh, -c, "while read x; do echo 7; done"]', "no object"),
        ('command: [sh, -c, \'while read x; do echo "{\\"verdict\\": \\"nice\\"}"; done\']', "neither keep nor reject"),
        ('command: [sh, -c, \'while read x; do echo "{\\"scores\\": {\\"a\\": NaN}}"; done\']', "numbers"),
        ('command: [sh, -c, \'while read x; do echo "{}"; echo "{}"; done\']', "nobody asked for"),
        ("use: nothing", "no installed package provides the check 'nothing'"),
    ],
    ids=["absent", "crash", "hang", "garbage", "no object", "verdict", "scores", "too much", "not installed"],
)
def test_a_check_that_fails_stops_nothing_and_leaves_its_images_unchecked(output, check, says):
    path = output(f"[{{{check}}}, blank]")
    done = command(path, "run", "--json")
    first, second = json.loads(done.stdout)["checks"]
    assert says in first["error"]
    assert first["checked"] + first["failed"] <= 4
    assert first["failed"] or first["given_up"]
    assert second["checked"] == 4
    if first["given_up"]:
        assert says in command(path, "check", code=1).stderr
    assert len(check_invariant(root_of(path))) == 4


def test_an_image_that_a_check_cannot_judge_keeps_no_other_from_it(output):
    text = SCORER.replace('bad = sys.argv[1] == "all"', 'assert number != 1; bad = sys.argv[1] == "all"')
    path = output(f"[{scorer()}]")
    (path.parent / "score.py").write_text(text, encoding="utf-8")
    done = command(path, "run", "--json")
    (report,) = json.loads(done.stdout)["checks"]
    assert (report["checked"], report["failed"], report["given_up"]) == (3, 1, False)
    assert "AssertionError" in report["error"]
    command(path, "check")
    assert len([row for row in rows(path) if row.scores]) == 4


def test_images_are_checked_while_a_run_goes(tmp_path):
    with SandboxServer("--latency", "0.3") as slow:
        text = "".join(f"    - during {number}\n" for number in range(12))
        path = manifest(tmp_path, slow, f"matrix:\n  prompt:\n{text}checks: [blank]\n", concurrency=1)
        run = started("run", path, "--json", cwd=tmp_path)
        wait_for(lambda: len(list(root_of(path).rglob("*.png"))) > 2)
        done = command(path, "check", "--json")
        assert run.poll() is None
        assert 12 > json.loads(done.stdout)["checks"][0]["checked"] > 1
        output, errors = run.communicate(timeout=60)
    assert run.returncode == 0, errors
    assert 12 > json.loads(output)["checks"][0]["checked"] > 1
    assert len([row for row in rows(path) if row.scores]) == 12


# --- made anew ------------------------------------------------------------------------------------------------


def remake(**bounds):
    given = {"attempts": 2, "budget": {"max_images": 50}, "stop_above": 1} | bounds
    return f"on_reject: {json.dumps({'do': 'remake', **given})}\n"


def test_what_a_check_rejects_is_made_anew_until_it_passes(output, gateway):
    path = output(f"[{scorer('0-3-4')}]", remake())
    done = command(path, "run", "--json")
    assert json.loads(done.stdout)["checks"][0]["checked"] == 7  # 4, of which 2 are rejected; 2, of which 1; 1
    assert sorted(billed(path, gateway)) == [1, 1, 2, 3]
    assert [row.mark for row in rows(path)] == [""] * 4
    assert len(check_invariant(root_of(path))) == 4
    command(path, "run")
    assert sum(billed(path, gateway)) == 7
    assert command(path, "audit").stdout.splitlines()[-1].endswith(" 0 twice.")


@pytest.mark.parametrize(
    ("bounds", "paid"),
    [({"attempts": 1}, 8), ({"attempts": 3, "budget": {"max_images": 5}}, 9)],
    ids=["attempts", "budget"],
)
def test_the_bounds_of_on_reject_hold_over_all_runs(output, gateway, bounds, paid):
    path = output(f"[{scorer('all')}]", remake(**bounds))
    command(path, "run")
    assert sum(billed(path, gateway)) == paid
    command(path, "run")
    assert sum(billed(path, gateway)) == paid
    command(path, "run", "--remake", "rejected")  # a person may always
    assert sum(billed(path, gateway)) == paid + 4


def test_a_check_that_rejects_too_much_has_nothing_made_anew(output, gateway):
    path = output(f"[{scorer('all')}]", remake(stop_above=0.5), prompts=20)
    done = command(path, "run")
    assert "rejected 100% of 20 images, more than on_reject.stop_above" in done.stderr
    assert sum(billed(path, gateway)) == 20


def test_the_manifests_budget_holds_for_what_checks_reject(output, gateway):
    path = output(f"[{scorer('all')}]", remake() + "budget: {max_images: 6}\n")
    command(path, "run", code=3)
    assert sum(billed(path, gateway)) == 6


def test_the_limit_holds_for_what_checks_reject(output, gateway):
    path = output(f"[{scorer('0')}]", remake(attempts=1))
    command(path, "run", "--limit", "2")
    assert sorted(billed(path, gateway)) == [1, 2]


FIRST = """
import json, pathlib, sys
known = pathlib.Path("first.json")
for line in sys.stdin:
    image = json.loads(line)
    first = json.loads(known.read_text()) if known.exists() else {}
    if first.setdefault(image["job_id"], image["sha256"]) == image["sha256"]:
        known.write_text(json.dumps(first))
        print(json.dumps({"verdict": "reject"}), flush=True)
    else:
        print("{}", flush=True)
"""


def test_a_run_that_is_killed_makes_anew_what_its_checks_rejected_once(tmp_path, gateway):
    def place(name):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "score.py").write_text(FIRST, encoding="utf-8")
        prompts = f"matrix: {{prompt: [killed {name} one, killed {name} two]}}\n"
        return manifest(folder, gateway, f"{prompts}checks: [{scorer()}]\n{remake(attempts=5)}")

    steps = len(killed_at(0, place("clean")))
    for step in range(1, steps + 1) if ALL else range(steps * 6 // 10, steps, steps // 5):
        path = place(str(step))
        met = killed_at(step, path)
        where = f"killed at {step} of {steps}, {met[-1]}"
        done = batchgen("run", path, cwd=path.parent)
        if done.returncode == 1:  # killed before anything was accepted: see test_crash.py
            done = batchgen("run", path, "--retry-unknown", cwd=path.parent)
        assert done.returncode == 0, f"{where}: {done.stdout}{done.stderr}"
        first = set(json.loads((path.parent / "first.json").read_text(encoding="utf-8")).values())
        files = {hashlib.sha256(file.read_bytes()).hexdigest() for file in root_of(path).rglob("*.png")}
        assert len(check_invariant(root_of(path))) == 2, where
        assert [row.mark for row in rows(path)] == ["", ""], where
        assert first <= files, where
        assert billed(path, gateway) == [2, 2], where


# --- the manifest ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("checks: [blanc]", "blank"),
        ("checks: [{blank: {}, size: {}}]", "one of blank, size, command and use"),
        ("checks: [{name: x}]", "one of blank, size, command and use"),
        ("checks: [blank, {blank: {max_share: 0.9}}]", "two checks named `blank`"),
        ("checks: [{command: [python]}, {command: [python]}]", "two checks named `command`"),
        ("checks: [{command: [python], with: {}}]", "`with` is for `use`"),
        ("checks: [{size: {min_sides: 3}}]", "min_side"),
        ("on_reject: {do: remake}", "budget"),
        ("on_reject: {do: remake, budget: {}}", "max_images"),
    ],
)
def test_a_check_that_is_written_wrong_is_reported_with_its_place(tmp_path, gateway, text, says):
    path = manifest(tmp_path, gateway, f"matrix: {{prompt: [a]}}\n{text}\n")
    done = command(path, "validate", code=2)
    assert "manifest.yaml:6:" in done.stderr
    assert says in done.stderr


def test_check_needs_checks_and_an_output(tmp_path, gateway):
    path = manifest(tmp_path, gateway, "matrix: {prompt: [a]}\n")
    assert "has no `checks`" in command(path, "check", code=2).stderr
    path = manifest(tmp_path, gateway, "matrix: {prompt: [a]}\nchecks: [blank]\n")
    assert "There is no output" in command(path, "check", code=2).stderr


async def test_the_loop_of_a_caller_goes_on_while_checks_look(tmp_path, gateway, monkeypatch):
    """The check waits for what the caller's loop does meanwhile."""
    monkeypatch.chdir(tmp_path)
    for name, value in KEY.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "wait.py").write_text(
        "import pathlib, sys, time\n"
        "for line in sys.stdin:\n"
        "    while not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)\n"
        "    print('{}', flush=True)\n",
        encoding="utf-8",
    )
    command = json.dumps([sys.executable, str(tmp_path / "wait.py"), str(tmp_path / "go")])
    path = manifest(tmp_path, gateway, f"{prompts(1)}checks: [{{command: {command}, name: waits, timeout: 30s}}]\n")
    result = asyncio.ensure_future(run_async(load_manifest(path)))
    while not (tmp_path / "outputs" / "tried" / "index.csv").exists():
        await asyncio.sleep(0.01)
    (tmp_path / "go").touch()
    assert [report.checked for report in (await result).checks] == [1]
