"""Parameters that an account declares: ids, where a manifest gives them, what is refused, and how they are sent."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs_for_tests import job

from batchgen.apis.values import rendered
from batchgen.app.load import load_manifest
from batchgen.catalog.accounts import parse_account
from batchgen.catalog.load import builtin
from batchgen.errors import CommandError, ManifestInvalid
from batchgen.jobs import Job, JsonValue, Parameters, Reference, further_of, job_id
from batchgen.manifest import schema
from batchgen.manifest.diagnostics import Diagnostics
from batchgen.manifest.parameters import _pattern_fault, check_declared
from batchgen.matrix.expand import expand
from batchgen.planning.selection import Selection
from batchgen.providers.base import Secrets
from batchgen.providers.declared import DeclaredProvider
from batchgen.providers.declared_answers import marks_of
from batchgen.providers.kling import KlingProvider
from batchgen.providers.openai import OpenAIProvider
from batchgen.source import document

TEXTS = st.text(alphabet='aé狐"{\\ 1', max_size=4)  # all of Unicode takes seconds on a busy machine
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(TEXTS, inside, max_size=3),
    max_leaves=5,
)
VALUES = st.dictionaries(st.sampled_from(["seed", "steps", "style"]), JSON, max_size=3)
IMAGE = Reference(url="https://example.org/a.png")


def with_further(values, **own):
    return job("a fox", further=further_of(values), **own)


# --- ids ----------------------------------------------------------------------------------------------------------


def shuffled(value, order):
    if isinstance(value, dict):
        names = sorted(value, reverse=True) if order else list(value)
        return {name: shuffled(value[name], order) for name in names}
    if isinstance(value, list):
        return [shuffled(each, order) for each in value]
    return float(value) if type(value) is int and abs(value) < 2**53 else value


@given(VALUES)
def test_neither_the_order_of_keys_nor_1_for_1_0_nor_null_changes_an_id(values):
    made = with_further(values, n=2)
    assert with_further(shuffled(values, order=True), n=2).id == made.id
    assert with_further({**values, "other": None}, n=2) == made
    assert Job.from_json(made.id, made.to_json()) == made
    assert (made.id == job("a fox", n=2).id) is all(value is None for value in values.values())


@given(VALUES, VALUES)
def test_other_values_are_another_job(first, second):
    def given_of(values):
        return {name: JsonValue.of(value).text for name, value in values.items() if value is not None}

    assert (with_further(first).id == with_further(second).id) is (given_of(first) == given_of(second))


def test_what_python_takes_for_equal_is_told_apart():
    ids = {with_further({"x": value}).id for value in (1, True, "1", "true", [1], {"x": 1}, 0, False, "", [])}
    assert len(ids) == 10
    assert len({JsonValue.of(value) for value in (1, 1.0, True)}) == 2


def test_ids_with_parameters_never_change():
    """This table is a promise, like that of test_jobs."""
    values = {"seed": 7, "style": "狐", "loras": [{"path": "a", "scale": 0.5}], "hd": True}
    assert with_further(values).id == "1kqz5ea3iuudhycpokx5etkpoj"
    assert with_further({"seed": 7}, n=4, model="kling-v2-1", image=IMAGE).id == "1aqhmmpkphp6sropcypt62ef7j"


def test_a_job_of_an_earlier_version_is_read_and_what_a_later_one_added_is_ignored():
    made = with_further({"seed": 7})
    record = json.loads(made.to_json())
    record["parameters"]["later"] = 3
    assert Job.from_json(made.id, json.dumps(record)) == made
    del record["parameters"]["further"]
    assert Job.from_json(made.id, json.dumps(record)).parameters == Parameters()


def test_an_id_costs_microseconds_where_parameters_are_shared():
    digest = with_further({"seed": 7, "loras": ["a"] * 20}).parameters.digest()
    began = time.process_time()
    for number in range(10_000):
        job_id(f"a fox {number}", digest)
    assert time.process_time() - began < 0.5


# --- where a manifest gives them -----------------------------------------------------------------------------------

HEAD = """\
version: 1
name: x
provider: mine
providers:
  mine:
    use: sandbox
    parameters:
      seed: {type: integer, minimum: 0, maximum: 100}
      style: {enum: [anime, photo]}
      loras: {type: array, items: {type: string}, maxItems: 2}
      size2: {type: object, properties: {w: {type: integer}}, required: [w], additionalProperties: false}
      color: {type: string, pattern: "^#[0-9a-f]{6}$"}
      strength: {anyOf: [{type: number, exclusiveMaximum: 1}, {enum: [auto]}]}
