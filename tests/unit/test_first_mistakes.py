"""What people write in their first hour: each mistake has one sentence that says what to write instead."""

from __future__ import annotations

import pytest
from command import batchgen

from batchgen.app.load import load_manifest
from batchgen.matrix.expand import expand

HEAD = "version: 1\nname: x\nprovider: sandbox\n"


@pytest.fixture
def checked(tmp_path):
    """What `validate` says of a manifest, beside two files."""
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "products.csv").write_text("prompt\na\n", encoding="utf-8")
    (tmp_path / "cat.jpeg").write_bytes(b"x")

    def of(body):
        (tmp_path / "m.yaml").write_text(HEAD + body, encoding="utf-8")
        return batchgen("validate", "m.yaml", cwd=tmp_path)

    return of


@pytest.mark.parametrize(
    ("body", "place", "says"),
    [
        ("matrix:\n  prompt:\n    - A cat: black\n", "6:7", ["must be in quotes", 'Write "A cat: black".']),
        ("matrix:\n  prompt: [Cats: black]\n", "5:12", ["must be in quotes", 'Write "Cats: black".']),
        (
            "matrix:\n  prompt:\n    - {prompt: A mug, white, round, id: mug}\n",
            "6:23",
            ["`white` is read as a key", 'Quote the text: prompt: "A mug, white, round".'],
        ),
        (
            "defaults: {negative_prompt: blurry, watermark}\nmatrix: {prompt: a}\n",
            "4:37",
            ['Quote the text: negative_prompt: "blurry, watermark".'],
        ),
        (
            'repeat: 3\noutput: {path: "{prompt_id}{ext}"}\nmatrix: {prompt: A}\n',
            "5:16",
            ["The 3 repeats of a job would all write images/a.png.", "Put {repeat}", "see also m.yaml:4:9"],
        ),
        ("matrix:\n  prompt:\n    - #1 mug\n", "6:6", ["a comment begins at #", 'Quote the text: "#1 mug".']),
        (
            'matrix:\n  prompt:\n    - "A cat" on a roof\n    - b\n',
            "6:15",
            ["more follows: on a roof.", """Quote all of it: '"A cat" on a roof'."""],
        ),
        ("matrix:\n  prompt: ['A cat' on a roof, b]\n", "5:20", ["""Quote all of it: "'A cat' on a roof"."""]),
        ("matrix: {prompt: a}\nproviders: {sandbox: {prices: 0.03}}\n", "5:31", ["{unit: USD, default: 0.014}"]),
        ("matrx:\n  prompt: a\n", "4:1", ["Unknown key `matrx`.", "Did you mean `matrix`?"]),
        ("matrix: {prompt: {prompt: a, delimiter: ';'}}\n", "4:30", ["`delimiter` goes with `from` or `rows`"]),
        ("matrix: {prompt: {from: prompts/products.csv, delimiter: ab}}\n", "4:58", ["Write one character"]),
    ],
)
def test_a_mistake_is_one_error_at_its_place_with_what_to_write(checked, body, place, says):
    done = checked(body)
    assert done.returncode == 2
    assert done.stderr.startswith(f"m.yaml:{place}: error: "), done.stderr
    assert done.stderr.count("error:") == 1
    for words in says:
        assert words in done.stderr


@pytest.mark.parametrize(
    ("body", "place", "says"),
    [
        (
            "matrix:\n  prompt:\n    - at 50% off # sale\n",
            "6:7",
            ["The prompt ends before # sale, a comment.", 'quote all of it: "at 50% off # sale"'],
        ),
        (
            "matrix:\n  prompt: prompts/products.csv\n",
            "5:11",
            ["the name of a file", "Did you mean {from: prompts/products.csv}?"],
        ),
        ("matrix: {prompt: cat.jpeg}\n", "4:18", ["the name of a file"]),
    ],
)
def test_what_may_be_a_mistake_is_a_warning(checked, body, place, says):
    done = checked(body)
    assert done.returncode == 0
    assert done.stderr.startswith(f"m.yaml:{place}: warning: "), done.stderr
    for words in says:
        assert words in done.stderr


@pytest.mark.parametrize(
    "body",
    [
        'matrix:  # one\n  prompt:\n    # two\n    - "at 50% off"  # quoted, so that it is meant\n    - a#b\n',
        "matrix:\n  prompt: {prompt: a, id: b}  # not of the prompt\n",
        "matrix:\n  prompt: |\n    a # b\n",
        "matrix:\n  prompt: [Photo of a f.stop, e.g. this, cats.and, dog.jpeg]\n",
    ],
)
def test_what_is_no_mistake_has_no_warning(checked, body):
    done = checked(body)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_account_of_the_command_line_is_refused_there_and_not_at_a_correct_line(checked, tmp_path):
    checked("matrix: {prompt: a}\n")
    done = batchgen("run", "m.yaml", "--provider", "Sandbox", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith('--provider Sandbox: error: There is no account "Sandbox".')
    assert "Did you mean `sandbox`?" in done.stderr


def test_dry_run_names_plan(checked, tmp_path):
    checked("matrix: {prompt: a}\n")
    done = batchgen("run", "m.yaml", "--dry-run", cwd=tmp_path)
    assert done.returncode == 2
    assert "`batchgen plan MANIFEST` shows what a run would do" in done.stderr


# --- tables of spreadsheets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "source", "warns"),
    [
        ('prompt;kind\n"a; b, c";x\n', "{from: t.csv, labels: [kind]}", 'Add `delimiter: ";"`'),
        ("prompt\tkind\na; b, c\tx\n", "{from: t.csv, labels: [kind]}", 'Add `delimiter: "\\t"`'),
        ('prompt;kind\n"a; b, c";x\n', '{from: t.csv, labels: [kind], delimiter: ";"}', ""),
        ("prompt|kind\na; b, c|x\n", '{from: t.csv, labels: [kind], delimiter: "|"}', ""),
        ('prompt;kind, kinds;y\n"a; b, c";x;\n', "{from: t.csv, labels: ['kind, kinds']}", "semicolons"),
        ('prompt,kind;s\n"a; b, c",x\n', "{from: t.csv, labels: ['kind;s']}", ""),
        ('\ufeffprompt;kind\r\n"a; b, c";x\r\n', "{from: t.csv, labels: [kind]}", "semicolons"),
    ],
)
def test_semicolons_and_tabs_of_a_table_are_recognised_and_reported(tmp_path, table, source, warns):
    (tmp_path / "t.csv").write_text(table, encoding="utf-8", newline="")
    (tmp_path / "m.yaml").write_text(f"{HEAD}matrix: {{prompt: {source}}}\n", encoding="utf-8")
    found = load_manifest(tmp_path / "m.yaml")
    assert [(job.prompt, *job.labels.values()) for job in expand(found)] == [("a; b, c", "x")]
    assert all(warns in warning.hint + warning.message for warning in found.warnings)
    assert bool(found.warnings) is bool(warns)


def test_comments_in_a_text_file_are_prompts_and_warned_of(tmp_path):
    (tmp_path / "t.txt").write_text("a cat\n# a comment\n#1 mug\n", encoding="utf-8")
    (tmp_path / "m.yaml").write_text(f"{HEAD}matrix: {{prompt: {{from: t.txt}}}}\n", encoding="utf-8")
    found = load_manifest(tmp_path / "m.yaml")
    assert len(list(expand(found))) == 3
    [warning] = found.warnings
    assert str(warning.place) == f"{tmp_path / 't.txt'}:2:1"
    assert "and 1 more line" in warning.message
