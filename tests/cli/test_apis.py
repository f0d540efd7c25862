"""`batchgen apis`, and definitions of a user's own in a manifest: their faults have a place and a hint."""

from __future__ import annotations

import json

import pytest
from command import batchgen

from batchgen.catalog import definitions

MANIFEST = "version: 1\nname: tried\nprovider: mine\nproviders: {mine: {use: ./my.yaml}}\nmatrix: {prompt: a fox}\n"


def manifest(folder, definition, text=MANIFEST):
    (folder / "my.yaml").write_text(definition, encoding="utf-8")
    (folder / "manifest.yaml").write_text(text, encoding="utf-8")
    return folder / "manifest.yaml"


def test_they_are_listed_with_what_is_known_of_each(tmp_path):
    done = batchgen("apis", cwd=tmp_path)
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in definitions.names())
    listed = json.loads(batchgen("apis", "--json", cwd=tmp_path).stdout)["apis"]
    lost = {api["name"]: api["lost_answer"] for api in listed}
    assert lost["runware"] == lost["comfyui"] == "found by our own id"
    assert lost["replicate"] == "found in the list by a mark, for 50m"
    assert lost["gemini"] == "`unknown`, nobody can be asked"
    assert lost["bfl"] == lost["luma"] == "found by a callback only, else `unknown`"
    assert {api["name"]: api["kind"] for api in listed}["gemini"] == "images in the answer"
    results = {api["name"]: api["results"] for api in listed}
    assert (results["bfl"], results["gemini"]) == ("links for 10m", "in the answer")
    assert results["comfyui"] == "links to your own server"
    assert results["luma"] == "links, for how long is not known"
    assert "price: 0.03 to 0.07 USD an image (as of 2026-11); read 2026-11" in done.stdout
    assert next(api for api in listed if api["name"] == "recraft")["prices"] == {
        "recraftv4_1": 0.035,
        "recraftv4": 0.04,
    }
    assert [api["name"] for api in listed if api["free"]] == ["a1111", "comfyui"]


@pytest.mark.parametrize("name", definitions.names())
def test_a_copy_of_a_definition_is_one_of_the_users_own(name, tmp_path):
    printed = batchgen("apis", name, cwd=tmp_path)
    assert printed.stdout == definitions.text_of(name)
    done = batchgen("validate", manifest(tmp_path, printed.stdout), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "manifest.yaml").write_text(
        f"version: 1\nname: tried\nprovider: {name}\nmatrix: {{prompt: a fox}}\n", encoding="utf-8"
    )
    assert batchgen("validate", "manifest.yaml", cwd=tmp_path).returncode == 0
    planned = json.loads(batchgen("plan", "manifest.yaml", "--json", cwd=tmp_path).stdout)
    assert planned["make"]["images"] == 1


def test_an_unknown_name_is_one_sentence(tmp_path):
    done = batchgen("apis", "fall", cwd=tmp_path)
    assert done.returncode == 2
    assert "There is no API 'fall'. Did you mean fal? There are: " in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("polling_url\n", "polling_url]\n", "my.yaml:20:9: error: create.task: This is not JMESPath"),
        ("  state: status\n", "  stat: status\n", "my.yaml:23:3: error: query.stat: Unknown key `stat`.\n"),
        ("{{ width }}", "{{ widht }}", "There is no value `widht` in `create`."),
        ("{{ width }}", "{{ widht }}", "Did you mean `width`?"),
        ("api: 1\n", "", "This is not a version of definitions."),
        ("models: [flux-2-pro", "models: [3, flux-2-pro", "my.yaml:9:10: error: models[0]: This must be a text"),
        ("concurrency: 24", "concurency: 24", "Did you mean `concurrency`?"),
        ('images: ["https://delivery', 'images: ["https://other', "gives.images: This gives"),
        ("fixed: {n: 1}", "fixed: {seed: 1}", "Only the number of images can be fixed."),
        ("link_ttl: 10m", "link_ttl: soon", ':11: error: link_ttl: "soon" is not a duration.'),
        ("read: 2026-11", "read: 2026-11\nread: 2026-11", "`read` is given twice."),
        ("create:\n", "create: 3\nprobe:\n", "A step is a mapping."),
    ],
)
def test_a_fault_of_a_definition_has_its_place_and_a_hint(old, new, said, tmp_path):
    text = definitions.text_of("bfl")
    assert old in text
    done = batchgen("validate", manifest(tmp_path, text.replace(old, new, 1)), cwd=tmp_path)
    assert done.returncode == 2
    assert said.strip() in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        ("", "holds nothing"),
        ("[1]", "A definition is a mapping"),
        ("a: [", "This is not YAML"),
        ("a: b\x00", ""),
    ],
)
def test_a_file_that_is_no_definition_is_refused(definition, said, tmp_path):
    done = batchgen("validate", manifest(tmp_path, definition), cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "my.yaml" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("./other.yaml", "other.yaml does not exist"),
        ("fall", "Did you mean fal?"),
        ("sandbx", "Did you mean sandbox?"),
    ],
)
def test_what_an_account_cannot_start_from_is_said(use, said, tmp_path):
    path = manifest(tmp_path, definitions.text_of("bfl"), MANIFEST.replace("./my.yaml", use))
    done = batchgen("validate", path, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    "text", ["env: sk-very-secret", "env: BFL_API_KEY}\nhosts: [{X-Key: sk-very-secret}]\nwords: {"]
)
def test_a_key_in_a_definition_is_refused_and_not_shown(text, tmp_path):
    definition = definitions.text_of("bfl").replace("env: BFL_API_KEY", text, 1)
    done = batchgen("validate", manifest(tmp_path, definition), cwd=tmp_path)
    assert done.returncode == 2
    assert "sk-very-secret" not in done.stdout + done.stderr


def test_parameters_that_the_api_does_not_have_are_refused(tmp_path):
    text = MANIFEST.replace("matrix", "defaults: {n: 2, negative_prompt: blurred}\nmatrix")
    done = batchgen("validate", manifest(tmp_path, definitions.text_of("bfl"), text), cwd=tmp_path)
    assert done.returncode == 2
    assert "allows from 1 to 1" in done.stderr
    assert "does not know `negative_prompt`" in done.stderr


def test_a_workflow_beside_the_definition_is_part_of_the_request(tmp_path):
    text = definitions.text_of("comfyui").partition("    prompt:\n")
    rest = "  task: prompt_id\n" + text[2].partition("  task: prompt_id\n")[2].partition("examples:")[0]
    definition = f"{text[0]}    prompt: {{from: flow.json}}\n{rest}"
    path = manifest(tmp_path, definition)
    missing = batchgen("validate", path, cwd=tmp_path)
    assert missing.returncode == 2
    assert "flow.json does not exist" in missing.stderr
    (tmp_path / "flow.json").write_text(
        '{"1": {"inputs": {"text": "{{ prompt }}", "seed": "{{ attempt.seed }}", "w": "{{ width }}", "m": ["1", 2]}}}',
        encoding="utf-8",
    )
    done = batchgen("validate", path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_delay_below_the_definition_s_own_is_warned_of(tmp_path):
    path = tmp_path / "manifest.yaml"
    path.write_text(
        "version: 1\nname: tried\nprovider: fal\nproviders:\n  fal: {visibility_delay: 5}\nmatrix: {prompt: a fox}\n",
        encoding="utf-8",
    )
    done = batchgen("validate", path, cwd=tmp_path)
    assert done.returncode == 0
    assert "manifest.yaml:5:27: warning: providers.fal.visibility_delay: The definition says that a task may" in (
        done.stdout + done.stderr
    )
