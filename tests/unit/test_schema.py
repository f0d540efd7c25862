"""The schema: made from the specification, as an editor uses it, and rules that hold for every part of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from language_server import LanguageServer, installed

from batchgen.catalog import definitions as apis
from batchgen.catalog.accounts import Account
from batchgen.catalog.load import builtin
from batchgen.cli.main import main
from batchgen.jobs import PARAMETER_NAMES, Parameters
from batchgen.manifest import settings, spec
from batchgen.manifest.schema_file import default, manifest_schema
from batchgen.storage.paths import DEFAULT_TEMPLATE

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


# --- the specification ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["schemas/manifest.schema.json", "docs/manifest.md"])
def test_what_is_made_from_the_specification_is_up_to_date(name):
    hint = "the specification has changed: run `python -m batchgen.manifest.spec`"
    assert (ROOT / name).read_text(encoding="utf-8") == spec.generated_files()[name], hint


def test_schema_prints_the_file(capsys):
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == (ROOT / "schemas" / "manifest.schema.json").read_text(encoding="utf-8")


def test_the_stated_defaults_are_those_in_force():
    definitions = manifest_schema()["$defs"]
    for name in PARAMETER_NAMES:
        assert definitions[f"value_{name}"].get("default") == getattr(Parameters(), name)
    account = Account(name="a", protocol="p")
    keys = definitions["provider"]["properties"]
    stated = {
        name: key["default"] for name, key in {**keys, **keys["limits"]["properties"]}.items() if "default" in key
    }
    assert stated == {name: getattr(account, name) for name in stated}
    assert len(stated) == 5
    assert default("output", "path") == DEFAULT_TEMPLATE
    run = settings.run_options({}, account)
    assert (run.task_timeout, run.give_up_after, run.grace) == (7200.0, 600.0, 5.0)


def test_a_bound_of_an_account_is_not_in_the_schema():
    definitions = manifest_schema()["$defs"]
    assert "maximum" not in definitions["value_n"]
    assert "enum" not in definitions["value_aspect_ratio"]
    assert "enum" not in definitions["value_resolution"]
    catalog = builtin()
    assert catalog.accounts["kapon"].max_n == catalog.limits.n
    assert catalog.accounts["kapon"].allowed("aspect_ratio") == tuple(catalog.aspect_ratios)
    assert catalog.accounts["openai"].allowed("aspect_ratio") == ()  # there, `sizes` decide


def test_every_account_of_the_catalogue_is_one_that_a_manifest_can_have():
    jsonschema = pytest.importorskip("jsonschema")
    provider = {"$ref": "#/$defs/provider", "$defs": manifest_schema()["$defs"]}
    for name, account in builtin().raw_accounts.items():
        settings = {key: value for key, value in account.items() if key != "adaptive_concurrency"}
        settings["prices"] = {key: value for key, value in account.get("prices", {}).items() if key != "deducted"}
        assert list(jsonschema.Draft202012Validator(provider).iter_errors(settings)) == [], name


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
def test_an_editor_completes_values_and_explains_each(editor, text, value, meaning):
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


def test_an_editor_marks_an_error_at_its_place(editor):
    text = "matrix:\n  prompt: a\n  aspect_ratio: 16x9\n  zap: 1\n  sample: {seed: 1}\n"
    found = sorted(editor.diagnose(HEAD + text))
    assert [(line, column) for line, column, _ in found] == [(7, 17), (8, 3), (9, 3)]
    assert "not an aspect ratio. Write width:height" in found[0][2]
    assert "zap" in found[1][2]
    assert "count" in found[2][2]


@pytest.mark.parametrize("file", [*VALID, *SHIPPED], ids=lambda file: file.stem)
def test_an_editor_reports_no_error_in_a_valid_manifest(editor, file):
    text = file.read_text(encoding="utf-8")
    body = text.split("\n", 1)[1] if text.startswith("# yaml-language-server") else text
    assert editor.diagnose(MODELINE + body) == []


# --- every part of it -----------------------------------------------------------------------------------------


def parts(value, path="", *, of_names=False):
    if isinstance(value, dict):
        if not of_names:
            yield path, value
        for key, child in value.items():
            if of_names or key not in {"examples", "default", "enum", "defaultSnippets"}:
                yield from parts(child, f"{path}/{key}", of_names=not of_names and key in {"properties", "$defs"})
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
        for name, child in part.get("properties", {}).items():
            seen += 1
            assert resolved(child).get("description"), f"{path}/{name}"
            assert resolved(child).get("title") or path.endswith("/then"), f"{path}/{name}"
    assert seen > 100


def test_what_is_offered_as_a_value_is_in_the_catalogue():
    definitions, catalog = manifest_schema()["$defs"], builtin()
    offered = {
        "model": catalog.models,
        "aspect_ratio": catalog.aspect_ratios,
        "resolution": catalog.resolutions,
        "image_reference": catalog.image_references,
    }
    for name, values in offered.items():
        for kind in ("axis", "entry"):
            assert [snippet["body"] for snippet in definitions[f"{kind}_{name}"]["defaultSnippets"]] == list(values)
    used = definitions["provider"]["properties"]["use"]["defaultSnippets"]
    assert [snippet["body"] for snippet in used] == [*catalog.accounts, *apis.names()]
    assert definitions["field"]["enum"] == list(catalog.fields)


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


def test_the_readme_of_the_schemas_names_each_of_them_and_its_manifest_is_valid(editor):
    folder = ROOT / "schemas"
    text = (folder / "README.md").read_text(encoding="utf-8")
    for file in folder.glob("*.json"):
        assert file.name in text
        assert json.loads(file.read_text(encoding="utf-8"))
    shown = text.split("```yaml\n")[1].split("```")[0]
    assert shown.startswith("# yaml-language-server: $schema=")
    assert editor.diagnose(MODELINE + shown.split("\n", 1)[1]) == []
