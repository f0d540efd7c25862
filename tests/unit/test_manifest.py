"""Loading a manifest: the case files, the ids that never change, and texts of every kind."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
import time
from decimal import Decimal
from itertools import islice
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchgen.app.load import load_manifest
from batchgen.errors import ManifestInvalid
from batchgen.jobs import is_id
from batchgen.manifest import schema
from batchgen.manifest.explain import render
from batchgen.manifest.model import OnUnknown
from batchgen.manifest.schema_file import manifest_schema
from batchgen.matrix.expand import expand
from batchgen.source import document

HERE = Path(__file__).parents[1] / "cases"
INVALID = sorted((HERE / "invalid").glob("*.yaml"))
VALID = sorted((HERE / "valid").glob("*.yaml"))
SHIPPED = sorted((Path(__file__).parents[2] / "manifests").glob("*.yaml"))
HEAD = "version: 1\nname: x\nprovider: sandbox\n"


def write(folder, text, name="m.yaml"):
    file = folder / name
    file.write_text(text, encoding="utf-8", newline="")
    return file


def problems_of(file, **options):
    with pytest.raises(ManifestInvalid) as caught:
        load_manifest(file, **options)
    return [problem for problem in caught.value.problems if not problem.warning]


def by_name(file):
    return file.stem


# --- the folders ------------------------------------------------------------------------------------------------


def expected(file):
    """`# expect: LINE:COLUMN words|more words`, or with a prompt file's own place."""
    for line in file.read_bytes().decode().split("\n"):
        if not line.startswith("# expect: "):
            return
        place, words = line.removeprefix("# expect: ").split(" ", 1)
        beside = place.startswith("prompts/")
        yield (f"{file.parent}/{place}" if beside else f"{file}:{place}"), words.split("|")


def test_there_are_cases_for_every_rule():
    assert len(INVALID) >= 150
    assert VALID
    assert len(SHIPPED) >= 5


def check_sentences(problem):
    assert re.search(r"[.?!]$", problem.message), problem.message
    assert not problem.hint or re.search(r"[.?!)]$", problem.hint), problem.hint
    assert len(problem.message) < 400
    for word in ("jsonschema", "Additional properties", "is not of type", "Traceback", "object at 0x"):
        assert word not in str(problem)
    assert render(problem)


def check_that_the_validators_agree(file):
    rs = pytest.importorskip("jsonschema_rs")
    try:
        value = document.read(file).value
    except ManifestInvalid:
        return
    whole = manifest_schema()
    assert jsonschema.Draft202012Validator(whole).is_valid(value) == rs.validator_for(whole).is_valid(value)


@pytest.mark.parametrize("file", INVALID, ids=by_name)
def test_an_invalid_manifest_gets_its_diagnostics_and_no_others_in_plain_sentences(file):
    problems = problems_of(file)
    wanted = list(expected(file))
    for place, words in wanted:
        there = [str(problem) for problem in problems if str(problem.place) == place]
        assert any(all(word in message for word in words) for message in there), (place, words, problems)
    assert len(problems) == len(wanted), [str(problem) for problem in problems]
    for problem in problems:
        check_sentences(problem)
    check_that_the_validators_agree(file)


@pytest.mark.parametrize("file", [*VALID, *SHIPPED], ids=by_name)
def test_a_valid_manifest_is_accepted_and_its_ids_are_for_ever(file):
    table = json.loads((HERE / "ids.json").read_text())
    jobs = list(expand(load_manifest(file)))
    assert [job.id for job in jobs] == table[f"{file.parent.name}/{file.name}"]
    check_that_the_validators_agree(file)


@pytest.mark.parametrize("file", SHIPPED, ids=by_name)
def test_a_shipped_manifest_has_no_warning_and_knows_its_schema(file):
    assert file.read_text().startswith("# yaml-language-server: $schema=../schemas/manifest.schema.json\n")
    assert load_manifest(file, provider="sandbox").account.is_local_sandbox
    warnings = load_manifest(file).warnings
    assert not warnings, [str(warning) for warning in warnings]


def test_the_schema_is_a_schema_without_alternatives():
    whole = manifest_schema()
    jsonschema.Draft202012Validator.check_schema(whole)
    for word in ("oneOf", "anyOf"):
        assert f'"{word}": [' not in json.dumps(whole)


def test_without_the_fast_validator_the_diagnostics_are_the_same(monkeypatch, tmp_path):
    text = HEAD + "matrix:\n  prompt:\n" + "    - a\n" * 150 + "    - {prompt: b, m: 1}\n    - [x]\n"
    file = write(tmp_path, text)
    with_it = [str(problem) for problem in problems_of(file)]
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    schema.fast_validator.cache_clear()
    assert [str(problem) for problem in problems_of(file)] == with_it
    schema.fast_validator.cache_clear()
    assert [line.split(":")[1] for line in with_it] == ["156", "157"]


