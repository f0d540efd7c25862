"""Labels: what a table or an entry says of its jobs, beside their requests."""

from __future__ import annotations

import unicodedata
from collections import Counter
from itertools import pairwise

import pytest

from batchgen.app.load import load_manifest
from batchgen.errors import CommandError, ManifestInvalid
from batchgen.jobs import Job
from batchgen.matrix.expand import expand
from batchgen.planning.selection import Selection
from batchgen.storage.paths import PathTemplate

HEAD = "version: 1\nname: x\nprovider: sandbox\n"
TABLE = "Prompt,Category,Challenge,sku\na fox,Animals,Basic,f1\na mug,Things,,m1\na cat,Animals,Style,c1\n"


@pytest.fixture
def written(tmp_path):
    """Writes a manifest beside the table `t.csv`."""

    def write(body, table=TABLE, name="t.csv"):
        (tmp_path / name).write_text(table, encoding="utf-8")
        (tmp_path / "m.yaml").write_text(HEAD + body, encoding="utf-8")
        return tmp_path / "m.yaml"

    return write


@pytest.fixture
def jobs(written):
    return lambda *words, **more: list(expand(load_manifest(written(*words, **more))))


@pytest.fixture
def faults(written):
    def of(*words, **more):
        with pytest.raises(ManifestInvalid) as caught:
            load_manifest(written(*words, **more))
        return [
            f"{each.place.line}:{each.place.column} {each.message} {each.hint}"
            for each in caught.value.problems
            if not each.warning
        ]

    return of


def labels(found):
    return [dict(job.labels) for job in found]


# --- where they come from ----------------------------------------------------------------------------------------


def test_columns_of_a_table_are_labels_of_its_prompts(jobs):
    found = jobs("matrix: {prompt: {from: t.csv, column: Prompt, labels: [Category, Challenge]}}\n")
    assert labels(found) == [
        {"Category": "Animals", "Challenge": "Basic"},
        {"Category": "Things", "Challenge": ""},
        {"Category": "Animals", "Challenge": "Style"},
    ]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("{from: t.csv, column: Prompt, labels: true}", {"Category", "Challenge", "sku"}),
        ("{from: t.csv, column: Prompt, id: sku, labels: true}", {"Category", "Challenge"}),
        ("{from: t.csv, column: Prompt, labels: false}", set()),
        ("{from: t.csv, column: prompt, labels: [category]}", {"category"}),
        ("{prompt: '{{ Prompt }}', rows: t.csv, labels: true}", {"Prompt", "Category", "Challenge", "sku"}),
        ("{prompt: '{{ Prompt }}', rows: t.csv, labels: [Category]}", {"Category"}),
        ("{from: t.csv, column: Prompt, labels: {campaign: spring}}", {"campaign"}),
    ],
)
def test_which_columns_are_labels(jobs, source, names):
    found = jobs(f"matrix: {{prompt: {source}}}\n")
    assert {frozenset(job.labels) for job in found} == {frozenset(names)}
    assert [job.prompt for job in found] == ["a fox", "a mug", "a cat"]


def test_where_and_labels_read_the_same_row(jobs):
    source = "{from: t.csv, column: Prompt, id: sku, where: {Category: Animals}, labels: [Challenge]}"
    found = jobs(f"matrix: {{prompt: {source}}}\n")
    assert [(job.prompt_id, job.labels["Challenge"]) for job in found] == [("f1", "Basic"), ("c1", "Style")]


def test_objects_of_a_file_may_have_different_keys(jobs):
    lines = '{"prompt": "a", "Kind": "x"}\n{"prompt": "b", "Kind": "y", "Age": 3}\n'
    found = jobs("matrix: {prompt: {from: t.jsonl, labels: true}}\n", lines, "t.jsonl")
    assert labels(found) == [{"Kind": "x"}, {"Kind": "y", "Age": "3"}]


def test_entries_of_a_prompt_file_have_labels_of_their_own(jobs):
    text = "- a\n- {prompt: b, labels: {Kind: x}}\n"
    assert labels(jobs("matrix: {prompt: {from: t.yaml}}\n", text, "t.yaml")) == [{}, {"Kind": "x"}]


def test_blocks_prompts_axes_vars_zips_and_inclusions_give_labels(jobs):
    found = jobs(
        "matrix:\n- name: b\n  labels: {campaign: spring}\n"
        "  prompt: {prompt: 'a {{ v }}', labels: {team: art}}\n"
        "  vars: {v: [{v: mug, labels: {size: small}}]}\n"
        "  model: [{model: kling-v2, labels: {tier: old}}]\n"
        "  zip: [{aspect_ratio: '1:1', id: sq, labels: {shape: square}}]\n"
        "include: [{prompt: last, labels: {campaign: 1.50}}]\n"
    )
    ours = {"campaign": "spring", "team": "art", "v": "mug", "size": "small", "tier": "old", "zip": "sq"}
    assert labels(found) == [{**ours, "block": "b", "shape": "square"}, {"campaign": "1.50"}]


