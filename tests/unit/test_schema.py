"""The schema as an editor uses it: by a real language server, and by rules that hold for every part of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from language_server import LanguageServer, installed

from batchgen.catalog.load import builtin
from batchgen.manifest.schema import manifest_schema

ROOT = Path(__file__).parents[2]
VALID = sorted((ROOT / "tests" / "cases" / "valid").glob("*.yaml"))
SHIPPED = sorted((ROOT / "manifests").glob("*.yaml"))
MODELINE = f"# yaml-language-server: $schema={(ROOT / 'schemas' / 'manifest.schema.json').as_uri()}\n"
HEAD = MODELINE + "version: 1\nname: x\nprovider: sandbox\n"


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    command = installed(tmp_path_factory.mktemp("npm"))
    with LanguageServer(command, tmp_path_factory.mktemp("documents")) as server:
        yield server


# --- a real language server -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("▮", {"matrix", "defaults", "exclude", "include", "repeat", "max_jobs", "budget", "run", "providers"}),
        ("matrix:\n  prompt: a\n  ▮\n", {"name", "model", "aspect_ratio", "vars", "zip", "sample"}),
        ("matrix:\n  - prompt: a\n    ▮\n", {"name", "model", "aspect_ratio", "vars", "zip", "sample"}),
        ("matrix:\n  prompt:\n    - prompt: a\n      ▮\n", {"from", "rows", "where", "id", "n", "model"}),
        ("matrix:\n  prompt: a\n  model:\n    - model: kling-v1\n      ▮\n", {"id", "resolution", "n"}),
        ("matrix:\n  prompt: a\n  zip:\n    - n: 1\n      ▮\n", {"id", "vars", "aspect_ratio", "resolution"}),
        ("matrix:\n  prompt: a\n  sample:\n    count: 3\n    ▮\n", {"seed"}),
        ("run:\n  ▮\n", {"max_attempts", "task_timeout", "on_unknown"}),
        ("providers:\n  kapon:\n    ▮\n", {"use", "base_url", "limits", "api_key_env"}),
        ("exclude:\n  - model: a\n    ▮\n", {"aspect_ratio", "prompt_id"}),
    ],
)
def test_an_editor_completes_keys_and_explains_each(editor, text, keys):
    offered = editor.complete(HEAD + text)
    assert keys <= offered.keys()
    assert all(offered[key] for key in keys), offered


@pytest.mark.parametrize(
    ("text", "value", "meaning"),
    [
        ("matrix:\n  prompt: a\n  aspect_ratio: ▮\n", "9:16", "tall"),
        ("matrix:\n  prompt: a\n  aspect_ratio:\n    - ▮\n", "21:9", "very wide"),
        ("matrix:\n  prompt: a\n  aspect_ratio: [1:1, ▮]\n", "3:2", "photograph"),
        ("matrix:\n  prompt: a\n  model: ▮\n", "kling-v1-5", "face"),
        ("matrix:\n  prompt: a\n  resolution: ▮\n", "2k", "2048"),
        ("defaults:\n  resolution: ▮\n", "1k", "1024"),
        ("on_illegal: ▮\n", "skip", "leave them out"),
        ("run:\n  on_unknown: ▮\n", "resend", "paid twice"),
    ],
)
def test_an_editor_completes_values_and_says_what_each_means(editor, text, value, meaning):
    assert meaning in editor.complete(HEAD + text)[value]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("matrix:\n  prompt: a\n  sam▮ple: {count: 1}\n", ["Sample", "smallest SHA-256", "count: 500"]),
        ("matrix:\n  prompt: a\n  zi▮p: [{n: 1}]\n", ["Axes that go together", "aspect_ratio"]),
        ("matrix:\n  prompt: a\n  asp▮ect_ratio: 16:9\n", ["Width to height", "`9:16`: tall"]),
        ("matrix:\n  prompt: {prompt: a, row▮s: t.csv}\n", ["Table of rows", "Its columns are variables"]),
        ("on_ill▮egal: skip\n", ["`skip`: leave them out"]),
    ],
)
def test_an_editor_explains_what_is_pointed_at(editor, text, words):
    said = editor.hover(HEAD + text)
    assert all(word in said for word in words), said


def test_an_editor_marks_what_is_wrong_in_its_place(editor):
    found = sorted(editor.diagnose(HEAD + "matrix:\n  prompt: a\n  aspect_ratio: 5:4\n  zap: 1\n  sample: {seed: 1}\n"))
    assert [(line, column) for line, column, _ in found] == [(7, 17), (8, 3), (9, 3)]
    assert '"16:9"' in found[0][2]
    assert "zap" in found[1][2]
    assert "count" in found[2][2]


@pytest.mark.parametrize("file", [*VALID, *SHIPPED], ids=lambda file: file.stem)
def test_an_editor_finds_nothing_wrong_with_what_is_right(editor, file):
    text = file.read_text(encoding="utf-8")
    body = text.split("\n", 1)[1] if text.startswith("# yaml-language-server") else text
    assert editor.diagnose(MODELINE + body) == []


# --- every part of it -----------------------------------------------------------------------------------------


def parts(value, path=""):
    if isinstance(value, dict):
        yield path, value
        for key, child in value.items():
            if key not in {"examples", "default", "enum", "defaultSnippets"}:
                yield from parts(child, f"{path}/{key}")
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield from parts(child, f"{path}/{number}")


def resolved(part):
    whole = manifest_schema()
    return {**whole["$defs"][part["$ref"].rsplit("/", 1)[1]], **part} if "$ref" in part else part


def test_every_word_of_an_enum_has_a_meaning():
    enums = [(path, part) for path, part in parts(manifest_schema()) if "enum" in part]
    assert len(enums) >= 10
    for path, part in enums:
        assert len(part.get("enumDescriptions", ())) == len(part["enum"]), path
        assert all(part["enumDescriptions"]), path


def test_every_key_has_a_title_and_a_description():
    seen = 0
    for path, part in parts(manifest_schema()):
        for name, child in part.get("properties", {}).items() if isinstance(part.get("properties"), dict) else ():
            seen += 1
            assert resolved(child).get("description"), f"{path}/{name}"
            assert resolved(child).get("title") or path.endswith("/then"), f"{path}/{name}"
    assert seen > 100


def test_what_is_offered_as_a_value_is_what_is_allowed():
    definitions = manifest_schema()["$defs"]
    for name in ("aspect_ratio", "resolution", "image_reference"):
        allowed = [word for word in definitions[f"value_{name}"]["enum"] if word is not None]
        for kind in ("axis", "entry"):
            assert [snippet["body"] for snippet in definitions[f"{kind}_{name}"]["defaultSnippets"]] == allowed
    assert {snippet["body"] for snippet in definitions["axis_model"]["defaultSnippets"]} == set(builtin().models)


def test_every_example_keeps_to_the_part_it_explains():
    jsonschema = pytest.importorskip("jsonschema")
    whole = manifest_schema()
    tried = 0
    for path, part in parts(whole):
        for example in part.get("examples", ()) if isinstance(part.get("examples"), list) else ():
            checked = {**part, "$defs": whole["$defs"]}
            errors = [error.message for error in jsonschema.Draft202012Validator(checked).iter_errors(example)]
            assert not errors, (path, example, errors)
            tried += 1
    assert tried > 40


def test_the_readme_of_the_schemas_names_each_of_them_and_its_manifest_is_right(editor):
    folder = ROOT / "schemas"
    text = (folder / "README.md").read_text(encoding="utf-8")
    for file in folder.glob("*.json"):
        assert file.name in text
        assert json.loads(file.read_text(encoding="utf-8"))
    shown = text.split("```yaml\n")[1].split("```")[0]
    assert shown.startswith("# yaml-language-server: $schema=")
    assert editor.diagnose(MODELINE + shown.split("\n", 1)[1]) == []