def test_without_the_fast_validator_many_prompts_are_explained_soon(monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    schema.fast_validator.cache_clear()
    value = {"version": 1, "name": "x", "provider": "sandbox", "matrix": {"prompt": ["a"] * 100_000 + [{"n": 1}]}}
    began = time.process_time()
    [error] = schema.check(value)
    assert time.process_time() - began < 2  # 25 s, were each text validated
    assert error.path == ("matrix", "prompt", 100_000)
    schema.fast_validator.cache_clear()


# --- what a manifest is -------------------------------------------------------------------------------------------


def test_durations_budget_callback_and_accounts_are_typed():
    manifest = load_manifest(HERE / "valid" / "everything.yaml")
    run = manifest.run
    assert (run.task_timeout, run.give_up_after, run.grace, run.on_unknown) == (900.0, 90.0, 0.0, OnUnknown.RESEND)
    assert (manifest.budget.max_images, manifest.budget.max_cost) == (500, Decimal("20.5"))
    assert (manifest.callback.host, manifest.callback.port) == ("::1", 8787)
    assert manifest.account.base_url == "http://127.0.0.1:8080/kling"
    assert manifest.account.api_key_env == "KEY3"
    assert manifest.account.prices.of_image("kling-v2", "2k") == Decimal("0.02")


def test_prompts_are_sent_as_they_are_written():
    texts = [job.prompt for job in expand(load_manifest(HERE / "valid" / "as-written.yaml"))][::3]
    assert texts == [
        "42", "0", "no", "on", "1.50", "0x1F", "2026-01-01", "null", "true", ".nan", "12:30:45",
        "  blanks round it  ", "007", "two\nlines",
    ]  # fmt: skip


def test_prompt_files_give_their_rows_as_they_stand():
    jobs = list(expand(load_manifest(HERE / "valid" / "prompt-files.yaml")))
    assert [(job.prompt, job.prompt_id) for job in jobs] == [
        ("# no comment", "no-comment"),
        ("  kept  ", "kept"),
        ("second", "second"),
        ("just text", "just-text"),
        ("in an object", "in-an-object"),
        ('"Open" on a door', "open-on-a-door"),
        ("bond", "bond"),
        ('A mug, "red"', "a-mug-red"),
        ("two\nlines", "two-lines"),
    ]


def test_a_rehearsal_in_the_sandbox_keeps_the_rules_of_the_manifest_s_account(tmp_path):
    text = "version: 1\nname: x\nprovider: kapon\nmatrix: {prompt: a, model: [kling-v2, kling-v3]}\n"
    file = write(tmp_path, text)
    assert "`kapon` has no model" in problems_of(file, provider="sandbox")[0].message
    file = write(tmp_path, text + "on_illegal: skip\nproviders: {sandbox: {limits: {concurrency: 3}}}\n")
    manifest = load_manifest(file, provider="sandbox")
    assert (manifest.provider, manifest.account.concurrency) == ("sandbox", 3)
    assert [job.parameters.model for job in expand(manifest)] == ["kling-v2"]


def test_an_option_that_names_no_account_gets_the_nearest(tmp_path):
    file = write(tmp_path, HEAD + "matrix: {prompt: a}\n")
    assert "Did you mean `sandbox`" in problems_of(file, provider="sandbx")[0].hint


def test_the_digest_follows_everything_that_decides_the_jobs(tmp_path):
    for part in ("refs", "prompts"):
        shutil.copytree(HERE / "invalid" / part, tmp_path / part)
    text = HEAD + "matrix: {prompt: {from: prompts/good.txt}, image: refs/good.png}\n"
    file = write(tmp_path, text)
    seen = {load_manifest(file).digest, load_manifest(file).digest}
    assert len(seen) == 1
    seen.add(load_manifest(write(tmp_path, text + "# x\n")).digest)
    seen.add(load_manifest(file, provider="kapon").digest)
    write(tmp_path / "prompts", "a\nc\n", "good.txt")
    seen.add(load_manifest(file).digest)
    shutil.copy(tmp_path / "refs/good.jpg", tmp_path / "refs/good.png")
    seen.add(load_manifest(file).digest)
    assert len(seen) == 5


def test_a_reference_image_is_known_by_its_content_not_by_its_name(tmp_path):
    shutil.copytree(HERE / "invalid" / "refs", tmp_path / "refs")
    shutil.copy(tmp_path / "refs/good.png", tmp_path / "other.png")
    ids = set()
    for name in ("refs/good.png", "other.png", str(tmp_path / "other.png")):
        ids |= {
            job.id for job in expand(load_manifest(write(tmp_path, HEAD + f"matrix: {{prompt: a, image: {name}}}\n")))
        }
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("matrix: {prompt: a, vars: {v: [1, 2]}}", "No prompt uses the var `v`"),
        ("matrix: {prompt: a}\nexclude: [{model: kling-v9}]", "matches no job"),
        ("matrix: {prompt: a, resolution: 2k}", "kling-v1 with resolution 2k may fail"),
        ("matrix: {prompt: a, aspect_ratio: 21:9}", "upstream has no 21:9"),
        ("matrix: {prompt: a, model: kling-v2-new}", "kling-v2-new with no image may fail"),
        (
            "matrix: {prompt: a, image: http://e.org/a, model: kling-v1-5, image_reference: face, human_fidelity: 1}",
            "`human_fidelity` works with",
        ),
    ],
)
def test_a_known_limitation_is_a_warning_reported_once(tmp_path, body, words):
    warnings = load_manifest(write(tmp_path, HEAD + body + "\nrepeat: 3\n")).warnings
    assert [words in warning.message for warning in warnings] == [True]


