"""Matrices: rows of a table, zip, sample, where, named blocks, and what `on_illegal: skip` leaves out."""

from __future__ import annotations

import hashlib
import json
import re
import time
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchgen.app.load import load_manifest
from batchgen.cli.main import main
from batchgen.errors import ManifestInvalid
from batchgen.jobs import is_id
from batchgen.matrix import sample
from batchgen.matrix.expand import expand

HEAD = "version: 1\nname: x\nprovider: kapon\n"
TABLE = "sku,name,colour\nm1,mug,red\nl1,lamp,\nv1,vase,blue\n"


@pytest.fixture
def loaded(tmp_path):
    (tmp_path / "table.csv").write_text(TABLE, encoding="utf-8")

    def of(body):
        file = tmp_path / "m.yaml"
        file.write_text(HEAD + body, encoding="utf-8")
        return load_manifest(file)

    return of


@pytest.fixture
def jobs(loaded):
    return lambda body: list(expand(loaded(body)))


def ids(found):
    return [job.id for job in found]


# --- rows -------------------------------------------------------------------------------------------------------


def test_a_prompt_is_filled_from_each_row_with_the_vars_beside_it(jobs):
    found = jobs(
        'matrix: {prompt: {prompt: "{{ name }}, {{ colour or v }}", rows: table.csv, id: sku}, vars: {v: [x, y]}}\n'
    )
    assert [(job.prompt, job.prompt_id) for job in found] == [
        ("mug, red", "m1"), ("mug, red", "m1"), ("lamp, x", "l1"), ("lamp, y", "l1"),
        ("vase, blue", "v1"), ("vase, blue", "v1"),
    ]  # fmt: skip


def test_rows_make_the_same_jobs_as_the_prompts_written_out(jobs):
    rows = jobs(
        'matrix: {prompt: {prompt: "a {{ name }}", rows: table.csv, id: sku, n: 2}, aspect_ratio: [1:1, 9:16]}\n'
    )
    assert ids(rows) == ids(jobs("matrix: {prompt: [a mug, a lamp, a vase], n: 2, aspect_ratio: [1:1, 9:16]}\n"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.tsv", "name\tprice\nmug\t1.50\n"),
        ("t.jsonl", '{"name": "mug", "price": 1.50}\n'),
        ("t.yaml", "- {price: 1.50, name: mug}\n"),
        ("t.csv", 'name,price\r\n"mug",1.50\r\n'),
    ],
)
def test_cells_of_every_kind_of_table_are_taken_as_written(tmp_path, jobs, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    [job] = jobs(f'matrix: {{prompt: {{prompt: "{{{{ name }}}} {{{{ price }}}}", rows: {name}}}}}\n')
    assert job.prompt == "mug 1.50"


def test_braces_in_a_cell_are_not_read_as_a_template(tmp_path, jobs):
    (tmp_path / "t.csv").write_text("name\n{{ colour }}\n")
    [job] = jobs('matrix: {prompt: {prompt: "a {{ name }}", rows: t.csv}}\n')
    assert job.prompt == "a {{ colour }}"


def test_of_a_table_only_the_columns_that_are_used_are_kept(loaded):
    [block] = loaded('matrix: {prompt: {prompt: "{{ name }}", rows: table.csv, id: sku}}\n').blocks
    assert block.prompts[0].columns == ("name",)
    assert list(block.prompts[0].cells) == [("mug",), ("lamp",), ("vase",)]


def test_a_change_of_the_table_changes_the_digest(tmp_path, loaded):
    body = 'matrix: {prompt: {prompt: "{{ name }}", rows: table.csv}}\n'
    before = loaded(body).digest
    (tmp_path / "table.csv").write_text(TABLE + "x,box,green\n")
    load_again = load_manifest(tmp_path / "m.yaml")
    assert load_again.digest != before
    assert len(list(expand(load_again))) == 4


def test_faults_of_many_rows_are_listed_up_to_a_bound(tmp_path, loaded):
    (tmp_path / "table.csv").write_text("name,x\n" + ",1\n" * 500)
    with pytest.raises(ManifestInvalid) as caught:
        loaded('matrix: {prompt: {prompt: "{{ name }}", rows: table.csv}}\n')
    assert 2 <= len(caught.value.problems) <= 21


# --- where ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("{colour: red}", ["mug"]),
        ("{colour: [red, blue]}", ["mug", "vase"]),
        ("{colour: 'b*'}", ["vase"]),
        ("{colour: ~}", ["lamp"]),
        ("{colour: ''}", ["lamp"]),
        ("{colour: '*'}", ["mug", "lamp", "vase"]),
        ("{colour: '?*', name: '*a*'}", ["vase"]),
        ("{COLOUR: red}", ["mug"]),
    ],
)
def test_where_takes_the_rows_in_which_every_column_matches(jobs, where, names):
    assert [j.prompt for j in jobs(f"matrix: {{prompt: {{from: table.csv, column: name, where: {where}}}}}\n")] == names
    filled = jobs(f'matrix: {{prompt: {{prompt: "{{{{ name }}}}", rows: table.csv, where: {where}}}}}\n')
    assert [j.prompt for j in filled] == names


