"""What a newcomer met: slips that must not cost money, and sentences that must be true."""

from __future__ import annotations

import json
import os
import sqlite3

import pytest
from command import accepted_by, batchgen, manifest, prompts
from output_checks import check_invariant, rows_of

from batchgen.cli import main


@pytest.fixture
def finished(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(3))
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    return path


def output_of(path):
    return path.parent / "outputs" / "tried"


@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_lost_ledger_is_not_paid_for_again(finished, gateway, how):
    state = output_of(finished) / "state.sqlite3"
    state.unlink()
    if how == "empty":
        state.touch()
    done = batchgen("run", finished, cwd=finished.parent)
    assert done.returncode == 2
    assert "only the ledger records what was paid" in done.stderr
    assert accepted_by(gateway) == 3
    assert len(rows_of(output_of(finished))) == 3


def test_a_budget_in_money_counts_prices_not_the_gateways_units(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(6))
    text = path.read_text(encoding="utf-8")
    priced = text.replace("limits:", "prices: {unit: EUR, as_of: 2026-11-01, default: 0.5}, limits:")
    path.write_text(priced, encoding="utf-8")
    done = batchgen("run", path, "--max-cost", "1.2", cwd=tmp_path)
    assert done.returncode == 3
    rows = check_invariant(output_of(path))
    assert [row["cost"] for row in rows] == ["0.5", "0.5"]
    assert "1 EUR spent, in flight or unknown" in done.stderr