# --- what they are for -------------------------------------------------------------------------------------------


def test_labels_are_no_part_of_an_id(jobs):
    bare = jobs("matrix: {prompt: {from: t.csv, column: Prompt}, model: [kling-v1, kling-v2]}\n")
    named = jobs(
        "matrix: {labels: {a: b}, prompt: {from: t.csv, column: Prompt, labels: true},\n"
        "  model: [{model: kling-v1, labels: {tier: old}}, kling-v2]}\n"
    )
    assert [job.id for job in bare] == [job.id for job in named]
    assert [Job.from_json(job.id, job.to_json()).labels for job in named] == labels(named)


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ("{Category: Animals}", ["a mug 1", "a mug 2"]),
        ("{vars: {Category: A*}}", ["a mug 1", "a mug 2"]),
        ("{tier: old}", ["a fox 2", "a mug 2", "a cat 2"]),
        ("{Category: Animals, tier: old}", ["a fox 2", "a mug 1", "a mug 2", "a cat 2"]),
        ("{Category: Animals, tier: old, prompt: 'a c*'}", ["a fox 1", "a fox 2", "a mug 1", "a mug 2", "a cat 2"]),
        ("{Category: Animals, n: 2}", ["a fox 1", "a mug 1", "a mug 2", "a cat 1"]),
        ("{Challenge: ''}", ["a fox 1", "a fox 2", "a cat 1", "a cat 2"]),
    ],
)
def test_exclude_by_labels_of_prompts_and_of_axes(jobs, rule, left):
    found = jobs(
        "matrix: {prompt: {from: t.csv, column: Prompt, labels: true}, n: [{n: 1, labels: {tier: old}}, 2]}\n"
        f"exclude: [{rule}]\n"
    )
    assert [f"{job.prompt} {job.parameters.n}" for job in found] == left


def test_a_rule_about_a_zip_of_parameters_alone_excludes_its_entry(jobs):
    found = jobs("matrix: {prompt: a, zip: [{n: 1, id: one}, {n: 2, id: two}]}\nexclude: [{zip: two}]\n")
    assert [job.labels["zip"] for job in found] == ["one"]


def test_only_selects_by_labels_and_a_key_that_no_job_has_names_the_nearest(written):
    found = load_manifest(written("matrix: {prompt: {from: t.csv, column: Prompt, labels: true}}\n"))
    taken = [job.prompt for job in expand(found) if Selection.parse(["Category=Ani*"], found.var_names).takes(job)]
    assert taken == ["a fox", "a cat"]
    assert Selection.parse(["label.Category=x"], found.var_names) == Selection.parse(["Category=x"], found.var_names)
    with pytest.raises(CommandError, match="Did you mean Category"):
        Selection.parse(["Categry=x"], found.var_names)


def test_a_path_may_have_labels_and_its_names_stay_portable(written):
    table = 'Prompt,First Kind\na,"x/..:y"\nb,\n'
    source = "{from: t.csv, column: Prompt, labels: true}"
    output = 'output: {path: "{First Kind}/{prompt_id}{ext}"}\n'
    found = load_manifest(written(f"{output}matrix: {{prompt: {source}}}\n", table))
    paths = [found.output_path.render(job, 0, ".png") for job in expand(found)]
    assert paths == ["images/x-..-y/a.png", "images/_/b.png"]


def test_a_path_may_have_the_number_of_the_repeat(jobs):
    found = jobs('repeat: 2\noutput: {path: "{prompt_id}-{repeat}{ext}"}\nmatrix: {prompt: a}\n')
    template = PathTemplate.parse("{prompt_id}-{repeat}{ext}")
    assert [template.render(job, 0, ".png") for job in found] == ["images/a-0.png", "images/a-1.png"]


# --- samples ------------------------------------------------------------------------------------------------------

MANY = "Prompt,Category\n" + "".join(
    f"{category}{number},{category}\n" for category, size in (("a", 50), ("b", 20), ("c", 3)) for number in range(size)
)


