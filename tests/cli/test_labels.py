"""Labels and marks in the files of an output, from a real run."""

from __future__ import annotations

import sqlite3

import pytest
from command import batchgen
from output_checks import check_invariant, rows_of

from batchgen.ledger.marks import write_marks
from batchgen.ledger.records import Mark, NewMark
from batchgen.ledger.store import FILE_NAME
from batchgen.reports.index import INDEX_COLUMNS

HEAD = "version: 1\nname: tried\nprovider: sandbox\n"
TABLE = 'Text;Kind;Note\na fox;Animal;=1+1\na mug;Thing;"<b>two\nlines</b>"\n'
PLAIN = "matrix: {prompt: {from: t.csv, column: Text}}\n"
LABELLED = "matrix: {prompt: {from: t.csv, column: Text, labels: true}, labels: {campaign: spring}}\n"


@pytest.fixture
def tried(tmp_path):
    """Writes the manifest, then gives a command with it."""
    (tmp_path / "t.csv").write_text(TABLE, encoding="utf-8")

    def run(command, body, *words):
        (tmp_path / "m.yaml").write_text(HEAD + body, encoding="utf-8")
        return batchgen(command, "m.yaml", *words, cwd=tmp_path)

    return run


@pytest.fixture
def root(tmp_path):
    return tmp_path / "outputs" / "tried"


def columns(root, name="index.csv"):
    return list(rows_of(root, name)[0])


def test_labels_that_are_added_make_nothing_anew_and_come_into_the_index(tried, root):
    assert tried("run", PLAIN).returncode == 0
    assert columns(root) == list(INDEX_COLUMNS)
    before = {row["job_id"]: row["sha256"] for row in rows_of(root)}
    assert tried("plan", LABELLED, "--exit-code").returncode == 0
    assert tried("run", LABELLED).returncode == 0
    assert columns(root)[len(INDEX_COLUMNS) :] == ["label.Kind", "label.Note", "label.campaign"]
    rows = rows_of(root)
    assert {row["job_id"]: row["sha256"] for row in rows} == before
    assert [row["label.Note"] for row in rows] == ["=1+1", "<b>two\nlines</b>"]
    assert tried("verify", LABELLED).returncode == 0
    written = (root / "index.csv").read_bytes()
    (root / "index.csv").unlink()
    assert tried("run", LABELLED).returncode == 0
    assert (root / "index.csv").read_bytes() == written
    assert tried("run", PLAIN).returncode == 0
    assert columns(root) == list(INDEX_COLUMNS)


def test_a_run_of_some_labels_makes_their_jobs_alone_and_names_their_files(tried, root):
    body = f'{LABELLED}output: {{path: "{{campaign}}/{{Kind}}-{{job_id}}{{ext}}", spreadsheet_safe: true}}\n'
    assert tried("run", body, "--only", "Kind=A*").returncode == 0
    [row] = check_invariant(root)
    assert row["file_name"].startswith("images/spring/Animal-")
    assert row["label.Note"] == "'=1+1"
    assert tried("verify", body).returncode == 0
    done = tried("run", body, "--only", "Knd=A*")
    assert done.returncode == 2
    assert "Did you mean Kind?" in done.stderr


def test_failures_have_their_labels(tried, root):
    body = "matrix: {prompt: {from: t.csv, column: Text, labels: [Kind]}}\nrun: {max_attempts: 1}\n"
    assert tried("run", body).returncode == 0
    with sqlite3.connect(root / FILE_NAME) as db:
        db.execute("UPDATE job SET status = 'failed', code = '1' WHERE request LIKE '%a mug%'")
        db.execute("DELETE FROM meta WHERE key IN ('views', 'sums')")
    assert tried("run", body).returncode == 1
    assert [row["label.Kind"] for row in rows_of(root, "failures.csv")] == ["Thing"]


def test_marks_and_scores_are_columns_after_the_labels_and_renew_the_index(tried, root):
    assert tried("run", LABELLED).returncode == 0
    fox = rows_of(root)[0]["sha256"]
    rejected = NewMark(sha256=fox, mark=Mark.REJECT, note="=blurred")
    seen = NewMark(sha256=fox, mark=Mark.NONE, reviewer="blank@1", scores={"contrast": 0.25})
    write_marks(root / FILE_NAME, [rejected, seen])
    assert tried("run", LABELLED).returncode == 0
    after = ["mark", "note", "score.blank.contrast"]
    assert columns(root)[-3:] == after
    assert [[row[name] for name in after] for row in rows_of(root)] == [["reject", "=blurred", "0.25"], ["", "", ""]]
    assert tried("verify", LABELLED).returncode == 0
    write_marks(root / FILE_NAME, [NewMark(sha256=fox, mark=Mark.NONE, note="")])
    assert tried("run", LABELLED).returncode == 0
    assert columns(root)[-1:] == ["score.blank.contrast"]
    assert "mark" not in columns(root)


def test_metadata_names_the_files_first_and_labels_plainly_and_comes_and_goes_with_the_manifest(tried, root):
    body = LABELLED.replace("{prompt", "{model: [{model: kling-v1, id: old}], prompt") + "output: {metadata: true}\n"
    assert tried("run", body).returncode == 0
    rows = rows_of(root, "metadata.csv")
    assert next(iter(rows[0])) == "file_name"
    assert [row["file_name"] for row in rows] == [row["file_name"] for row in rows_of(root)]
    assert [(row["prompt"], row["Kind"], row["campaign"], row["label.model"]) for row in rows] == [
        ("a fox", "Animal", "spring", "old"),
        ("a mug", "Thing", "spring", "old"),
    ]
    (root / "metadata.csv").unlink()
    assert tried("run", body).returncode == 0
    assert rows_of(root, "metadata.csv") == rows
    assert tried("verify", body).returncode == 0
    assert tried("run", LABELLED).returncode == 0
    assert not (root / "metadata.csv").exists()
