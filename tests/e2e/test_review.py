"""Marks of images, and `run --remake rejected`: only what was rejected is paid again, once, and nothing is lost."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter

import pytest
from command import batchgen, billed_by_job, killed_at, manifest, prompts, started, wait_for
from output_checks import check_invariant, rows_of
from sandbox_server import SandboxServer

from batchgen.app.review import Mark, NewMark, refresh_index, store_marks
from batchgen.ledger.store import FILE_NAME, reading

ALL = bool(os.environ.get("BATCHGEN_ALL_POINTS"))


@pytest.fixture(scope="module")
def gateway():
    with SandboxServer("--latency", "0.05") as running:
        yield running


@pytest.fixture
def made(tmp_path, gateway):
    """An output of three jobs of its own, of which the last has two images."""
    name = tmp_path.name
    path = manifest(
        tmp_path,
        gateway,
        f"matrix:\n  prompt:\n    - {name} one\n    - {name} two\n    - {{prompt: {name} three, n: 2}}\n",
    )
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    return path


def root_of(path):
    return path.parent / "outputs" / "tried"


def command(path, name, *words, code=0):
    done = batchgen(name, path, *words, cwd=path.parent)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def marks_of(path):
    with reading(root_of(path) / FILE_NAME) as ledger:
        return {row.path: (row.mark.value, row.note) for row in ledger.index_rows() if row.mark or row.note}


def billed(path, gateway):
    """Tasks that were paid for, of the jobs of this manifest."""
    jobs = {row["job_id"] for row in rows_of(root_of(path))}
    return Counter({job: n for job, n in billed_by_job(gateway).items() if job in jobs})


def hashes_below(root):
    return {hashlib.sha256(file.read_bytes()).hexdigest() for file in [*root.rglob("*.png"), *root.glob(".scratch/*")]}


# --- marks --------------------------------------------------------------------------------------------------


def test_an_image_is_named_by_file_pattern_job_or_hash(made):
    rows = rows_of(root_of(made))
    command(made, "review", "--reject", f"outputs/tried/{rows[0]['file_name']}", "--keep", rows[1]["file_name"])
    command(
        made, "review", "--star", "images/*-three-*-1.png", "--why", '=1+1 "quoted"\n<b>', "--clear", rows[1]["sha256"]
    )
    assert marks_of(made) == {
        rows[0]["file_name"]: ("reject", ""),
        rows[3]["file_name"]: ("star", '=1+1 "quoted"\n<b>'),
    }
    command(made, "review", "--keep", rows[2]["job_id"])
    assert [mark for mark, _ in marks_of(made).values()] == ["reject", "keep", "keep"]


def test_conditions_select_images(made):
    command(made, "review", "--reject", "--where", "prompt=*two*")
    command(made, "review", "--where", "mark=reject", "--note", "hand of six fingers")
    assert list(marks_of(made).values()) == [("reject", "hand of six fingers")]


def test_marks_are_listed_and_counted(made):
    command(made, "review", "--reject", "*one*", "--why", "too dark")
    text = command(made, "review").stdout
    assert "too dark" in text
    assert "4 images: 1 reject, 3 without a mark." in text
    data = json.loads(command(made, "review", "--json").stdout)
    assert data["ok"]
    assert data["marks"] == {"none": 3, "reject": 1}
    assert [each["note"] for each in data["listed"]] == ["too dark"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--reject", "nothing.png"), "nothing.png"),
        (("--reject", "*one*", "--keep", "*.png"), "two marks at once"),
        (("--reject",), "--where"),
        (("--note", "x"), "--where"),
        (("--reject", "--where", "colour=red"), "there is no colour"),
        (("--from", "no.csv"), "does not exist"),
    ],
)
def test_what_cannot_be_marked_is_refused_and_nothing_is_written(made, words, says):
    done = command(made, "review", *words, code=2)
    assert says in done.stderr
    assert marks_of(made) == {}


def test_a_file_of_marks_may_come_from_a_spreadsheet(made):
    first, second = rows_of(root_of(made))[:2]
    text = f'file_name;mark;note\r\n{first["file_name"]};Reject;"zu dunkel; hässlich"\r\n{second["file_name"]};;\r\n'
    (made.parent / "marks.csv").write_text(text, encoding="utf-8-sig")
    assert "1 changed" in command(made, "review", "--from", "marks.csv").stdout
    assert marks_of(made) == {first["file_name"]: ("reject", "zu dunkel; hässlich")}


def test_every_bad_row_of_a_file_is_reported_and_nothing_is_written(made):
    first = rows_of(root_of(made))[0]
    text = f"sha256,mark\n{first['sha256']},reject\n{'0' * 64},keep\n{first['sha256']},nice\n"
    (made.parent / "marks.csv").write_text(text, encoding="utf-8")
    error = command(made, "review", "--from", "marks.csv", code=2).stderr
    assert "marks.csv:3:" in error
    assert "marks.csv:4:" in error
    assert "marks.csv:2:" not in error
    assert marks_of(made) == {}


def test_marks_of_images_that_were_replaced_since_may_be_in_the_file(made, gateway):
    first = rows_of(root_of(made))[0]
    text = f"sha256,mark,note\n{first['sha256']},reject,old\n"
    (made.parent / "marks.csv").write_text(text, encoding="utf-8")
    command(made, "review", "--from", "marks.csv")
    command(made, "run", "--remake", "rejected")
    new = rows_of(root_of(made))[0]
    (made.parent / "marks.csv").write_text(f"{text}{new['sha256']},star,new\n", encoding="utf-8")
    command(made, "review", "--from", "marks.csv")
    assert list(marks_of(made).values()) == [("star", "new")]
    command(made, "run", "--remake", "rejected")
    assert sum(billed(made, gateway).values()) == 4


def test_the_index_is_written_anew_after_marks_change(made):
    index = root_of(made) / "index.csv"
    before = index.stat().st_ino
    command(made, "review", "--reject", "*one*")
    assert index.stat().st_ino != before
    assert command(made, "verify").returncode == 0
    after = index.stat().st_ino
    command(made, "review", "--reject", "*one*")
    assert index.stat().st_ino == after
    command(made, "run")
    assert index.stat().st_ino == after


def test_marks_are_stored_while_a_run_goes(tmp_path):
    with SandboxServer("--latency", "0.2") as slow:
        path = manifest(tmp_path, slow, prompts(16), concurrency=2)
        run = started("run", path, "--json", cwd=tmp_path)
        wait_for(lambda: (root_of(path) / FILE_NAME).exists() and sum(1 for _ in root_of(path).rglob("*.png")) > 3)
        stored = left_to_the_run = 0
        while run.poll() is None and stored < 30:
            with reading(root_of(path) / FILE_NAME) as ledger:
                rows = list(ledger.index_rows())
            stored += store_marks(root_of(path), [NewMark(sha256=row.sha256, mark=Mark.STAR) for row in rows])
            left_to_the_run += not refresh_index(root_of(path))
        output, errors = run.communicate(timeout=60)
    assert run.returncode == 0, errors
    assert json.loads(output)["images"] == 16
    assert len(marks_of(path)) == stored >= 3
    assert left_to_the_run
    assert command(path, "verify").returncode == 0


# --- made anew ------------------------------------------------------------------------------------------------


def test_only_rejected_images_are_made_anew_and_only_once(made, gateway):
    before = {row["sha256"]: row["prompt_id"] for row in rows_of(root_of(made))}
    command(made, "review", "--reject", "*-two-*", "*-three-*-1.png")
    plan = json.loads(command(made, "plan", "--remake", "rejected", "--json").stdout)
    assert (plan["make"]["jobs"], plan["make"]["images"], plan["done"]["jobs"]) == (2, 3, 1)
    assert any("1 of 2 images rejected: all are made anew" in reason for reason in plan["make"]["reasons"])
    command(made, "run")
    assert sum(billed(made, gateway).values()) == 3  # without --remake, a rejected image is delivered
    command(made, "run", "--remake", "rejected")
    rows = check_invariant(root_of(made))
    assert sorted(billed(made, gateway).values()) == [1, 2, 2]
    assert len(rows) == 4
    assert sum(row["sha256"] in before for row in rows) == 1
    assert before.keys() <= hashes_below(root_of(made))  # the earlier ones are in retired/
    command(made, "run", "--remake", "rejected")
    assert sum(billed(made, gateway).values()) == 5
    assert command(made, "audit").stdout.splitlines()[-1].endswith(" 0 twice.")


def test_an_image_is_remade_as_often_as_it_is_rejected(made, gateway):
    known = set()
    for _ in range(3):
        known |= {row["sha256"] for row in rows_of(root_of(made))}
        command(made, "review", "--reject", "*-one-*")
        command(made, "run", "--remake", "rejected")
    assert max(billed(made, gateway).values()) == 4
    assert known <= hashes_below(root_of(made))
    assert command(made, "verify").returncode == 0


def test_bounds_hold_for_what_is_made_anew(made, gateway):
    command(made, "review", "--reject", "*.png")
    command(made, "run", "--remake", "rejected", "--only", "prompt=*one")
    assert sum(billed(made, gateway).values()) == 4
    command(made, "review", "--reject", "*.png")
    command(made, "run", "--remake", "rejected", "--limit", "1")
    assert sum(billed(made, gateway).values()) == 5
    made.write_text(made.read_text(encoding="utf-8") + "budget: {max_images: 6}\n", encoding="utf-8")
    assert "stops the run after" in command(made, "plan", "--remake", "rejected").stdout
    command(made, "run", "--remake", "rejected", code=3)
    assert sum(billed(made, gateway).values()) == 5
    command(made, "run")  # what was not begun for want of budget stays delivered
    assert sum(billed(made, gateway).values()) == 5
    check_invariant(root_of(made))


def test_a_deleted_file_comes_back_and_the_run_says_how_to_reject_it(made, gateway):
    row = rows_of(root_of(made))[0]
    (root_of(made) / row["file_name"]).unlink()
    told = command(made, "run").stderr
    assert "Missing or changed: 1 file;" in told
    assert "--reject FILE" in told
    assert rows_of(root_of(made))[0]["sha256"] == row["sha256"]
    assert sum(billed(made, gateway).values()) == 3


def test_a_rejected_image_whose_file_was_deleted_is_made_anew_not_fetched(made, gateway):
    row = rows_of(root_of(made))[0]
    command(made, "review", "--reject", row["file_name"])
    (root_of(made) / row["file_name"]).unlink()
    command(made, "run", "--remake", "rejected")
    assert check_invariant(root_of(made))[0]["sha256"] != row["sha256"]
    assert billed(made, gateway)[row["job_id"]] == 2


def test_a_mark_stays_when_the_file_is_renamed_or_retired_and_asked_for_again(made):
    command(made, "review", "--reject", "*-one-*")
    (mark,) = marks_of(made).values()
    text = made.read_text(encoding="utf-8")
    made.write_text(text + 'output: {path: "{job_id}-{index}{ext}"}\n', encoding="utf-8")
    command(made, "run")
    assert list(marks_of(made).values()) == [mark]


# --- killed -----------------------------------------------------------------------------------------------------


def test_a_remake_that_is_killed_is_paid_once_and_loses_nothing(tmp_path, gateway):
    def place(name):
        folder = tmp_path / name
        folder.mkdir()
        text = f"matrix:\n  prompt:\n    - killed {name} one\n    - {{prompt: killed {name} two, n: 2}}\n"
        path = manifest(folder, gateway, text)
        command(path, "run")
        command(path, "review", "--reject", "*-0.png")
        return path

    steps = len(killed_at(0, place("clean"), "--remake", "rejected"))
    for step in range(1, steps + 1) if ALL else range(steps // 4, steps, steps // 3):
        path = place(str(step))
        before = {row["sha256"] for row in rows_of(root_of(path))}
        met = killed_at(step, path, "--remake", "rejected")
        where = f"killed at {step} of {steps}, {met[-1]}"
        assert before <= hashes_below(root_of(path)), where
        command(path, "run")  # goes on with what was begun
        command(path, "run", "--remake", "rejected")
        rows = check_invariant(root_of(path))
        assert len(rows) == 3, where
        assert not before & {row["sha256"] for row in rows}, where
        assert before <= hashes_below(root_of(path)), where
        assert set(billed(path, gateway).values()) == {2}, where
        command(path, "run", "--remake", "rejected")
        assert set(billed(path, gateway).values()) == {2}, where