def test_where_compares_numbers_as_they_are_written(tmp_path, jobs):
    (tmp_path / "t.jsonl").write_text('{"prompt": "a", "size": 1.50}\n{"prompt": "b", "size": 1.5}\n')
    assert [j.prompt for j in jobs("matrix: {prompt: {from: t.jsonl, where: {size: 1.50}}}\n")] == ["a"]


def test_rows_that_where_leaves_out_need_not_be_prompts(tmp_path, jobs):
    (tmp_path / "t.csv").write_text("prompt,ok\na,yes\n,no\n")
    assert [j.prompt for j in jobs("matrix: {prompt: {from: t.csv, where: {ok: yes}}}\n")] == ["a"]


def test_a_value_that_no_row_has_is_a_warning_beside_others(loaded):
    found = loaded("matrix: {prompt: {from: table.csv, column: name, where: {colour: [red, bleu]}}}\n")
    [warning] = found.warnings
    assert '"bleu"' in warning.message
    assert 'Did you mean "blue"?' in warning.hint


# --- zip --------------------------------------------------------------------------------------------------------


def test_zip_goes_through_pairs_not_combinations(jobs):
    pairs = "[{aspect_ratio: 16:9, resolution: 2k}, {aspect_ratio: 1:1, resolution: 1k}]"
    body = f"matrix: {{prompt: a, model: kling-v2, zip: {pairs}}}\n"
    assert [(j.parameters.aspect_ratio, j.parameters.resolution) for j in jobs(body)] == [("16:9", "2k"), ("1:1", "1k")]


def test_zip_binds_vars_and_parameters_and_multiplies_with_the_rest(jobs):
    found = jobs(
        'matrix: {prompt: "{{ a }}{{ b }}{{ v }}", vars: {v: [x, y]}, n: [1, 2],\n'
        "  zip: [{vars: {a: p, b: q}, aspect_ratio: 1:1}, {vars: {a: r, b: s}, aspect_ratio: 9:16, id: second}]}\n"
    )
    assert len(found) == 8
    assert {(j.prompt[:2], j.parameters.aspect_ratio) for j in found} == {("pq", "1:1"), ("rs", "9:16")}
    assert {j.labels.get("zip") for j in found if j.prompt.startswith("rs")} == {"second"}


def test_zip_of_null_leaves_a_default_out(jobs):
    body = "defaults: {n: 4}\nmatrix: {prompt: a, zip: [{n: ~, aspect_ratio: 1:1}, {n: 2, aspect_ratio: 16:9}]}\n"
    assert [j.parameters.n for j in jobs(body)] == [1, 2]


def test_exclusions_know_zip_blocks_and_vars_of_zip(jobs):
    body = (
        'matrix:\n  - {name: one, prompt: "{{ a }}", zip: [{vars: {a: p}, id: f}, {vars: {a: q}, id: g}]}\n'
        "  - {name: two, prompt: [p, q]}\nexclude: [%s]\n"
    )
    for rule, left in [("{a: p}", 3), ("{zip: g}", 3), ("{block: t*}", 2), ("{block: one, zip: [f, g]}", 2)]:
        assert len(jobs(body % rule)) == left


def test_block_and_zip_are_placeholders_and_chosen_by_only(loaded):
    found = loaded(
        "matrix:\n  - {name: One Block, prompt: a, zip: [{n: 1, id: f}, {n: 2}]}\n  - {prompt: b}\n"
        'output: {path: "{block}/{zip}/{job_id}-{index}{ext}"}\n'
    )
    paths = [found.output_path.render(job, 0, ".png").rsplit("/", 1)[0] for job in expand(found)]
    assert paths == ["images/One Block/f", "images/One Block/_", "images/_/_"]
    assert found.var_names == ("block", "zip")


