"""The product of the axes: its order, its identity, and that none of it is held."""

from __future__ import annotations

import itertools
import time
import tracemalloc

import pytest

from batchgen.app.load import load_manifest
from batchgen.jobs import job_id
from batchgen.manifest import wildcards
from batchgen.matrix.expand import expand, slug
from batchgen.planning.selection import Selection

HEAD = "version: 1\nname: x\nprovider: sandbox\n"


@pytest.fixture
def jobs(tmp_path):
    def of(body):
        file = tmp_path / "m.yaml"
        file.write_text(HEAD + body, encoding="utf-8")
        return list(expand(load_manifest(file)))

    return of


def ids(found):
    return [job.id for job in found]


def test_prompts_vary_slowest_then_vars_then_axes_as_written_then_repeats(jobs):
    found = jobs(
        "repeat: 2\nmatrix:\n  n: [1, 2]\n  vars: {v: [p, q]}\n  model: [kling-v2, kling-v3]\n"
        "  prompt: ['a {{ v }}', 'b {{ v }}']\ninclude: [{prompt: last}]\n"
    )
    seen = [(j.prompt, j.parameters.n, j.parameters.model, j.repeat) for j in found]
    product = itertools.product(["a p", "a q", "b p", "b q"], [1, 2], ["kling-v2", "kling-v3"], [0, 1])
    assert seen == [*product, ("last", 1, "kling-v1", 0), ("last", 1, "kling-v1", 1)]


def test_an_id_is_that_of_prompt_parameters_and_repeat(jobs):
    for job in jobs("repeat: 2\nmatrix: {prompt: [a, b], n: [1, 2]}\n"):
        assert job.id == job_id(job.prompt, job.parameters.digest(), job.repeat)


def test_cosmetic_edits_change_no_id(jobs):
    plain = jobs("matrix:\n  prompt: [a, b]\n  aspect_ratio: [16:9, 1:1]\n")
    for same in (
        'matrix: {aspect_ratio: ["1:1", "16:9"], prompt: ["b", {prompt: a, id: other}], n: 1, model: kling-v1}\n',
        "defaults: {resolution: 1k, negative_prompt: ''}\nmatrix: {prompt: [a, b], aspect_ratio: [~, 1:1]}\n",
        "matrix:\n- {prompt: a, aspect_ratio: [~, 1:1]}\n- {prompt: '{{ v }}', vars: {v: b}, aspect_ratio: [1:1, ~]}\n",
    ):
        assert sorted(ids(jobs(same))) == sorted(ids(plain))


def test_one_more_repeat_adds_jobs_and_changes_none(jobs):
    two, three = (ids(jobs(f"repeat: {n}\nmatrix: {{prompt: [a, b]}}\n")) for n in (2, 3))
    assert set(two) < set(three)
    assert len(three) == 6


def test_null_takes_a_default_away(jobs):
    found = jobs(
        "defaults: {n: 4, negative_prompt: blurry, watermark_info: {enabled: true}}\n"
        "matrix: {prompt: [a, {prompt: b, n: ~, negative_prompt: ~, watermark_info: ~}]}\n"
        "include: [{prompt: c, negative_prompt: ''}]\n"
    )
    seen = [(j.parameters.n, j.parameters.negative_prompt, j.parameters.watermark_info) for j in found]
    assert seen == [(4, "blurry", True), (1, None, None), (4, None, True)]


def test_entries_are_stronger_than_defaults_and_their_ids_are_labels(jobs):
    found = jobs(
        "defaults: {resolution: 1k}\nmatrix:\n  prompt: 'a {{ v }}'\n"
        "  model: [kling-v2, {model: kling-v2-1, resolution: 2k, id: hd}]\n"
        "  vars: {v: [{v: oak wood, id: oak, n: 3}]}\n"
    )
    assert [(j.parameters.resolution, j.parameters.n) for j in found] == [("1k", 3), ("2k", 3)]
    assert [dict(j.labels) for j in found] == [{"v": "oak"}, {"v": "oak", "model": "hd"}]
    assert {j.prompt for j in found} == {"a oak wood"}


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ("{model: kling-v2-1}", 4),
        ("{model: kling-v2*}", 0),
        ("{model: [kling-v2, kling-v2-1], aspect_ratio: 1:1}", 4),
        ("{prompt: 'a {{ v }}'}", 4),  # the text of the template
        ("{prompt: a p}", 6),  # the rendered text
        ("{prompt_id: bee, v: q}", 6),
        ("{vars: {v: [p, x]}, model: kling-v2}", 4),
        ("{n: 1.0, aspect_ratio: 16:9}", 4),
        ("{n: '1'}", 8),
        ("{image: ~, v: p}", 4),
        ("{resolution: 2k}", 8),
    ],
)
def test_an_exclusion_leaves_out_where_every_key_matches(jobs, rule, left):
    body = (
        "matrix:\n  prompt: ['a {{ v }}', {prompt: 'b {{ v }}', id: bee}]\n  vars: {v: [p, q]}\n  model: kling-v2\n"
        f"  aspect_ratio: [1:1, 16:9]\nexclude: [{rule}]\n"
    )
    if rule == "{model: kling-v2-1}":
        body = body.replace("model: kling-v2\n", "model: [kling-v2-1, kling-v2]\n").replace("[1:1, 16:9]", "1:1")
    assert len(jobs(body)) == left