def sampled(jobs, count, by="Category", more=""):
    source = "{from: t.csv, column: Prompt, labels: true}"
    return jobs(f"matrix: {{prompt: {source}, sample: {{count: {count}, by: {by}}}{more}}}\n", MANY)


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(3, (1, 1, 1)), (9, (3, 3, 3)), (23, (10, 10, 3)), (60, (37, 20, 3)), (73, (50, 20, 3)), (99, (50, 20, 3))],
)
def test_a_sample_by_a_label_has_the_same_number_of_each_value_as_far_as_there_are(jobs, count, sizes):
    counted = Counter(job.labels["Category"] for job in sampled(jobs, count))
    assert tuple(counted[category] for category in "abc") == sizes


def test_a_larger_sample_by_a_label_keeps_all_of_a_smaller_one(jobs):
    chosen = [{job.id for job in sampled(jobs, count)} for count in range(1, 73, 4)]
    assert [len(ids) for ids in chosen] == list(range(1, 73, 4))
    assert all(smaller < larger for smaller, larger in pairwise(chosen))


def test_a_sample_may_be_by_a_parameter(jobs):
    found = sampled(jobs, 10, by="model", more=", model: [kling-v1, kling-v2]")
    assert Counter(job.parameters.model for job in found) == {"kling-v1": 5, "kling-v2": 5}


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("{from: t.csv, column: Prompt, labels: [Categry]}", "5:50 t.csv has no column `Categry`. Did you mean `Cat"),
        ("{from: t.csv, column: Prompt, labels: Category}", "5:49 This must be a list or true or false"),
        ("{from: t.txt, labels: [a]}", "5:25 A .txt file has no columns."),
        ("{prompt: a, labels: [Category]}", "5:31 This prompt has no columns"),
        ("{prompt: a, labels: {model: x}}", "5:32 A label cannot be called `model`: every job has"),
        ('{prompt: a, labels: {"=x": y}}', "5:32 A label cannot be called `=x`."),
        ('{prompt: a, labels: {"a{b": y}}', "5:32 A label cannot be called `a{b`."),
        ("{prompt: a, labels: {a: [b]}}", "5:35 This must be"),
        ("{prompt: a, labels: {}}", "5:31 This mapping is empty."),
        ("a\n  labels: {Kind: x}\n  vars: {Kind: [y]}", "6:12 `Kind` is given twice to one job"),
        ("{prompt: a, labels: {t: x}}\n  n: [{n: 1, labels: {t: y}}]", "6:23 `t` is given twice"),
        ("a\n  sample: {count: 1, by: Categry}\n  labels: {Category: a}", "6:26 The sample is by `Categry`"),
    ],
)
def test_what_cannot_be_a_label_is_refused_at_its_place(faults, tmp_path, body, says):
    (tmp_path / "t.txt").write_text("a\n")
    [found] = faults(f"matrix:\n  prompt: {body}\n")
    assert says in found.replace(f"{tmp_path}/", "")


def test_labels_true_with_a_column_that_cannot_be_one_names_the_way_out(faults):
    [found] = faults("matrix: {prompt: {from: t.csv, labels: true}}\n", "prompt,model\na,b\n")
    assert found.startswith("4:40 A label cannot be called `model`")
    assert "labels: [NAME, …]" in found


def test_a_cell_that_is_a_label_has_no_control_characters(faults):
    [found] = faults("matrix: {prompt: {from: t.csv, labels: true}}\n", "prompt,Kind\na,b\nc,\x1b[2J\n")
    assert found.startswith("3:0 The control character U+001B")


def test_a_table_that_cannot_be_read_is_one_fault_also_where_its_labels_are_used(faults):
    [found] = faults(
        'output: {path: "{Category}/{job_id}{ext}"}\nexclude: [{Category: x}]\n'
        "matrix: {prompt: {from: none.csv, labels: [Category]}}\n"
    )
    assert "does not exist" in found


# --- Unicode ------------------------------------------------------------------------------------------------------

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def test_texts_are_compared_in_one_unicode_form_and_sent_as_written(jobs):
    found = jobs(
        f"matrix: {{prompt: {{from: t.csv, where: {{Kind: {COMPOSED}}}, labels: true}}}}\nexclude: [{{prompt: x}}]\n",
        f"prompt,Kind\n{DECOMPOSED},{DECOMPOSED}\nb,c\n",
    )
    assert [job.prompt for job in found] == [DECOMPOSED]
    assert [job.prompt for job in found if Selection.parse([f"prompt={COMPOSED}"], ()).takes(job)] == [DECOMPOSED]


def test_prompts_that_differ_in_their_form_alone_are_warned_of_and_both_are_made(written):
    found = load_manifest(written(f"matrix: {{prompt: [{COMPOSED}, b, {DECOMPOSED}, é]}}\n"))
    [warning] = found.warnings
    assert "is there twice: in two Unicode forms" in warning.message
    assert len({job.id for job in expand(found)}) == 4