def test_a_rule_that_many_jobs_break_is_one_error_with_the_exclusion_that_fixes_it(tmp_path):
    image = "https://e.org/a.png"
    body = f"matrix:\n  prompt: [a, b, c]\n  image: ['{image}', ~]\n  negative_prompt: [b, ~]\n  n: [1, 2]\n"
    [problem] = problems_of(write(tmp_path, HEAD + body))
    assert "(6 jobs)" in problem.message
    assert [place.line for place in (problem.place, *problem.also)] == [6, 7]
    fix = re.search(r"exclude: (\[\{.*\}\])", problem.hint)[1]
    assert len(list(expand(load_manifest(write(tmp_path, HEAD + body + f"exclude: {fix}\n"))))) == 18


def test_no_message_shows_a_key(tmp_path):
    secret = "sk-4f5e6d7c8b9a"
    body = f"providers: {{kapon: {{api_key: {secret}}}, a: {{use: kapon, api_key_env: {secret}, lmits: 1}}}}\n"
    for problem in problems_of(write(tmp_path, HEAD + "matrix: {prompt: a}\n" + body)):
        assert secret not in render(problem) + str(problem)


def test_a_diagnostic_is_shown_with_its_line_and_a_caret(tmp_path):
    [problem] = problems_of(write(tmp_path, HEAD + "matrix: {prompt: 狐, aspect_ratio: 5:4}\n"))
    text = render(problem).split("\n")
    assert text[1] == "    4 | matrix: {prompt: 狐, aspect_ratio: 5:4}"
    assert text[2] == "      | " + " " * 35 + "^"  # the character before takes two columns
    assert "\x1b" not in "".join(text)
    assert "\x1b[" in render(problem, color=True)


def test_three_mistakes_get_three_hints_that_fix_them(tmp_path):
    text = HEAD + "matrix:\n  promt: [a boat]\n  aspect_ratio: [16x9]\n  model: [kling-v21]\n"
    problems = problems_of(write(tmp_path, text))
    meant = [re.search(r"Did you mean `?([^`? ]+)", f"{p.hint}") for p in problems]
    assert [m[1] for m in meant] == ["prompt", "16:9", "kling-v2-1"]
    fixed = text.replace("promt", "prompt").replace("16x9", "16:9").replace("kling-v21", "kling-v2-1")
    assert len(list(expand(load_manifest(write(tmp_path, fixed))))) == 1


@pytest.mark.parametrize(
    ("body", "count", "words"),
    [
        ("matrix:\n  prompt:\n" + "    - {n: a}\n" * 600, 501, "more than 500 errors"),
        ("matrix: {prompt: a}\n" + "".join(f"k{i}: 1\n" for i in range(70)), 51, "20 more unknown keys"),
    ],
)
def test_of_very_many_errors_the_first_are_listed(tmp_path, body, count, words):
    problems = problems_of(write(tmp_path, HEAD + body))
    assert len(problems) == count
    assert [words in problem.message for problem in problems].count(True) == 1


def test_every_bad_value_of_a_var_s_entries_is_reported(tmp_path):
    body = "matrix:\n  prompt: a {{ v }}\n  vars:\n    v:\n"
    entries = "".join(f"      - {{v: a{i}, n: q}}\n" for i in range(600))
    assert len(problems_of(write(tmp_path, HEAD + body + entries))) == 600


def test_many_prompts_are_checked_soon(tmp_path):
    prompts = "".join(f"    - a quiet harbour at dawn, number {i}\n" for i in range(100_000))
    file = write(tmp_path, HEAD + "matrix:\n  prompt:\n" + prompts)
    began = time.process_time()
    manifest = load_manifest(file)
    assert time.process_time() - began < 10
    assert manifest.blocks[0].factors()[0] == ("prompt", 100_000)


