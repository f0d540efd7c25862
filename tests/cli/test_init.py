"""`init` writes a starter that is right and runs, with prompts of its own or of a file."""

from __future__ import annotations

import json

import pytest
from command import batchgen

from batchgen.catalog import definitions
from batchgen.catalog.load import builtin


def planned(path):
    done = batchgen("plan", path, "--json", "--detailed", cwd=path.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_starter_is_right_and_small(tmp_path):
    assert batchgen("init", cwd=tmp_path).returncode == 0
    plan = planned(tmp_path / "manifest.yaml")
    assert plan["provider"] == "sandbox"
    assert 1 <= plan["make"]["images"] <= 20


def test_a_file_that_is_there_is_not_touched(tmp_path):
    (tmp_path / "manifest.yaml").write_text("mine", encoding="utf-8")
    done = batchgen("init", cwd=tmp_path)
    assert done.returncode == 2
    assert "manifest.yaml exists already" in done.stderr
    assert (tmp_path / "manifest.yaml").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("name", "content", "ids"),
    [
        ("p.csv", "sku,text\nA 1,a fox\nA 2,an owl\n", ["A 1", "A 2"]),
        ("p.csv", "\ufeffname,Prompt\nsame,a fox\nsame,an owl\n", ["a-fox", "an-owl"]),
        ("p.tsv", 'Prompt\tNote\n"a" fox\tx\nan owl\ty\n', ["a-fox", "an-owl"]),
        ("p.csv", "what,n o\na fox in the snow,1\nan owl,2\n", ["a-fox-in-the-snow", "an-owl"]),
        ("p.txt", "a fox\nan owl\n", ["a-fox", "an-owl"]),
        ("p.jsonl", '{"prompt": "a fox"}\n{"prompt": "an owl"}\n', ["a-fox", "an-owl"]),
    ],
)
def test_a_starter_from_a_prompt_file_finds_its_columns(tmp_path, name, content, ids):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / name).write_text(content, encoding="utf-8")
    (tmp_path / "made").mkdir()
    done = batchgen("init", "made/m.yaml", "--from", f"lists/{name}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row["prompt_id"] for row in planned(tmp_path / "made" / "m.yaml")["listed"]] == ids


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("prompts.csv",), "init --from prompts.csv"),
        (("m.yaml", "--from", "nothing.csv"), "There is no file nothing.csv"),
        (("m.yaml", "--from", "photo.jpg"), "not a prompt file"),
        (("no/such/folder/m.yaml",), "cannot be written"),
    ],
)
def test_what_cannot_be_is_a_sentence(tmp_path, words, says):
    done = batchgen("init", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [*builtin().accounts, *definitions.names()])
def test_the_starter_of_each_account_is_right_and_small(name, tmp_path):
    done = batchgen("init", "m.yaml", "--provider", name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "m.yaml is written. Read it, then: batchgen " in done.stdout
    plan = planned(tmp_path / "m.yaml")
    assert plan["provider"] == name
    checked = batchgen("validate", "m.yaml", cwd=tmp_path)
    assert "m.yaml: valid" in checked.stdout
    assert "warning" not in checked.stdout + checked.stderr
    assert 1 <= plan["make"]["images"] <= 20
    text = (tmp_path / "m.yaml").read_text(encoding="utf-8")
    assert f"provider: {name}" in text
    assert "budget: {max_images: " in text
    path = tmp_path / "changed.yaml"  # with what is a comment at its end
    path.write_text(text.replace("# providers:", "providers:").replace(f"#   {name}:", f"  {name}:"), encoding="utf-8")
    assert planned(path)["make"] == plan["make"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fal", "With FAL_KEY in the environment:   batchgen doctor m.yaml"),
        ("kling", "With KLING_ACCESS_KEY and KLING_SECRET_KEY in the environment"),
        ("a1111", "With your server running"),
        ("comfyui", "With your server running"),
        ("vertex", "Once `gcloud auth print-access-token` prints a key:   batchgen doctor"),
        ("vertex", "vertex: {base_url: https://aiplatform.googleapis.com/v1/projects/my-project/locations/global,"),
        ("seedream", "resolution: 2k                 # the only one"),
        ("bfl", "in USD; prices as of 2026-11"),
        ("minimax", "n: 1                           # images of a task, 1 to 9"),
    ],
)
def test_a_starter_says_what_the_account_needs_and_can(name, says, tmp_path):
    assert batchgen("init", "m.yaml", "--provider", name, cwd=tmp_path).returncode == 0
    assert says in (tmp_path / "m.yaml").read_text(encoding="utf-8")


def test_a_starter_for_an_api_takes_the_prompts_of_a_file(tmp_path):
    (tmp_path / "p.csv").write_text("sku,text\nA 1,a fox\nA 2,an owl\n", encoding="utf-8")
    assert batchgen("init", "it's.yaml", "--provider", "fal", "--from", "p.csv", cwd=tmp_path).returncode == 0
    plan = planned(tmp_path / "it's.yaml")
    assert {row["prompt_id"] for row in plan["listed"]} == {"A 1", "A 2"}
    assert plan["provider"] == "fal"


@pytest.mark.parametrize(("name", "says"), [("fall", "Did you mean fal? There are kapon"), ("zzz\x1b[2J", "There are")])
def test_an_unknown_account_is_one_sentence_and_writes_nothing(name, says, tmp_path):
    done = batchgen("init", "--provider", name, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert "\x1b" not in done.stderr
    assert list(tmp_path.iterdir()) == []