"""


@pytest.fixture
def jobs(tmp_path):
    def of(body, head=HEAD):
        (tmp_path / "m.yaml").write_text(head + body, encoding="utf-8")
        return list(expand(load_manifest(tmp_path / "m.yaml")))

    return of


@pytest.fixture
def faults(jobs):
    def of(*words):
        with pytest.raises(ManifestInvalid) as caught:
            jobs(*words)
        return [
            f"{each.place.line}:{each.place.column} {each.path}: {each.message} {each.hint}"
            for each in caught.value.problems
            if not each.warning
        ]

    return of


def given_of(found):
    return [dict(each.parameters.canonical()) for each in found]


def seeds(found):
    return [each.parameters.canonical().get("seed") for each in found]


def test_a_list_is_an_axis_whose_entries_have_ids_labels_and_other_parameters(jobs):
    body = (
        "matrix:\n  prompt: a\n  parameters: {seed: [1, {seed: 2.0, id: two, n: 3, labels: {kind: x}}], style: anime}\n"
    )
    first, second = jobs(body)
    assert (seeds([first, second]), second.parameters.n) == ([1, 2], 3)
    assert second.labels == {"seed": "two", "kind": "x"}
    assert first.parameters.canonical()["style"] == "anime"


def test_they_are_given_wherever_parameters_are(jobs, tmp_path):
    (tmp_path / "p.yaml").write_text("- {prompt: from a file, parameters: {seed: 4}}\n- plain\n", encoding="utf-8")
    (tmp_path / "t.csv").write_text("name\nx\n", encoding="utf-8")
    body = """\
defaults: {parameters: {seed: 9}}
matrix:
  - prompt:
      - a
      - {prompt: b, parameters: {seed: ~}}
      - {from: p.yaml, parameters: {style: photo}}
      - {prompt: "{{ name }}", rows: t.csv, parameters: {seed: 5}}
  - prompt: "{{ v }}"
    vars: {v: [{v: c, parameters: {seed: 6}}]}
  - prompt: d
    n: [{n: 2, parameters: {seed: 7}}]
  - prompt: e
    zip: [{n: 1, parameters: {seed: 1}}, {n: 2, parameters: {seed: 2}}]
