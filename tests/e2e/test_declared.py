"""Shipped definitions of APIs with the real command, at servers written after the vendors' pages: what is billed."""

from __future__ import annotations

import os
import signal
import sqlite3
import time

import pytest
from command import ROOT, batchgen, started
from documents import examples
from output_checks import check_invariant, rows_of
from vendors import KEY, VENDORS, Runway

from batchgen.catalog import definitions

CAN_BE_ASKED = ("comfyui", "fal", "replicate", "runware")
CANNOT = sorted(set(VENDORS) - set(CAN_BE_ASKED))
PROMPTS = ("a fox", "a cat", "a dog", "an owl", "an elk", "a hen")


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("VENDOR_KEY", KEY)


def written(folder, vendor, *prompts, more="", **changes):
    (folder / "my.yaml").write_text(vendor.definition(**changes), encoding="utf-8")
    path = folder / "manifest.yaml"
    path.write_text(
        "version: 1\nname: tried\nprovider: mine\nproviders: {mine: {use: ./my.yaml, limits: {concurrency: 3}}}\n"
        f"{more}matrix: {{prompt: [{', '.join(prompts or PROMPTS)}]}}\n",
        encoding="utf-8",
    )
    return path


def output(folder):
    return folder / "outputs" / "tried"


def has_no_key(folder):
    return not [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def is_right(folder, vendor):
    """No key in a file or at another host, and nothing billed twice."""
    return has_no_key(folder) and not vendor.wrong_keys and set(vendor.billed.values()) <= {1}


def test_a_server_stands_for_each_shipped_definition():
    assert set(VENDORS) == set(definitions.names())


@pytest.mark.parametrize("name", CAN_BE_ASKED)
def test_what_can_be_asked_for_is_neither_lost_nor_billed_twice(name, tmp_path):
    """Creates are taken and cut, cut before, taken and answered with 503, and not taken or taken with a proxy's 404."""
    with VENDORS[name](0, "cut", "lost", 503, 404, "page") as vendor:
        done = batchgen("run", written(tmp_path, vendor), cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert batchgen("run", tmp_path / "manifest.yaml", cwd=tmp_path).returncode == 0
        assert len(check_invariant(output(tmp_path))) == len(PROMPTS)
        assert vendor.billed == dict.fromkeys(PROMPTS, 1)
        assert len(vendor.creates) == len(PROMPTS) + 2  # those that were cut before, and a proxy's
        assert is_right(tmp_path, vendor)


@pytest.mark.parametrize("name", CANNOT)
def test_where_nobody_can_be_asked_it_is_unknown_and_not_sent_again(name, tmp_path):
    prompts = (*PROMPTS, "an ox", "a bee", "a boar")
    with VENDORS[name](0, "cut", "lost", 0, 503, 0, 404, 0, "page") as vendor:  # never three in a row: no outage
        path = written(tmp_path, vendor, *prompts, more="run: {on_unknown: hold}\n")  # a1111 is free
        for _ in range(2):
            assert batchgen("run", path, cwd=tmp_path).returncode == 1
            assert [row["status"] for row in rows_of(output(tmp_path), "failures.csv")] == ["unknown"] * 5
            assert len(vendor.creates) == len(prompts)
            assert len(check_invariant(output(tmp_path))) == len(prompts) - 5
        assert is_right(tmp_path, vendor)


@pytest.mark.parametrize("name", [*CAN_BE_ASKED, "bfl", "gemini"])  # the others are like one of these
def test_a_run_that_is_killed_pays_once(name, tmp_path):
    with VENDORS[name]() as vendor:
        path = written(tmp_path, vendor)
        for wanted in (1, 4):
            with started("run", path, cwd=tmp_path) as process:
                ends = time.monotonic() + 20
                while len(vendor.creates) < wanted and process.poll() is None and time.monotonic() < ends:
                    time.sleep(0.005)
                process.send_signal(signal.SIGKILL)
                process.wait()
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0 or name in CANNOT, done.stdout + done.stderr
        assert is_right(tmp_path, vendor)
        unknown = [row for row in rows_of(output(tmp_path), "failures.csv") if row["status"] == "unknown"]
        assert len(check_invariant(output(tmp_path))) == len(PROMPTS) - len(unknown)
        assert not unknown or name in CANNOT


def test_the_example_of_the_documentation_works_as_it_is(tmp_path):
    with Runway(0, "cut") as vendor:
        path = written(tmp_path, vendor, *PROMPTS, "a forbidden fox")
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        ended = sorted(row["status"] for row in rows_of(output(tmp_path), "failures.csv"))
        assert ended == ["rejected", "unknown"]
        assert len(check_invariant(output(tmp_path))) == len(PROMPTS) - 1
        assert vendor.billed == dict.fromkeys((*PROMPTS, "a forbidden fox"), 1)
        assert is_right(tmp_path, vendor)


def test_the_tutorial_for_comfyui_works_as_it_is(tmp_path):
    """Its files at the independent server: what is cut is found, and a checkpoint that is not there is refused."""
    page = (ROOT / "docs" / "comfyui.md").read_text(encoding="utf-8")
    for name, text in (each for each in examples(page) if isinstance(each, tuple)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    path, definition = tmp_path / "posters.yaml", tmp_path / "my-comfyui.yaml"
    with VENDORS["comfyui"](0, "cut", "lost") as vendor:
        vendor.checkpoints = ("juggernaut.safetensors",)
        text = definition.read_text(encoding="utf-8").replace("http://127.0.0.1:8188", vendor.url)
        definition.write_text(f"{text}visibility_delay: 0.3\n", encoding="utf-8")
        assert batchgen("doctor", path, cwd=tmp_path).returncode == 0
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(check_invariant(tmp_path / "outputs" / "posters")) == len(vendor.tasks) == 8
        graphs = [task["graph"] for task in vendor.tasks.values()]
        assert len({graph["3"]["inputs"]["seed"] for graph in graphs}) == 8
        assert {graph["6"]["inputs"]["text"] for graph in graphs} == {
            "A lighthouse in a storm, film grain",
            "A fox in the snow, film grain",
        }
        assert {graph["4"]["_meta"]["title"] for graph in graphs} == {"Load Checkpoint"}
        text = path.read_text(encoding="utf-8").replace("matrix:", "matrix:\n  model: [sd_turbo.safetensors]")
        path.write_text(text.replace("./my-comfyui.yaml", "./my-comfyui.yaml, models: [sd_turbo.safetensors]"), "utf-8")
        stopped = batchgen("run", path, cwd=tmp_path)
        assert stopped.returncode == 6  # five in a row
        assert "ckpt_name: 'sd_turbo.safetensors' not in" in stopped.stderr
        assert len(vendor.tasks) == 8


def test_a_comfyui_that_was_restarted_has_forgotten_its_tasks(tmp_path):
    """They do not count as running without end: `task_timeout` is two hours."""

    class Restarted(VENDORS["comfyui"]):
        def answer(self, path, query, body):
            self.tasks.clear()
            return super().answer(path, query, body)

    with Restarted() as vendor:
        done = batchgen("run", written(tmp_path, vendor, "a fox"), cwd=tmp_path)
        assert done.returncode == 1
        assert "Job not found" in done.stdout
        assert len(vendor.creates) == 1


def test_equal_jobs_are_told_apart_by_their_marks(tmp_path):
    with VENDORS["fal"](0, "cut") as vendor:
        done = batchgen("run", written(tmp_path, vendor, "a fox", more="repeat: 3\n"), cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(check_invariant(output(tmp_path))) == 3
        assert len(vendor.tasks) == len(vendor.creates) == 3
        assert len({body["seed"] for body in vendor.creates}) == 3


SEEDED = "{prompt: a fox, parameters: {seed: 7}}, {prompt: a cat, parameters: {seed: 7}}"


@pytest.mark.parametrize("name", ["fal", "replicate"])
def test_a_seed_of_the_users_own_is_no_mark(name, tmp_path):
    """Two jobs with one seed, the second cut after acceptance: no list tells whose it is, and nobody pays twice."""
    with VENDORS[name](0, "cut", 0, "cut") as vendor:
        path = written(tmp_path, vendor, SEEDED, "a dog", "an owl")
        path.write_text(path.read_text(encoding="utf-8").replace("concurrency: 3", "concurrency: 1"), encoding="utf-8")
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 1, done.stdout + done.stderr
        sent = [(body.get("input") or body) for body in vendor.creates]
        assert {body["prompt"]: body["seed"] for body in sent if body["seed"] == 7} == {"a fox": 7, "a cat": 7}
        assert batchgen("run", path, cwd=tmp_path).returncode == 1  # and a second run neither asks nor sends
        assert len(vendor.creates) == 4
        assert is_right(tmp_path, vendor)
        unknown = rows_of(output(tmp_path), "failures.csv")
        assert [row["status"] for row in unknown] == ["unknown"]
        assert unknown[0]["parameter.seed"] == "7"
        assert "in place of the mark" in unknown[0]["message"]
        rows = check_invariant(output(tmp_path))
        assert {row["prompt"] for row in rows} == set(vendor.billed) - {unknown[0]["prompt"]}
        assert {row["parameter.seed"] for row in rows} == {"7", ""}  # the cut one without a seed was found


def test_a_seed_takes_nothing_away_where_the_mark_is_another_value(tmp_path):
    with VENDORS["runware"](0, "cut") as vendor:
        done = batchgen("run", written(tmp_path, vendor, SEEDED), cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert {row["parameter.seed"] for row in check_invariant(output(tmp_path))} == {"7"}
        assert vendor.billed == {"a fox": 1, "a cat": 1}
        assert "7" in str(vendor.creates[0])


@pytest.mark.parametrize("name", ["fal", "replicate"])
def test_a_list_that_does_not_answer_proves_nothing(name, tmp_path):
    with VENDORS[name](0, "lost") as vendor:
        vendor.unanswered = {"fal": "by-endpoint", "replicate": "/v1/predictions"}[name]
        done = batchgen("run", written(tmp_path, vendor), cwd=tmp_path)
        assert done.returncode == 1, done.stdout + done.stderr
        assert len(vendor.creates) == len(PROMPTS)
        assert [row["status"] for row in rows_of(output(tmp_path), "failures.csv")] == ["unknown"]


def test_a_list_is_not_believed_about_what_the_account_has_forgotten(tmp_path):
    """The second run comes after the time that the account remembers: the create is not sent again."""
    with VENDORS["replicate"]("lost") as vendor:
        path = written(tmp_path, vendor, "a fox", remembers="0s")
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        assert len(vendor.creates) == 1


def test_a_list_says_nothing_of_what_was_sent_by_another_definition(tmp_path):
    """The mark is another one now: a create of before is in no list, which does not show that it was not accepted."""
    with VENDORS["replicate"]("cut") as vendor:
        path = written(tmp_path, vendor, "a fox")
        vendor.unanswered = "/v1/predictions"
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        vendor.unanswered = ""
        text = vendor.definition().replace("{{ attempt.seed }}", "1{{ attempt.seed }}")
        path = written(tmp_path, vendor, "a fox", "a cat")
        (tmp_path / "my.yaml").write_text(text, encoding="utf-8")
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        assert vendor.billed == {"a fox": 1, "a cat": 1}
        assert [row["status"] for row in rows_of(output(tmp_path), "failures.csv")] == ["unknown"]


@pytest.mark.parametrize("name", VENDORS)
def test_doctor_finds_nothing_wrong(name, tmp_path):
    with VENDORS[name]() as vendor:
        done = batchgen("doctor", written(tmp_path, vendor), cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not vendor.creates


def test_a_task_at_a_strange_host_is_not_followed_with_the_key(tmp_path):
    with VENDORS["bfl"]() as vendor, VENDORS["bfl"]() as stranger:
        vendor.named_url = stranger.url
        done = batchgen("run", written(tmp_path, vendor, "a fox"), cwd=tmp_path)
        assert done.returncode == 1
        assert stranger.paths == stranger.wrong_keys == []
        (row,) = rows_of(output(tmp_path), "failures.csv")
        assert row["status"] == "unknown"
        assert "where the key may not be sent" in row["message"]
        assert len(vendor.creates) == 1


@pytest.mark.parametrize(
    "name",
    ["fal", "bfl", "gemini", "runware", "ideogram", "minimax", "stability", "dashscope", "seedream", "bedrock"],
)
def test_what_policy_refuses_is_rejected_and_tried_once(name, tmp_path):
    with VENDORS[name]() as vendor:
        assert batchgen("run", written(tmp_path, vendor, "a forbidden fox"), cwd=tmp_path).returncode == 1
        assert [row["status"] for row in rows_of(output(tmp_path), "failures.csv")] == ["rejected"]
        assert len(vendor.creates) == 1


def test_several_images_of_a_task_and_the_size_that_a_ratio_means(tmp_path):
    with VENDORS["fal"]() as vendor:
        path = written(tmp_path, vendor, "a fox", more="defaults: {n: 3, aspect_ratio: 16:9}\n")
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        assert len(check_invariant(output(tmp_path))) == 3
        ((body),) = vendor.creates
        seed = body.pop("seed")
        assert isinstance(seed, int)
        assert 0 < seed < 2**31
        assert body == {"prompt": "a fox", "num_images": 3, "image_size": {"width": 1344, "height": 768}}


def test_a_prompt_is_never_read_as_a_template(tmp_path):
    prompt = "{{ attempt.id }} {% if x %} [1, 2] \\u202e =1+1"
    with VENDORS["gemini"]() as vendor:
        (tmp_path / "prompts.txt").write_text(prompt + "\n", encoding="utf-8")
        path = written(tmp_path, vendor, "{from: prompts.csv, column: text}")
        (tmp_path / "prompts.csv").write_text(f'text\n"{prompt}"\n', encoding="utf-8")
        done = batchgen("run", path, cwd=tmp_path)
        if done.returncode == 0:
            assert list(vendor.billed) == [prompt]
        else:
            assert "template" in done.stderr.lower()
            assert not vendor.creates


def test_a_rehearsal_in_the_sandbox_makes_the_same_jobs(tmp_path):
    path = tmp_path / "manifest.yaml"
    path.write_text("version: 1\nname: tried\nprovider: fal\nmatrix: {prompt: [a fox, a cat]}\n", encoding="utf-8")
    done = batchgen("run", path, "--provider", "sandbox", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (index,) = (tmp_path / "outputs").rglob("index.csv")
    assert [row["model"] for row in check_invariant(index.parent)] == ["fal-ai/flux/dev"] * 2


def test_an_account_that_is_out_of_money_stops_and_goes_on_later(tmp_path):
    with VENDORS["bfl"]() as vendor:
        path = written(tmp_path, vendor)
        vendor.refusal = (402, {"detail": "Insufficient credits"})
        stopped = batchgen("run", path, cwd=tmp_path)
        assert stopped.returncode == 6, stopped.stderr
        assert not vendor.tasks
        vendor.refusal = None
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        assert vendor.billed == dict.fromkeys(PROMPTS, 1)


def test_the_ledger_keeps_no_image_of_an_answer(tmp_path):
    with VENDORS["gemini"]() as vendor:
        assert batchgen("run", written(tmp_path, vendor), cwd=tmp_path).returncode == 0
    db = sqlite3.connect(output(tmp_path) / "state.sqlite3")
    assert not [url for (url,) in db.execute("SELECT url FROM image") if len(url) > 200]
    db.close()
    assert os.environ["VENDOR_KEY"] == KEY
