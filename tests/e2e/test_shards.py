"""`--shard K/N`: several coordinators make one manifest, each job once; `merge` puts their indexes together."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import sqlite3

import pytest
from command import ROOT, accepted_by, batchgen, billed_by_job, manifest, prompts, started, wait_for
from output_checks import check_invariant, rows_of
from sandbox_process import SandboxProcess

import batchgen as api
from batchgen.app.load import load_manifest
from batchgen.matrix.expand import expand
from batchgen.shards import Shard

REHEARSED = "version: 1\nname: tried\nprovider: sandbox\n"
LETTERS = "matrix: {prompt: [a, b, c, d, e, f, g, h]}\n"


def files_below(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def sandboxed(folder, text=LETTERS, name="manifest.yaml"):
    path = folder / name
    path.write_text(REHEARSED + text, encoding="utf-8")
    return path


def shard_in(path, text, root, *words):
    done = batchgen("run", path, "--quiet", "--shard", text, "--output", root, *words, cwd=path.parent)
    assert done.returncode == 0, done.stderr
    return path.parent / root


def refused(*words, cwd):
    """What a command says that is refused, and that it wrote nothing."""
    before = files_below(cwd)
    done = batchgen(*words, cwd=cwd)
    assert (done.returncode, files_below(cwd)) == (2, before), done.stdout + done.stderr
    return done.stderr


def ids_of(root):
    return [row["job_id"] for row in rows_of(root)]


# --- several coordinators -----------------------------------------------------------------------------------


def test_three_shards_at_once_one_of_them_killed_make_and_pay_each_job_once(tmp_path):
    with SandboxProcess("--emulate", "kapon", "--concurrency", "9", "--latency", "0.4", "--blank-images") as gateway:
        path = manifest(tmp_path, gateway, prompts(30), concurrency=3)
        wanted = [job.id for job in expand(load_manifest(path))]
        runs = [
            started("run", path, "--quiet", "--shard", f"{k}/3", "--output", f"out-{k}", cwd=tmp_path)
            for k in (1, 2, 3)
        ]
        wait_for(lambda: accepted_by(gateway) >= 8)
        runs[1].send_signal(signal.SIGKILL)
        runs[1].communicate()
        runs[1] = started("run", path, "--quiet", "--shard", "2/3", "--output", "out-2", cwd=tmp_path)
        for run in runs:
            _, errors = run.communicate(timeout=60)
            assert run.returncode == 0, errors
        billed = billed_by_job(gateway)
        assert (set(billed), set(billed.values())) == (set(wanted), {1})
        for k in (1, 2, 3):
            rows = check_invariant(tmp_path / f"out-{k}")
            assert [row["job_id"] for row in rows] == [id_ for id_ in wanted if Shard(k, 3).has(id_)]
            told = batchgen(
                "audit", path, "--shard", f"{k}/3", "--output", f"out-{k}", "--adopt", "--json", cwd=tmp_path
            )
            data = json.loads(told.stdout)
            assert (told.returncode, data["consistent"], data["not_in_the_ledger"]) == (0, True, [])
            assert data["images"]["paid"] == len(rows)
            if data["gateways"][0]["asked"] == "list":
                assert data["of_other_outputs"] > 0  # tasks of the other shards are named, and left alone
        outputs = [f"out-{k}" for k in (2, 3, 1)]
        before = [files_below(tmp_path / root) for root in outputs]
        assert batchgen("merge", *outputs, "--to", "all", cwd=tmp_path).returncode == 0
        assert ids_of(tmp_path / "all") == wanted  # in the order of the manifest, whatever that of the outputs
        for kind, to in (("csv", "all.csv"), ("imagefolder", "folder")):
            words = ("export", path, "--output", "all", "--format", kind, "--to", to)
            done = batchgen(*words, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
        with (tmp_path / "all.csv").open(encoding="utf-8") as file:
            assert [row["job_id"] for row in csv.DictReader(file)] == wanted
        lines = (tmp_path / "folder" / "train" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["job_id"] for line in lines] == wanted
        assert batchgen("gallery", path, "--output", "all", "--quiet", cwd=tmp_path).returncode == 0
        report = json.loads(batchgen("report", path, "--output", "all", "--json", cwd=tmp_path).stdout)
        assert (report["images"], report["total"]["attempts"]) == (30, 30)
        assert [files_below(tmp_path / root) for root in outputs] == before


@pytest.mark.parametrize("asked", ["2/3", "1/4", None])
def test_an_output_refuses_another_shard_and_says_what_to_do(asked, tmp_path):
    path = sandboxed(tmp_path)
    shard_in(path, "1/3", "out")
    words = (path, "--output", "out", *(("--shard", asked) if asked else ()))
    commands = [("run",), ("run", "--retry-failed"), ("plan",), ("audit", "--offline"), ("audit", "--adopt")]
    for command, *more in commands + ([("status",)] if asked else []):
        said = refused(command, *words, *more, cwd=tmp_path)
        assert "holds shard 1/3" in said
        assert "Go on here with --shard 1/3." in said
        assert ("Each shard has an --output of its own" in said) is (asked == "2/3")
    shown = json.loads(batchgen("status", path, "--output", "out", "--json", cwd=tmp_path).stdout)
    assert (shown["shard"], shown["jobs"]) == ("1/3", {"done": len(rows_of(tmp_path / "out"))})


def test_an_output_begun_without_a_shard_refuses_one(tmp_path):
    path = sandboxed(tmp_path)
    assert batchgen("run", path, "--quiet", "--limit", "1", cwd=tmp_path).returncode == 0
    said = refused("run", path, "--shard", "1/3", cwd=tmp_path)
    assert "holds its manifest's jobs without a shard" in said
    assert "Go on here with no --shard." in said


@pytest.mark.parametrize("version", [1, 2])
def test_an_output_of_an_earlier_batchgen_refuses_a_shard_and_is_left_as_it_is(version, tmp_path):
    path = sandboxed(tmp_path)
    (tmp_path / "out").mkdir()
    shutil.copyfile(
        ROOT / "tests" / "cases" / "ledgers" / f"version-{version}.sqlite3", tmp_path / "out" / "state.sqlite3"
    )
    said = refused("run", path, "--shard", "1/3", "--output", "out", cwd=tmp_path)
    assert "holds its manifest's jobs without a shard" in said


def test_while_nothing_was_made_the_shard_is_free(tmp_path):
    path = sandboxed(tmp_path)
    shard_in(path, "1/3", "out", "--limit", "0")
    assert not rows_of(tmp_path / "out")
    root = shard_in(path, "2/2", "out")
    assert ids_of(root) == [job.id for job in expand(load_manifest(path)) if Shard(2, 2).has(job.id)]
    refused("run", path, "--shard", "1/3", "--output", "out", cwd=tmp_path)


def test_of_two_shards_that_begin_one_new_output_at_once_one_gets_it(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(8))
    shards = [Shard(1, 2), Shard(2, 2)]
    runs = [started("run", path, "--quiet", "--shard", str(each), "--output", "out", cwd=tmp_path) for each in shards]
    for run in runs:
        run.communicate(timeout=60)
    codes = [run.returncode for run in runs]
    assert sorted(codes) in ([0, 2], [0, 4]), codes
    winner = shards[codes.index(0)]
    assert ids_of(tmp_path / "out") == [job.id for job in expand(load_manifest(path)) if winner.has(job.id)]
    assert all(winner.has(id_) for id_ in billed_by_job(gateway))


def test_a_shard_without_a_selected_job_has_nothing_to_do(tmp_path):
    path = sandboxed(tmp_path)
    jobs = {job.prompt: job.id for job in expand(load_manifest(path))}
    other = "1/2" if Shard(2, 2).has(jobs["a"]) else "2/2"
    assert ids_of(shard_in(path, other, "out", "--only", "prompt=a")) == []
    own = "2/2" if other == "1/2" else "1/2"
    assert ids_of(shard_in(path, own, "own", "--only", "prompt=a")) == [jobs["a"]]
    assert "No job" in refused("run", path, "--shard", "1/2", "--only", "prompt=z", cwd=tmp_path)


def test_an_edit_of_the_manifest_retires_within_the_shard_and_brings_back(tmp_path):
    path = sandboxed(tmp_path)
    roots = [shard_in(path, f"{k}/2", f"out-{k}") for k in (1, 2)]
    whole = [ids_of(root) for root in roots]
    kept = {job.id for job in expand(load_manifest(path)) if job.prompt in "ceg"}
    sandboxed(tmp_path, "matrix: {prompt: [c, e, g]}\n")
    for k, root in enumerate(roots, 1):
        other = files_below(roots[2 - k])
        shard_in(path, f"{k}/2", f"out-{k}")
        assert set(ids_of(root)) == kept & set(whole[k - 1])
        assert len(list((root / "retired").rglob("*.png"))) == len(set(whole[k - 1]) - kept)
        assert files_below(roots[2 - k]) == other
        check_invariant(root)
    sandboxed(tmp_path)
    for k, root in enumerate(roots, 1):
        shard_in(path, f"{k}/2", f"out-{k}")
        assert ids_of(root) == whole[k - 1]


def test_a_lost_ledger_is_rebuilt_with_the_tasks_and_rows_of_its_shard_alone(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(8))
    roots = [shard_in(path, f"{k}/2", f"out-{k}") for k in (1, 2)]
    own, others = ids_of(roots[0]), ids_of(roots[1])
    (roots[0] / "state.sqlite3").unlink()
    said = refused("run", path, "--shard", "1/2", "--output", "out-1", cwd=tmp_path)
    assert "audit MANIFEST --adopt --shard 1/2" in said
    index = roots[0] / "index.csv"
    foreign = (roots[1] / "index.csv").read_text(encoding="utf-8").partition("\n")[2]
    index.write_text(index.read_text(encoding="utf-8") + foreign, encoding="utf-8")  # rows of the other shard, too
    adopt = ("audit", path, "--shard", "1/2", "--output", "out-1", "--adopt", "--json")
    done = json.loads(batchgen(*adopt, cwd=tmp_path).stdout)
    assert (done["restored"]["images"], set(done["not_restored"])) == (len(own), set(others))
    index.unlink()
    assert ids_of(shard_in(path, "1/2", "out-1")) == own
    assert set(billed_by_job(gateway).values()) == {1}
    shutil.rmtree(roots[0])  # nothing is left but what the gateway knows
    shard_in(path, "1/2", "out-1", "--limit", "0")
    done = json.loads(batchgen(*adopt, cwd=tmp_path).stdout)
    assert not {orphan["external_id"].split("-")[1] for orphan in done["not_in_the_ledger"]} & set(others)
    assert ids_of(shard_in(path, "1/2", "out-1")) == own
    assert set(billed_by_job(gateway).values()) == {1}


# --- merge --------------------------------------------------------------------------------------------------


def test_nothing_can_be_run_marked_or_fetched_from_a_merged_folder(tmp_path):
    path = sandboxed(tmp_path)
    roots = [shard_in(path, f"{k}/2", f"out-{k}") for k in (1, 2)]
    assert batchgen("merge", *roots, "--to", "all", cwd=tmp_path).returncode == 0
    file = rows_of(tmp_path / "all")[0]["file_name"]
    for command, *more in (
        ("run",),
        ("run", "--shard", "1/2"),
        ("plan",),
        ("audit", "--adopt"),
        ("status",),
        ("verify",),
        ("review", "--reject", file),
        ("gallery", "--serve"),
    ):
        said = refused(command, path, "--output", "all", *more, cwd=tmp_path)
        assert "put together by `batchgen merge`" in said
    path = sandboxed(tmp_path, f"{LETTERS}checks: [blank]\n")
    assert "put together" in refused("check", path, "--output", "all", cwd=tmp_path)
    with sqlite3.connect(tmp_path / "all" / "merged.sqlite3") as db:
        assert db.execute("SELECT DISTINCT url FROM image").fetchall() == [("",)]
        assert db.execute("SELECT DISTINCT key_print, head FROM attempt").fetchall() == [("", "")]
    assert "put together" in refused("merge", "all", "out-1", "--to", "twice", cwd=tmp_path)


def test_outputs_that_do_not_belong_together_are_not_merged(tmp_path):
    path = sandboxed(tmp_path)
    shard_in(path, "1/3", "a")
    shard_in(path, "2/3", "b")
    shard_in(path, "1/2", "half")
    assert batchgen("run", path, "--quiet", "--output", "whole", cwd=tmp_path).returncode == 0
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    other = sandboxed(tmp_path, "matrix: {prompt: [x, y]}\n", "other.yaml")
    assert batchgen("run", other, "--quiet", "--output", "other", cwd=tmp_path).returncode == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    for words, why in (
        (("a", "b", "--to", "all"), "missing: 3/3"),
        (("a", "copy", "--to", "all"), "the same output"),
        (("a", "a", "--to", "all"), "the same output"),
        (("a", "other", "--incomplete", "--to", "all"), "same manifest"),
        (("a", "whole", "--incomplete", "--to", "all"), "The job 1"),
        (("a", "b", "half", "--incomplete", "--mixed", "--to", "all"), "The job 1"),
        (("a", "nowhere", "--to", "all"), "no output in nowhere to merge"),
        (("a", "b", "--incomplete", "--to", "mine"), "is not empty"),
        (("a", "b", "--incomplete", "--to", "a/all"), "is in the output"),
        (("a", "b", "--incomplete", "--to", "b"), "is in the output"),
        (("a", "b", "--incomplete", "--to", "manifest.yaml"), "is a file"),
    ):
        assert why in refused("merge", *words, cwd=tmp_path), words
    done = batchgen("merge", "other", "a", "b", "--incomplete", "--mixed", "--to", "all", "--json", cwd=tmp_path)
    data = json.loads(done.stdout)
    assert (done.returncode, data["images"], list(data["outputs"])) == (
        0,
        len(ids_of(tmp_path / "all")),
        ["other", "a", "b"],
    )
    each = [id_ for name in ("other", "a", "b") for id_ in ids_of(tmp_path / name)]
    assert ids_of(tmp_path / "all") == each
    check_links(tmp_path / "all")


def check_links(root):
    assert all((root / row["file_name"]).is_file() for row in rows_of(root))


def test_a_merged_folder_is_brought_up_to_date_also_during_a_run_and_moves_with_its_outputs(tmp_path):
    path = sandboxed(tmp_path)
    for k in (1, 2):
        shard_in(path, f"{k}/2", f"sets/{k}/out", "--limit", "1")  # the same name twice
    merge = ("merge", "sets/1/out", "sets/2/out", "--to", "sets/all")
    told = batchgen(*merge, cwd=tmp_path)
    assert (told.returncode, "Not finished yet: 6 jobs" in told.stdout) == (0, True), told.stdout
    assert len(rows_of(tmp_path / "sets" / "all")) == 2
    for k in (1, 2):
        shard_in(path, f"{k}/2", f"sets/{k}/out")
    reader = sqlite3.connect(tmp_path / "sets" / "1" / "out" / "state.sqlite3")
    reader.execute("PRAGMA journal_mode = WAL")  # as a run has it
    assert json.loads(batchgen(*merge, "--json", cwd=tmp_path).stdout)["unfinished_jobs"] == 0
    reader.close()
    (tmp_path / "sets").rename(tmp_path / "moved")
    assert len(rows_of(tmp_path / "moved" / "all")) == 8
    check_links(tmp_path / "moved" / "all")


def test_copies_stand_alone_and_what_is_missing_is_named(tmp_path):
    path = sandboxed(tmp_path)
    roots = [shard_in(path, f"{k}/2", f"out-{k}") for k in (1, 2)]
    lost = roots[0] / rows_of(roots[0])[0]["file_name"]
    lost.unlink()
    done = batchgen("merge", *roots, "--to", "all", "--copy", cwd=tmp_path)
    assert (done.returncode, f"{lost}: missing" in done.stderr) == (1, True)
    assert "did not" not in refused("merge", *roots, "--to", "all", "--copy", cwd=tmp_path)
    assert "copies of images" in refused("merge", *roots, "--to", "all", cwd=tmp_path)
    shutil.rmtree(tmp_path / "all")
    shard_in(path, "1/2", "out-1")  # it comes back, unpaid
    assert batchgen("merge", *roots, "--to", "all", "--copy", cwd=tmp_path).returncode == 0
    for root in roots:
        shutil.rmtree(root)
    assert len(check_invariant(tmp_path / "all")) == 8


def test_merged_shards_have_what_one_output_of_the_manifest_has(tmp_path):
    """Failures, marks, equal jobs, several images and repeats; a merge that was killed is done again."""
    text = "matrix: {prompt: [a, b, a forbidden-word, c, a], n: [2]}\nrepeat: 2\noutput: {spreadsheet_safe: true}\n"
    path = sandboxed(tmp_path, text)
    assert batchgen("run", path, "--quiet", "--output", "whole", cwd=tmp_path).returncode == 1
    for k in (1, 2):
        words = ("--quiet", "--shard", f"{k}/2", "--output", f"out-{k}")
        assert batchgen("run", path, *words, cwd=tmp_path).returncode in {0, 1}
    marked = next(f"out-{k}" for k in (1, 2) if rows_of(tmp_path / f"out-{k}"))
    file = rows_of(tmp_path / marked)[-1]["file_name"]
    assert batchgen("review", path, "--output", marked, "--star", file, cwd=tmp_path).returncode == 0
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / ".merged.sqlite3.new").write_text("half a file", encoding="utf-8")
    assert batchgen("merge", "out-1", "out-2", "--to", "all", cwd=tmp_path).returncode == 0
    for name, columns in (("index.csv", ["job_id", "image_index"]), ("failures.csv", ["job_id", "status", "message"])):
        whole, merged = rows_of(tmp_path / "whole", name), rows_of(tmp_path / "all", name)
        assert whole
        assert [[row[key] for key in columns] for row in merged] == [[row[key] for key in columns] for row in whole]
    stars = [row["file_name"] for row in rows_of(tmp_path / "all") if row["mark"] == "star"]
    assert stars == [file.replace("images/", f"images/{marked}/")]
    assert sorted(each.name for each in (tmp_path / "all").iterdir()) == [
        *("failures.csv", "images", "index.csv", "merged.sqlite3")
    ]


def test_python_runs_and_plans_a_shard(tmp_path):
    path = sandboxed(tmp_path)
    jobs = [job for job in expand(load_manifest(path)) if Shard(1, 2).has(job.id)]
    assert api.plan(path, output=tmp_path / "out", shard="1/2").make.jobs == len(jobs)
    result = api.run(path, output=tmp_path / "out", shard="1/2")
    assert (result.ok, result.images) == (True, len(jobs))
    for call in (api.run, api.plan):
        with pytest.raises(api.BatchgenError, match="holds shard 1/2"):
            call(path, output=tmp_path / "out")
        with pytest.raises(api.BatchgenError, match="write K/N"):
            call(path, output=tmp_path / "out", shard="half")


def test_a_budget_that_each_shard_has_for_itself_is_said(tmp_path):
    path = sandboxed(tmp_path, f"{LETTERS}budget: {{max_images: 1}}\n")
    words = ("--shard", "1/2", "--output", "out")
    assert "each shard has a budget of its own" in batchgen("plan", path, *words, cwd=tmp_path).stdout
    done = batchgen("run", path, *words, cwd=tmp_path)
    assert (done.returncode, "each shard may spend as much" in done.stderr) == (3, True)
    assert len(rows_of(tmp_path / "out")) == 1