include: [{prompt: f, parameters: {seed: 8}}]
"""
    found = jobs(body)
    assert [(each.prompt, each.parameters.canonical().get("seed")) for each in found] == [
        *(("a", 9), ("b", None), ("from a file", 4), ("plain", 9), ("x", 5), ("c", 6), ("d", 7)),
        *(("e", 1), ("e", 2), ("f", 8)),
    ]
    assert [each.parameters.named("style") is not None for each in found[2:4]] == [True, True]


def test_a_mapping_is_a_value_and_a_list_of_lists_an_axis_of_lists(jobs):
    found = jobs("matrix: {prompt: a, parameters: {size2: [{w: 1}, {w: 2}], loras: [[x], [x, y]]}}\n")
    assert [(each["size2"]["w"], each["loras"]) for each in given_of(found)] == [
        *((1, ["x"]), (1, ["x", "y"]), (2, ["x"]), (2, ["x", "y"])),
    ]
    assert len({each.id for each in found}) == 4


def test_exclude_only_and_samples_name_them(jobs, tmp_path):
    axes = "matrix: {prompt: [a, b], parameters: {seed: [1, 2, 3], style: [anime, photo]}"
    assert seeds(
        jobs(axes + "}\nexclude: [{seed: [1, 2], style: anime}, {parameters: {style: ph*}, prompt: a}]\n")
    ) == [
        *(3, 1, 2, 3, 3),
    ]
    assert len(jobs(axes + ", sample: {count: 4, by: style}}\n")) == 4
    manifest = load_manifest(tmp_path / "m.yaml")
    for text in ("seed=2", "parameter.seed=2"):
        assert set(
            seeds(each for each in jobs(axes + "}\n") if Selection.parse([text], manifest.selectable).takes(each))
        ) == {2}
    with pytest.raises(CommandError, match="Did you mean seed"):
        Selection.parse(["sed=2"], manifest.selectable)


def test_a_manifest_without_them_has_the_ids_of_before(jobs):
    assert [each.id for each in jobs("matrix: {prompt: a fox}\n")] == [job("a fox").id]


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("seed: 101", "101 is too large. It may be from 0 to 100."),
        ("seed: [1, 1.5]", "must be a whole number, not the number 1.5"),
        ('seed: "7"', "Write it without quotes: 7."),
        ("seed: true", "must be a whole number, not true"),
        ("seed: []", "This list is empty"),
        ("style: animee", "Did you mean anime? Allowed are anime and photo."),
        ("style: 3", "Allowed are anime and photo."),
        ("loras: [[x, y, z]]", "It must fit maxItems: 2."),
        ("size2: {w: 1, h: 2}", "Unknown key `h`"),
        ("size2: {v: 1}", "The key `w` is missing"),
        ("color: red", "It must match ^#[0-9a-f]{6}$"),
        ("strength: 1", "does not fit"),
        ("sed: 1", "The account `mine` does not know `sed`. Did you mean `seed`?"),
        ("n: 2", "`n` is a parameter of batchgen's own. Write it beside `parameters`"),
        ("seed: {seed: 1, idd: x}", "Unknown key `idd`. Did you mean `id`?"),
    ],
)
def test_a_wrong_value_is_reported_where_it_stands(faults, given, said):
    found = faults(f"matrix: {{prompt: a, parameters: {{{given}}}}}\n")
    assert any(said in each for each in found), found
    assert all(each.startswith("14:") and f" matrix.parameters.{given.partition(':')[0]}" in each for each in found), (
        found
    )


def test_a_key_that_belongs_inside_is_said_to(faults):
    assert any("goes into parameters: {seed: …}" in each for each in faults("matrix: {prompt: a, seed: 3}\n"))


def test_a_var_or_a_label_of_the_same_name_is_refused(faults):
    body = "matrix: {prompt: '{{ style }}', vars: {style: [x]}, parameters: {style: anime}}\n"
    assert any("`style` is a parameter here, and also a var or a label." in each for each in faults(body))


def test_two_sources_for_one_job_are_refused(faults):
    body = "matrix: {prompt: [{prompt: a, parameters: {seed: 1}}], parameters: {seed: [2]}}\n"
    assert any("`seed` is set twice for one job" in each for each in faults(body))


def test_a_wrong_value_in_a_prompt_file_is_reported_in_it(faults, tmp_path):
    (tmp_path / "p.yaml").write_text("- {prompt: a, parameters: {seed: 1000}}\n", encoding="utf-8")
    (found,) = faults("matrix: {prompt: {from: p.yaml}}\n")
    assert found.startswith("1:34 ")


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("seed: {type: integr}", '"integr" is not allowed here. Did you mean integer?'),
        ("seed: {minimun: 0}", "Unknown key `minimun`. Did you mean `minimum`?"),
        ("seed: {$ref: 'http://127.0.0.1:9/x'}", "`$ref` is not supported"),
        ("seed: {properties: {a: {$ref: '#'}}}", "`$ref` is not supported"),
        ("seed: {anyOf: [{$dynamicRef: '#'}]}", "`$dynamicRef` is not supported"),
        ("seed: 3", "must be a mapping"),
        ("n: {type: integer}", "`n` is batchgen's own name."),
        ("prompt: {type: string}", "`prompt` is batchgen's own name."),
        ("callback_url: {type: string}", "`callback_url` is batchgen's own name."),
        ("external_task_id: {type: string}", "`external_task_id` is batchgen's own name."),
        ("model_name: {type: string}", "`model_name` is batchgen's own name."),
        ("response_format: {type: string}", "`response_format` is batchgen's own name."),
        ("stream: {type: boolean}", "`stream` is batchgen's own name."),
        ("cfg-scale: {type: number}", '"cfg-scale" cannot name a parameter.'),
        ("a: {pattern: '(a+)+$'}", "may not repeat a group"),
        ("a: {items: {pattern: '(?=a)'}}", "nor look around"),
        ("a: {pattern: '(a)\\1'}", "may not refer back"),
        ("a: {pattern: '(a'}", "no regular expression"),
        ("a: {pattern: 'a*a*a*a*b'}", "may take too long"),
    ],
)
def test_a_wrong_declaration_is_reported(faults, declared, said):
    head = f"version: 1\nname: x\nprovider: mine\nproviders: {{mine: {{use: sandbox, parameters: {{{declared}}}}}}}\n"
    assert any(said in each for each in faults("matrix: {prompt: a}\n", head)), faults("matrix: {prompt: a}\n", head)


def test_a_declaration_that_the_definition_never_sends_is_refused(faults):
    head = "version: 1\nname: x\nprovider: fal\nproviders: {fal: {parameters: {loras: {type: array}}}}\n"
    (found,) = faults("matrix: {prompt: a}\n", head)
    assert "The definition of `fal` does not send the parameter `loras`." in found
    assert found.startswith("4:")


DEFINITION = """\
api: 1
base_url: https://api.example.org
auth: {env: A_KEY}
models: [one]
defaults: {model: one}
aspect_ratios: ["1:1", "3:2"]
limits: {max_n: 4}
parameters: {seed: {type: integer, minimum: 0}, style: {enum: [anime, photo]}, lora_path: {type: string}}
create:
  post: /v1/images
  json: {prompt: "{{ prompt }}", n: "{{ n }}", ratio: "{{ aspect_ratio }}", seed: "{{ seed | default(attempt.seed) }}",
         style: "{{ style }}", lora: "{{ lora_path }}"}
  images: {url: images}