# --- sample -----------------------------------------------------------------------------------------------------

WIDE = "matrix: {prompt: [%s], n: [1, 2, 3, 4, 5], aspect_ratio: [1:1, 16:9, 9:16, 4:3]%s}\n"


def wide(prompts, extra=""):
    return WIDE % (", ".join(f"p{i}" for i in prompts), extra)


def test_a_sample_keeps_the_jobs_with_the_smallest_hash_of_seed_and_id(jobs):
    everything = ids(jobs(wide(range(10))))

    def place(job):
        return hashlib.sha256(b"batchgen sample 1\x007\x00" + job.encode()).digest()[:16]

    lowest = set(sorted(everything, key=place)[:30])
    chosen = ids(jobs(wide(range(10), ", sample: {count: 30, seed: 7}")))
    assert chosen == [job for job in everything if job in lowest]  # in the manifest's order


def test_the_choice_is_for_ever():
    assert sample.rank("1ezchjkqstmqzr2qzeku2isnbb", 0) == 108118629691765273957964202386444755252


def test_another_order_changes_no_choice_and_another_seed_does(jobs):
    one = set(ids(jobs(wide(range(10), ", sample: {count: 30}"))))
    assert set(ids(jobs(wide(reversed(range(10)), ", sample: {count: 30, seed: 0}")))) == one
    assert set(ids(jobs(wide(range(10), ", sample: {count: 30, seed: 1}")))) != one


def test_a_larger_sample_keeps_all_of_a_smaller_one(jobs):
    few, many = (set(ids(jobs(wide(range(10), f", sample: {{count: {n}}}")))) for n in (30, 60))
    assert few < many
    assert (len(few), len(many)) == (30, 60)


def test_appended_prompts_displace_only_as_many_old_jobs_as_they_bring(jobs):
    before = set(ids(jobs(wide(range(10), ", sample: {count: 50}"))))
    after = set(ids(jobs(wide(range(12), ", sample: {count: 50}"))))
    old = set(ids(jobs(wide(range(10)))))
    assert len(after) == 50
    assert after & old <= before  # no old job comes in that was out
    assert len(before - after) == len(after - old) > 0


def test_one_more_repeat_of_a_sample_adds_to_the_same_choice(jobs):
    two, three = (ids(jobs(f"repeat: {n}\n" + wide(range(5), ", sample: {count: 9}"))) for n in (2, 3))
    assert set(two) < set(three)
    assert (len(two), len(three)) == (18, 27)


def test_a_sample_is_chosen_from_what_exclude_and_skip_leave(jobs):
    found = jobs(
        "on_illegal: skip\nmatrix: {prompt: [a, b, c], model: [kling-v2, kling-v3], n: [1, 2], sample: {count: 4}}\n"
        "exclude: [{n: 2}, {prompt: c}]\n"
    )
    assert [(j.prompt, j.parameters.model, j.parameters.n) for j in found] == [
        ("a", "kling-v2", 1),
        ("b", "kling-v2", 1),
    ]


def test_a_sample_larger_than_its_block_is_the_block(jobs):
    assert ids(jobs(wide(range(3), ", sample: {count: 999}"))) == ids(jobs(wide(range(3))))


def test_equal_jobs_count_once_in_a_sample(jobs):
    found = jobs("matrix: {prompt: [a, a, a, b, c, d], sample: {count: 3}}\n")
    assert len({job.id for job in found}) == 3


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 20), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_the_bound_is_that_of_sorting(numbers, count, seed):
    names = [str(n) for n in numbers]
    ranks = sorted({sample.rank(name, seed) for name in names})
    assert sample.bound(iter(names), count, seed) == (ranks[count - 1] if len(ranks) > count else None)