@pytest.mark.parametrize(
    ("pattern", "text", "is_match"),
    [
        ("a*c", "a\nbc", True), ("a?c", "abc", True), ("a?c", "ac", False), ("*", "", True), ("a", "A", False),
        ("[ab]*", "a", False), ("[ab]*", "[ab] c", True), ("a*b*c", "a-b-c-b", False), ("v.*", "vx", False),
    ],
)  # fmt: skip
def test_only_star_and_question_mark_are_wildcards(pattern, text, is_match):
    assert wildcards.matches(pattern, text) is is_match


def test_a_pattern_of_many_stars_is_matched_in_linear_time():
    began = time.process_time()
    assert not wildcards.matches("*a" * 100 + "b", "a" * 100_000)
    assert time.process_time() - began < 2


def test_only_selects_jobs_with_the_wildcards_of_exclude(jobs):
    found = jobs("matrix: {prompt: ['a [1]', b], model: [kling-v2, kling-v2-1, kling-v3], n: [1, 2]}\n")
    selection = Selection.parse(["prompt=a [1]", "model=kling-v2*", "model=kling-v?-1", "n=2"], ())
    assert [(j.prompt, j.parameters.model) for j in found if selection.takes(j)] == [
        ("a [1]", "kling-v2"),
        ("a [1]", "kling-v2-1"),
    ]


def test_include_is_not_touched_by_exclude(jobs):
    assert [
        j.prompt for j in jobs("matrix: {prompt: [a, b]}\ninclude: [{prompt: a, n: 2}]\nexclude: [{prompt: a}]\n")
    ] == [
        "b",
        "a",
    ]


def test_templates_choose_and_filter(jobs):
    prompt = "{{ v|title }}{% if v == 'fox' %} at night{% endif %}{{ ', ' ~ w }}"
    body = f'matrix:\n  prompt: "{prompt}"\n  vars: {{v: [fox, owl], w: 1.50}}\n'
    assert [j.prompt for j in jobs(body)] == ["Fox at night, 1.50", "Owl, 1.50"]


def test_braces_of_a_value_are_not_read_as_a_template(jobs):
    assert [j.prompt for j in jobs("matrix: {prompt: 'a {{ v }}', vars: {v: '{{ w }}'}}\n")] == ["a {{ w }}"]


def test_a_negative_prompt_is_rendered_and_an_empty_one_is_none(jobs):
    body = "matrix: {prompt: 'a {{ v }}', negative_prompt: '{{ v }}{{ w }}', vars: {v: ['', x], w: ['']}}\n"
    assert [j.parameters.negative_prompt for j in jobs(body)] == [None, "x"]


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A ceramic mug, on marble", "a-ceramic-mug-on-marble"),
        ("Café Zürich", "cafe-zurich"),
        ("狐の絵", "prompt"),
        ("狐 fox", "fox"),
        ("../../etc", "etc"),
        ("x" * 100, "x" * 40),
        ("ｆｕｌｌ", "full"),
    ],
)
def test_a_prompt_names_itself_in_ascii(prompt, name):
    assert slug(prompt) == name


def test_memory_is_flat_in_the_number_of_jobs(tmp_path):
    file = tmp_path / "m.yaml"
    file.write_text(
        HEAD + "max_jobs: 9000000\nrepeat: 2000\nmatrix: {prompt: [a, b, c], n: [1, 2, 3, 4, 5, 6, 7, 8, 9]}\n"
    )
    manifest = load_manifest(file)
    tracemalloc.start()
    assert sum(1 for _ in expand(manifest)) == 54_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


def test_the_first_job_of_very_many_comes_at_once(tmp_path):
    file = tmp_path / "m.yaml"
    values = ", ".join(str(i) for i in range(400))
    file.write_text(
        HEAD + f"max_jobs: 99999999\nmatrix: {{prompt: a, vars: {{v: [{values}], w: [{values}]}}, n: [1, 2]}}\n"
    )
    first = next(expand(load_manifest(file)))
    assert first.labels == {"v": "0", "w": "0"}