"""
USING = "version: 1\nname: x\nprovider: mine\nproviders: {mine: {use: ./d.yaml}}\n"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("enum: [anime", "enun: [anime", "8:57 parameters.style.enun: Unknown key `enun`. Did you mean `enum`?"),
        ("parameters: {", "parameters: {big: {}, ", "8:14 parameters.big: `create` does not send the parameter `big`."),
        ("parameters: {", "parameters: {attempt_seed: {}, ", "`attempt_seed` is batchgen's own name."),
        ("model: one}", "model: one, aspect_ratio: 5:7}", '5:38 defaults.aspect_ratio: "5:7" is not allowed'),
        ("photo]", "photo], pattern: '(a+)+'", "may not repeat a group"),
    ],
)
def test_what_is_wrong_in_a_definition_is_reported_in_it(faults, tmp_path, old, new, said):
    assert old in DEFINITION
    (tmp_path / "d.yaml").write_text(DEFINITION.replace(old, new), encoding="utf-8")
    found = faults("matrix: {prompt: a, aspect_ratio: 1:1}\n", USING)
    assert any(said in each for each in found), found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("n: 5", "matrix.n: 5 is too large. The account `mine` allows from 1 to 4."),
        ("aspect_ratio: 5:7", "Allowed are 1:1 and 3:2."),
        ("n: 1, aspect_ratio: ~", "No aspect_ratio is given, and the account `mine` does not have the default, 16:9."),
        ("parameters: {seed: -1}", "-1 is too small. It must be at least 0."),
        ("parameters: {styel: anime}", "does not know `styel`. Did you mean `style`?"),
    ],
)
def test_a_manifest_outside_the_bounds_of_a_definition_is_refused_at_its_place(faults, tmp_path, given, said):
    (tmp_path / "d.yaml").write_text(DEFINITION, encoding="utf-8")
    body = f"matrix: {{prompt: a, {given}{'' if 'ratio' in given else ', aspect_ratio: 1:1'}}}\n"
    (found,) = faults(body, USING)
    assert said in found
    assert found.startswith("5:")


def test_a_ratio_that_nobody_gave_is_refused_where_the_account_lacks_it(faults, tmp_path):
    (tmp_path / "d.yaml").write_text(DEFINITION, encoding="utf-8")
    (found,) = faults("matrix: {prompt: a}\n", USING)
    assert "No aspect_ratio is given, and the account `mine` does not have the default, 16:9." in found


@pytest.mark.parametrize(("further", "seed"), [({}, None), ({"seed": 0}, 0), ({"seed": 7, "style": "anime"}, 7)])
def test_a_declared_request_has_the_values_with_their_types_and_leaves_out_what_is_not_given(further, seed):
    raw = document.parse(DEFINITION, "d.yaml").value
    settings = {"protocol": "declared", "models": ["one"], "api_key_env": "A_KEY", "parameters": raw["parameters"]}
    account = parse_account("mine", {**settings, "base_url": raw["base_url"], "definition": raw})
    provider = DeclaredProvider(account, None, Secrets({"A_KEY": "k"}))
    made = job("a fox", further=further_of(further), model="one", aspect_ratio="1:1")
    marks = marks_of("bg-1-1")
    body = rendered(provider._steps["create"].body, asyncio.run(provider._of_job(made, "bg-1-1")) | marks)
    assert body["seed"] == (marks["attempt_seed"] if seed is None else seed)
    assert ("style" in body) is ("style" in further)


@given(
    st.lists(
        st.sampled_from(["a", ".", "[ab]", "(a)", "(a|aa)", "*", "+", "?", "{2,9}", "{3}", "|", "^", "$"]), max_size=9
    ),
    st.integers(150, 200),
)
def test_a_pattern_that_is_taken_never_takes_long(parts, length):
    pattern = "".join(parts)
    if _pattern_fault(pattern) is None:
        began = time.process_time()
        schema.check_by("a" * length + "!", {"type": "string", "pattern": pattern})
        assert time.process_time() - began < 5, pattern


def test_a_long_text_is_not_tried_on_a_pattern():
    assert schema.check_by("a" * 100_000, {"pattern": "^a*$"})


# --- how they are sent ------------------------------------------------------------------------------------------------


def request_of(kind, profile, declared, further, **changes):
    settings = {**builtin().raw_accounts[profile], "parameters": declared, **changes}
    provider = kind(parse_account("mine", settings), None, Secrets({}))
    made = job("a fox", further=further_of(further), model="kling-v1", aspect_ratio="1:1")
    found = provider.request(made, "bg-1") if kind is KlingProvider else provider.request(made)
    return asyncio.run(found) if kind is KlingProvider else found


def test_kling_and_openai_accounts_send_what_they_declare_and_nothing_of_ours_is_replaced():
    hostile = dict.fromkeys(("prompt", "n", "model_name", "external_task_id", "model"), "evil")
    declared = {name: {} for name in (*hostile, "seed")}  # as no manifest can declare them
    body = request_of(KlingProvider, "sandbox", declared, {**hostile, "seed": 7, "other": 1})
    assert (body["prompt"], body["n"], body["external_task_id"], body["seed"]) == ("a fox", 1, "bg-1", 7)
    assert body["model_name"] == "kling-v1"
    assert "other" not in body
    body = request_of(OpenAIProvider, "openai", {name: {} for name in ("seed", "quality", "prompt")},
                      {"seed": 7, "quality": "low", "prompt": "evil"}, quality="high", style="natural")  # fmt: skip
    assert body == {"model": "kling-v1", "prompt": "a fox", "n": 1, "size": "1024x1024", "quality": "low",
                    "style": "natural", "seed": 7}  # fmt: skip


# --- whatever is declared and given ---------------------------------------------------------------------------------

KEYWORDS = ("type", "enum", "const", "minimum", "maximum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength",
            "pattern", "items", "minItems", "uniqueItems", "properties", "required", "additionalProperties", "anyOf",
            "default", "$ref", "oneOf")  # fmt: skip
WORDS = st.sampled_from(
    ["integer", "number", "string", "array", "object", "a", "^a+$", "(a", 0, 1, 2.5, True, -1, 10**60]
)
DECLARED = st.recursive(
    st.dictionaries(st.sampled_from(KEYWORDS), WORDS | st.lists(WORDS, max_size=3), max_size=3),
    lambda inside: st.dictionaries(
        st.sampled_from(KEYWORDS), WORDS | inside | st.lists(inside, max_size=2) | st.fixed_dictionaries({"a": inside})
    ),
    max_leaves=6,
)


@given(DECLARED, JSON)
def test_no_declaration_and_no_value_ends_in_anything_but_sentences(declared, value):
    refused = schema.check([{"parameters": {"seed": declared}}], "provider")
    diagnostics = Diagnostics(document.Document(file="x", text=""))
    check_declared({"seed": declared}, (), diagnostics)
    faults = [] if refused or diagnostics.errors else schema.check_by(value, declared)
    for fault in (*refused, *faults):
        assert fault.message.endswith(".")
        assert all(isinstance(step, str | int) for step in fault.path)