def test_a_sample_holds_its_count_not_its_product():
    tracemalloc.start()
    sample.bound((f"job {i}" for i in range(200_000)), 100, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000


def test_a_sample_from_too_many_is_refused_at_once(loaded):
    values = ", ".join(str(i) for i in range(3200))
    began = time.process_time()
    with pytest.raises(ManifestInvalid) as caught:
        loaded(
            f'matrix: {{prompt: "{{{{ v }}}}{{{{ w }}}}", vars: {{v: [{values}], w: [{values}]}},\n'
            "  sample: {count: 9}}\n"
        )
    [problem] = caught.value.problems
    assert "3,200 v x 3,200 w = 10,240,000" in problem.message
    assert time.process_time() - began < 5


# --- how many ---------------------------------------------------------------------------------------------------


def test_max_jobs_says_how_the_number_came_about(loaded):
    body = (
        "repeat: 2\nmax_jobs: 10\nmatrix:\n"
        '  - {name: hero, prompt: {prompt: "{{ name }}", rows: table.csv, where: {colour: "?*"}}, n: [1, 2, 3],\n'
        "     zip: [{aspect_ratio: 1:1}, {aspect_ratio: 16:9}]}\n"
        "  - {prompt: [a, b, c], n: [1, 2, 3], sample: {count: 4}}\ninclude: [{prompt: z}]\n"
    )
    with pytest.raises(ManifestInvalid) as caught:
        loaded(body)
    [problem] = caught.value.problems
    assert (
        "(2 prompt x 3 n x 2 zip (hero) + a sample of 4 from (3 prompt x 3 n) + 1 of include) x 2 repeats = 34 jobs"
        in problem.message
    )
    assert len(list(expand(loaded(body.replace("max_jobs: 10", "max_jobs: 34"))))) == 34


# --- what skip leaves out ---------------------------------------------------------------------------------------


def test_what_skip_leaves_out_is_counted_by_reason_with_an_example(loaded):
    found = loaded(
        "on_illegal: skip\nrepeat: 2\nmatrix:\n  prompt: [a, b, c]\n  model: [kling-v2, kling-v3]\n"
        "  image: [~, https://e.org/a.png]\n  negative_prompt: [~, dull]\n"
    )
    assert [(part.jobs, part.example) for part in found.skipped] == [
        (24, {"model": "kling-v3"}),
        (6, {"image": "https://e.org/a.png", "negative_prompt": "dull"}),
    ]
    assert found.skipped[0].places[0].line == 8
    assert len(list(expand(found))) == 3 * 2 * 2 * 2 * 2 - 30


def test_nothing_is_skipped_without_skip(loaded):
    assert loaded("matrix: {prompt: a}\n").skipped == ()


def test_reasons_for_leaving_out_are_bounded(loaded):
    models = ", ".join(f"other-{i}" for i in range(200))
    found = loaded(f"on_illegal: skip\nmatrix: {{prompt: a, model: [kling-v1, {models}]}}\n")
    assert len(found.skipped) <= 31
    assert sum(part.jobs for part in found.skipped) == 200


def test_plan_says_what_is_skipped(tmp_path, capsys):
    file = tmp_path / "m.yaml"
    file.write_text(HEAD + "on_illegal: skip\nmatrix: {prompt: a, model: [kling-v1, kling-v3]}\n")
    command = ["plan", str(file), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert re.search(r"skipped +1 job .*\n +- .*kling-v3.*: 1 job", text)
    assert main([*command, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [(part["jobs"], part["places"][0]["line"]) for part in data["skipped"]] == [(1, 5)]


# --- identity ---------------------------------------------------------------------------------------------------

PLAIN = "matrix:\n  prompt: [a, b]\n  aspect_ratio: [16:9, 1:1]\n"


@pytest.mark.parametrize(
    "same",
    [
        'matrix: {aspect_ratio: ["1:1", "16:9"], prompt: ["b", {prompt: a, id: other}], n: 1, model: kling-v1}\n',
        "defaults: {resolution: 1k, n: 1, model: kling-v1}\n# why\nmatrix: {prompt: [a, b], aspect_ratio: [~, 1:1]}\n",
        "providers: {second: {use: kling}}\nrun: {max_attempts: 9}\nbudget: {max_images: 9}\n" + PLAIN,
        "matrix: {prompt: [a, b], zip: [{aspect_ratio: 16:9, n: 1}, {aspect_ratio: 1:1, n: ~}]}\n",
        "matrix: {name: one, prompt: '{{ v }}', vars: {v: [a, {v: b, id: i}]}, aspect_ratio: [~, 1:1]}\n",
        "matrix: {prompt: [a, b], aspect_ratio: [16:9, 1:1], sample: {count: 4}}\n",
        'matrix: {prompt: {prompt: "{{ t }}", rows: t.csv, id: i}, aspect_ratio: [16:9, 1:1]}\n',
        "matrix: {prompt: {from: t.csv, column: t, where: {i: ['1', '2']}}, aspect_ratio: [1:1, 16:9]}\n",
        "on_illegal: skip\nmax_jobs: 5\noutput: {path: '{job_id}-{index}{ext}'}\n" + PLAIN,
    ],
)
def test_another_spelling_asks_for_the_same_jobs(tmp_path, jobs, same):
    (tmp_path / "t.csv").write_text("i,t\n1,a\n2,b\n")
    assert sorted(ids(jobs(same))) == sorted(ids(jobs(PLAIN)))


@pytest.mark.parametrize("provider", ["sandbox", "anyapi", "kling"])
def test_another_provider_asks_for_the_same_jobs(tmp_path, jobs, provider):
    before = ids(jobs(PLAIN))
    assert ids(expand(load_manifest(tmp_path / "m.yaml", provider=provider))) == before


def test_a_renamed_id_moves_files_and_changes_no_job(loaded):
    body = "matrix: {prompt: {prompt: a fox, id: %s}}\n"
    one, other = loaded(body % "first"), loaded(body % "second")
    [job], [same] = list(expand(one)), list(expand(other))
    assert job.id == same.id
    assert one.output_path.render(job, 0, ".png") != other.output_path.render(same, 0, ".png")


def test_a_renamed_block_changes_no_job(jobs):
    body = "matrix: {name: %s, prompt: [a, b, c, d], sample: {count: 2}}\n"
    assert ids(jobs(body % "one")) == ids(jobs(body % "other"))


# --- a newcomer's path ------------------------------------------------------------------------------------------


def test_three_mistakes_get_three_hints_that_fix_them_together(tmp_path, capsys):
    (tmp_path / "products.csv").write_text(TABLE)
    file = tmp_path / "m.yaml"
    file.write_text(
        HEAD.replace("kapon", "kapn") + "matrix:\n"
        '  prompt: {prompt: "{{ name }} in {{ color }}", rows: products.csv, where: {colour: "?*"}}\n'
        "  aspect_ratio: [1x1, 16:9]\n"
    )
    assert main(["validate", "--json", str(file)]) == 2
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert len(problems) == 3
    lines = file.read_text().split("\n")
    for problem in problems:  # what the hint means, where the answer points
        meant = re.search(r"Did you mean (?:`|\{\{ )?([^`? ]+)", problem["hint"])[1]
        wrong = re.search(r"[`\"]([^`\"]+)[`\"]", problem["message"])[1]
        line = problem["line"] - 1
        head, tail = lines[line][: problem["column"] - 1], lines[line][problem["column"] - 1 :]
        lines[line] = head + tail.replace(wrong, meant, 1)
    file.write_text("\n".join(lines))
    assert main(["validate", "--json", str(file)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["valid"], answer["problems"]) == (True, [])


# --- whatever is written ----------------------------------------------------------------------------------------

words = st.sampled_from(
    ["name", "colour", "sku", "a b", "{{ name }}", "{{ x }}", "r*", "", "1:1", "16x9", "table.csv", "2k"]
)
scalars = words | st.integers(-1, 3) | st.none() | st.booleans()
anything = scalars | st.lists(scalars, max_size=3) | st.dictionaries(words, scalars, max_size=2)
entry = st.fixed_dictionaries(
    {},
    optional={
        "prompt": words, "rows": st.just("table.csv") | anything, "from": st.just("table.csv") | words, "id": scalars,
        "column": words, "where": st.dictionaries(words, anything, max_size=2) | scalars, "n": scalars,
    },
)  # fmt: skip
pair = st.fixed_dictionaries(
    {},
    optional={"aspect_ratio": words, "n": scalars, "id": scalars, "vars": st.dictionaries(words, scalars, max_size=2)},
)
block = st.fixed_dictionaries(
    {"prompt": entry | st.lists(entry | words, max_size=3)},
    optional={
        "name": scalars, "zip": st.lists(pair | scalars, max_size=3) | anything,
        "vars": st.dictionaries(words, anything, max_size=2),
        "sample": st.fixed_dictionaries({}, optional={"count": scalars, "seed": scalars}) | scalars, "n": anything,
    },
)  # fmt: skip


@given(block | st.lists(block, max_size=3), st.sampled_from(["error", "skip"]))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_matrix_is_accepted_or_refused(loaded, matrix, on_illegal):
    try:
        found = loaded(f"on_illegal: {on_illegal}\nmatrix: {json.dumps(matrix)}\n")
    except ManifestInvalid as refused:
        assert any(not problem.warning for problem in refused.problems)  # noqa: PT017 - either is right
    else:
        assert all(is_id(job.id) and job.prompt for job in expand(found))