def test_a_rehearsal_counts_the_manifests_own_money(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(
        "version: 1\nname: tried\nprovider: kapon\nproviders: {kapon: {prices: {unit: USD, default: 0.01}}}\n"
        f"budget: {{max_cost: 0.1}}\n{prompts(6)}",
        encoding="utf-8",
    )
    done = batchgen("run", path, "--provider", "sandbox", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {row["cost"] for row in check_invariant(tmp_path / "outputs" / "tried-sandbox")} == {"0.01"}


def test_a_manifest_that_leaves_no_job_is_refused_and_retires_nothing(finished):
    text = finished.read_text(encoding="utf-8")
    finished.write_text(f"{text}exclude: [{{model: kling-v1}}]\n", encoding="utf-8")
    for command in ("run", "plan", "validate"):
        done = batchgen(command, finished, cwd=finished.parent)
        assert done.returncode == 2, command
        assert "asks for nothing" in done.stderr
    assert len(check_invariant(output_of(finished))) == 3


def test_a_filter_that_means_no_job_is_said(finished):
    done = batchgen("run", finished, "--only", "model=kling-v2", cwd=finished.parent)
    assert done.returncode == 2
    assert "No job" in done.stderr


def test_what_is_moved_aside_is_said(finished):
    text = finished.read_text(encoding="utf-8")
    finished.write_text(text.replace("    - prompt number 0\n", ""), encoding="utf-8")
    done = batchgen("run", finished, cwd=finished.parent)
    assert "No longer asked for" in done.stdout


@pytest.mark.parametrize("change", ["edited", "removed"])
def test_verify_looks_at_the_index_too_and_the_next_run_writes_it_anew(finished, change):
    index = output_of(finished) / "index.csv"
    before = index.read_bytes()
    index.write_bytes(before.replace(b"kling", b"other"))
    if change == "removed":
        index.unlink()
    done = batchgen("verify", finished, cwd=finished.parent)
    assert done.returncode == 1
    assert "index.csv" in done.stdout
    assert batchgen("run", finished, cwd=finished.parent).returncode == 0
    assert index.read_bytes() == before


def test_a_file_browsers_droppings_are_not_foreign_images(finished):
    (output_of(finished) / "images" / ".DS_Store").write_bytes(b"x")
    assert batchgen("verify", finished, cwd=finished.parent).returncode == 0


def test_a_ledger_that_is_damaged_inside_is_a_sentence_for_every_command(finished):
    state = output_of(finished) / "state.sqlite3"
    data = bytearray(state.read_bytes())
    data[200:] = os.urandom(len(data) - 200)
    state.write_bytes(data)
    for command in ("run", "plan", "status", "verify"):
        done = batchgen(command, finished, cwd=finished.parent)
        assert done.returncode == 2, (command, done.stderr)
        assert "state.sqlite3" in done.stderr


@pytest.mark.parametrize("name", ["images", "index.csv", "."])
def test_what_is_in_the_way_is_said_before_anything_is_paid(tmp_path, gateway, name):
    path = manifest(tmp_path, gateway, prompts(1))
    output = output_of(path)
    output.parent.mkdir()
    if name == ".":
        output.write_text("a file", encoding="utf-8")
    else:
        output.mkdir()
        (output / name).mkdir() if name == "index.csv" else (output / name).write_text("a file", encoding="utf-8")
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode in {2, 3}, done.stderr
    assert name.strip(".") in done.stderr
    assert "defect" not in done.stderr
    assert accepted_by(gateway) == 0


def test_status_says_whether_a_run_is_going_and_knows_its_accounts(finished):
    standing = json.loads(batchgen("status", finished, "--json", cwd=finished.parent).stdout)
    assert (standing["running"], standing["jobs"]) == (None, {"done": 3})
    wrong = batchgen("status", finished, "--provider", "nosuch", cwd=finished.parent)
    assert wrong.returncode == 2
    assert "nosuch" in wrong.stderr


def test_validate_counts_equal_jobs_once_and_looks_at_every_file(tmp_path):
    right = tmp_path / "right.yaml"
    right.write_text("version: 1\nname: x\nprovider: sandbox\ninclude: [{prompt: a}, {prompt: a}]\n", encoding="utf-8")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("version: 1\n", encoding="utf-8")
    done = batchgen("validate", right, tmp_path / "none.yaml", wrong, cwd=tmp_path)
    assert done.returncode == 2
    assert "1 job (2 written" in done.stdout
    assert "none.yaml" in done.stderr
    assert "wrong.yaml" in done.stderr


def test_logs_are_json_to_the_last_line_when_asked_for(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(4, "budget: {max_images: 2}\n"))
    done = batchgen("run", path, "--log-format", "json", cwd=tmp_path)
    assert done.returncode == 3
    assert [json.loads(line) for line in done.stderr.splitlines()][-1]["level"] == "error"


def test_an_empty_name_for_the_output_is_refused(finished):
    assert batchgen("run", finished, "--output", "", cwd=finished.parent).returncode == 2


def test_the_gateways_own_figure_is_kept_where_there_is_no_price(finished):
    ledger = sqlite3.connect(output_of(finished) / "state.sqlite3")
    assert ledger.execute("SELECT DISTINCT cost FROM attempt").fetchall() == [(1_000_000,)]
    ledger.close()


def test_prompt_files_are_read_as_spreadsheets_and_exports_write_them(tmp_path):
    (tmp_path / "p.csv").write_text("text,sku\na fox,1\n,\nan owl,2\n", encoding="utf-8")
    (tmp_path / "p.jsonl").write_text('{"prompt": 42, "id": 7}\n', encoding="utf-8")
    path = tmp_path / "m.yaml"
    path.write_text(
        "version: 1\nname: x\nprovider: sandbox\nmatrix:\n  prompt:\n"
        "    - {from: p.csv, column: text, id: sku}\n    - {from: p.jsonl, id: id}\n",
        encoding="utf-8",
    )
    listed = json.loads(batchgen("plan", path, "--json", "--detailed", cwd=tmp_path).stdout)["listed"]
    assert [(row["prompt_id"], row["prompt"]) for row in listed] == [("1", "a fox"), ("2", "an owl"), ("7", "42")]


def test_a_misspelt_option_is_told_by_its_own_command_with_what_was_meant(tmp_path):
    done = batchgen("run", "m.yaml", "--limt", "3", cwd=tmp_path)
    assert done.returncode == 2
    assert "usage: batchgen run" in done.stderr
    assert "did you mean --limit?" in done.stderr


def test_a_host_that_cannot_be_reached_is_said_at_once_and_for_how_long_it_is_tried(tmp_path, gateway):
    path = manifest(tmp_path, gateway, f"run: {{give_up_after: 2s}}\n{prompts(3)}")
    gateway.stop()
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.count("Retrying for at most 2 s (run.give_up_after)") == 1
    assert done.stderr.index("Retrying") < done.stderr.index("No success for 2 s")


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("{use: openai, sizes: {1k: {16:9: 1024}}}", "pixels, like 1024x576"),
        ("{use: openai, sizes: {1k: {16:9: 1024*576}}}", "pixels, like 1024x576"),
        ("{use: openai, request_timeout: 10m}", "seconds, without a unit"),
        ("{use: kapon, visibility_delay: 15s}", "seconds, without a unit"),
        ("{use: kapon, limits: {concurrency: unknown}}", "leave it out"),
        ("{use: kapon, limits: 9}", "Known keys are concurrency"),
        ("{use: kapon, base_url: 'http://host:99999'}", "from 1 to 65535"),
    ],
)
def test_a_slip_in_an_account_is_told_with_what_to_write(tmp_path, line, hint):
    path = tmp_path / "m.yaml"
    path.write_text(f"version: 1\nname: x\nprovider: sandbox\nproviders: {{w: {line}}}\n{prompts(1)}", encoding="utf-8")
    done = batchgen("validate", path, cwd=tmp_path)
    assert done.returncode == 2
    assert "m.yaml:4:" in done.stderr
    assert hint in done.stderr


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("callback: https://example.org/hook", "public_url and listen"),
        ("budget: 500", "max_images and max_cost"),
        ("on_finish: notify me", "a list of words"),
    ],
)
def test_a_slip_in_a_key_of_the_manifest_is_told_with_what_to_write(tmp_path, line, hint):
    path = tmp_path / "m.yaml"
    path.write_text(f"version: 1\nname: x\nprovider: sandbox\n{line}\n{prompts(1)}", encoding="utf-8")
    done = batchgen("validate", path, cwd=tmp_path)
    assert done.returncode == 2
    assert hint in done.stderr


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "while a class is made"])
def test_ctrl_c_while_a_command_loads_is_an_interruption_and_no_defect(monkeypatch, capsys, wrapped):
    def interrupted(_name):
        if wrapped:
            raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "import_module", interrupted)
    assert main.main(["models"]) == 130
    assert capsys.readouterr().err == "Interrupted. Run again to go on.\n"