def test_an_exclusion_with_many_stars_takes_no_time(tmp_path):
    body = f"matrix: {{prompt: {'a' * 2000}}}\nexclude: [{{prompt: '{'*a' * 40}*b'}}]\n"
    began = time.process_time()
    load_manifest(write(tmp_path, HEAD + body))
    assert time.process_time() - began < 2


# --- whatever is written ------------------------------------------------------------------------------------------

SEEDS = [file.read_bytes().decode() for file in [*VALID, *SHIPPED, *INVALID] if file.stat().st_size < 4000]
WORDS = [
    "prompt", "model", "vars", "from", "{", "}", "[", "]", ": ", "- ", "\n", "  ", "~", "{{ x }}", "{% if x %}", "*a",
    "1:1", "0", "-1", "1e9", ".nan", "99999999999999999999", '"', "'", "#", "null", "true", "\x00", "é", "🦊",
    "&a ", "<<",    "!!int ", "id", "n", "exclude", "include", "repeat", "max_jobs", "providers", "{ext}",
    "{index}", "refs/good.png", "/", "data:",
]  # fmt: skip


def mutated(text, chance):
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(text) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            text = text[:at] + chance.choice(WORDS) + text[at:]
        elif kind == 1:
            text = text[:at] + text[at + chance.randint(1, 12) :]
        elif kind == 2:
            lines = text.split("\n")
            i, j = chance.randrange(len(lines)), chance.randrange(len(lines))
            lines[i], lines[j] = lines[j], lines[i]
            text = "\n".join(lines)
        else:
            other = chance.choice(SEEDS)
            begin = chance.randrange(len(other) + 1)
            text = text[:at] + other[begin : begin + 40] + text[at:]
    return text


def check_that_it_is_accepted_or_refused(file):
    began = time.process_time()
    refused, ids = [], []
    try:
        ids = [job.id for job in islice(expand(load_manifest(file)), 5000)]
    except ManifestInvalid as error:
        refused = error.problems
        assert any(not problem.warning for problem in refused), refused
    lines = len(file.read_bytes().splitlines()) + 1
    for problem in refused:
        assert problem.place.file != str(file) or problem.place.line <= lines
        assert render(problem, color=True).startswith("\x1b[1m")
    assert all(map(is_id, ids))
    assert time.process_time() - began < 10


@given(st.randoms(use_true_random=False), st.sampled_from(SEEDS))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mutation_of_a_manifest_is_accepted_or_refused(tmp_path, chance, seed):
    for part in ("refs", "prompts"):
        if not (tmp_path / part).exists():
            shutil.copytree(HERE / "invalid" / part, tmp_path / part)
    chance = random.Random(chance.random())
    check_that_it_is_accepted_or_refused(write(tmp_path, mutated(seed, chance).encode("utf-8", "replace").decode()))


scalars = st.sampled_from(
    ["a", "", "16:9", "kling-v1", "kling-v1-5", "1k", "{{ v }}", "subject", "https://e.org/a.png", "prompts/two.csv"]
) | st.integers(-2, 12) | st.floats(0, 2) | st.booleans() | st.none()  # fmt: skip
KEYS = list(manifest_schema()["$defs"]["prompt_mapping"]["properties"])
entries = scalars | st.dictionaries(st.sampled_from([*KEYS, "v", "vars"]), scalars, max_size=4)
axes = entries | st.lists(entries, max_size=4)
blocks = st.dictionaries(
    st.sampled_from([*KEYS, "vars"]), axes | st.dictionaries(st.sampled_from(["v", "w", "n", "for"]), axes, max_size=2)
)
manifests = st.fixed_dictionaries(
    {"version": st.just(1), "name": st.just("x"), "provider": st.sampled_from(["kapon", "sandbox", "anyapi"])},
    optional={
        "matrix": blocks | st.lists(blocks, max_size=2),
        "defaults": entries,
        "include": st.lists(entries, max_size=2),
        "exclude": st.lists(st.dictionaries(st.sampled_from([*KEYS, "prompt_id", "v"]), axes, max_size=3), max_size=2),
        "on_illegal": st.sampled_from(["error", "skip"]),
        "repeat": st.integers(0, 3),
        "output": st.dictionaries(st.just("path"), st.sampled_from(["{prompt_id}{ext}", "{v}/{job_id}-{index}{ext}"])),
        "providers": st.dictionaries(st.sampled_from(["kapon", "z"]), entries, max_size=1),
        "run": entries,
    },
)


@given(manifests)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_manifest_of_the_right_words_is_accepted_or_refused(tmp_path, value):
    if not (tmp_path / "prompts").exists():
        shutil.copytree(HERE / "invalid" / "prompts", tmp_path / "prompts")
    check_that_it_is_accepted_or_refused(write(tmp_path, json.dumps(value)))
