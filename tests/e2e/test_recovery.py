"""What a run finds that an earlier one left, at gateways that have moved or forgotten."""

from __future__ import annotations

import sqlite3

from command import accepted_by, batchgen, billed_by_job, manifest, prompts, started, wait_for
from output_checks import check_invariant, rows_of
from sandbox_process import SandboxProcess

LINES = ("--emulate", "kapon", "--latency", "0.2", "--blank-images")


def move(path, old, new):
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


def test_an_in_process_sandbox_knows_its_tasks_after_a_kill(tmp_path):
    path = tmp_path / "manifest.yaml"
    path.write_text(f"version: 1\nname: tried\nprovider: sandbox\n{prompts(40)}", encoding="utf-8")
    output = tmp_path / "outputs" / "tried"
    run = started("run", path, cwd=tmp_path)
    wait_for(lambda: len(list((output / "images").rglob("*.png"))) >= 3 or run.poll() is not None)
    run.kill()
    run.communicate()
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(check_invariant(output)) == 40


def test_links_that_name_a_host_which_is_gone_are_asked_for_anew(tmp_path):
    state = ("--state", str(tmp_path / "gateway.jsonl"))
    with SandboxProcess(*LINES, *state) as first:
        path = manifest(tmp_path, first, prompts(3))
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        old = first.base_url
    output = tmp_path / "outputs" / "tried"
    for row in rows_of(output):
        (output / row["file_name"]).unlink()
    with SandboxProcess(*LINES, *state) as second:
        move(path, old, second.base_url)
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(check_invariant(output)) == 3
        assert accepted_by(second) == 3


def lost_at_a_forgetful_gateway(tmp_path, second):
    """A finished output, one of whose images is lost here, while the gateway has forgotten everything."""
    with SandboxProcess(*LINES) as first:
        path = manifest(tmp_path, first, prompts(2))
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        move(path, first.base_url, second.base_url)
    output = tmp_path / "outputs" / "tried"
    (output / rows_of(output)[0]["file_name"]).unlink()
    return path, output


def make_older(output):
    ledger = sqlite3.connect(output / "state.sqlite3")
    ledger.execute("UPDATE attempt SET accepted_at = accepted_at - 86400000")
    ledger.commit()
    ledger.close()


def test_a_young_task_that_the_gateway_does_not_know_is_left_for_later_and_made_anew_only_when_told(tmp_path):
    with SandboxProcess(*LINES) as second:
        path, output = lost_at_a_forgetful_gateway(tmp_path, second)
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 1
        assert "Left for the next run: 1" in done.stdout
        assert len(check_invariant(output)) == 1
        assert accepted_by(second) == 0
        make_older(output)
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        assert [row["status"] for row in rows_of(output, "failures.csv")] == ["gone"]
        assert accepted_by(second) == 0
        assert batchgen("run", path, "--retry-failed", cwd=tmp_path).returncode == 0
        assert len(check_invariant(output)) == 2
        assert accepted_by(second) == 1


def test_an_old_task_that_the_gateway_does_not_know_is_gone_and_is_asked_for_once_more_before_it_is_paid_again(
    tmp_path,
):
    state = ("--state", str(tmp_path / "gateway.jsonl"))
    with SandboxProcess(*LINES, *state) as gateway:
        path = manifest(tmp_path, gateway, prompts(2))
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        port = gateway.base_url.split(":")[2].split("/")[0]
    output = tmp_path / "outputs" / "tried"
    (output / rows_of(output)[0]["file_name"]).unlink()
    make_older(output)
    with SandboxProcess(*LINES, "--port", port) as forgetful:
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 1
        assert [row["status"] for row in rows_of(output, "failures.csv")] == ["gone"]
        assert accepted_by(forgetful) == 0
    with SandboxProcess(*LINES, "--port", port, *state) as remembering:
        assert batchgen("run", path, "--retry-failed", cwd=tmp_path).returncode == 0
        assert len(check_invariant(output)) == 2
        assert accepted_by(remembering) == 2


def test_what_was_submitted_is_finished_though_the_manifest_no_longer_asks_for_it(tmp_path):
    with SandboxProcess("--emulate", "kapon", "--latency", "1", "--blank-images") as gateway:
        path = manifest(tmp_path, gateway, prompts(6))
        run = started("run", path, cwd=tmp_path)
        wait_for(lambda: accepted_by(gateway) >= 6)
        run.kill()
        run.communicate()
        move(path, "prompt number", "another prompt")
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        output = tmp_path / "outputs" / "tried"
        assert len(check_invariant(output)) == 6
        assert len(list((output / "retired").rglob("*.png"))) == 6
        assert set(billed_by_job(gateway).values()) == {1}


def test_a_second_output_of_the_same_manifest_adopts_what_the_first_paid_for(tmp_path):
    with SandboxProcess(*LINES) as gateway:
        path = manifest(tmp_path, gateway, prompts(3))
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        done = batchgen("run", path, "--output", tmp_path / "second", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(check_invariant(tmp_path / "second")) == 3
        assert gateway.usage()["images_billed"] == 3


def test_a_file_that_the_user_changed_is_set_aside_not_overwritten(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(1))
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    output = tmp_path / "outputs" / "tried"
    image = output / rows_of(output)[0]["file_name"]
    image.write_bytes(b"retouched by hand")
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    check_invariant(output)
    (kept,) = (output / "retired").rglob("*-changed-*")
    assert kept.read_bytes() == b"retouched by hand"


def test_a_copy_with_new_times_is_hashed_once_and_known_again(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(2))
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    output = tmp_path / "outputs" / "tried"
    for row in rows_of(output):
        file = output / row["file_name"]
        data = file.read_bytes()
        file.unlink()
        file.write_bytes(data)
    before = gateway.usage()["requests"]
    done = batchgen("run", path, cwd=tmp_path)
    assert "Nothing to do" in done.stdout
    assert gateway.usage()["requests"]["image"] == before["image"]


def test_another_providers_tasks_are_finished_at_that_provider(tmp_path):
    with (
        SandboxProcess(*LINES) as one,
        SandboxProcess("--emulate", "kapon", "--latency", "3", "--blank-images") as slow,
    ):
        path = manifest(tmp_path, slow, prompts(3))
        text = path.read_text(encoding="utf-8")
        both = text.replace(
            "providers: {",
            f'providers: {{other: {{use: kapon, base_url: "{one.base_url}", api_key_env: SANDBOX_KEY}}, ',
        )
        path.write_text(both, encoding="utf-8")
        run = started("run", path, cwd=tmp_path)
        wait_for(lambda: accepted_by(slow) >= 3)
        run.kill()
        run.communicate()
        path.write_text(both.replace("provider: local", "provider: other") + "    - one more\n", encoding="utf-8")
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert {row["provider"] for row in check_invariant(tmp_path / "outputs" / "tried")} == {"local", "other"}
        assert (accepted_by(slow), accepted_by(one)) == (3, 1)


def test_the_intent_is_in_the_ledger_before_the_create_can_be_answered(tmp_path):
    """The gateway cuts every connection before it accepts: each create must have left its trace all the same."""
    with SandboxProcess(*LINES, "--faults", "drop_before=1") as gateway:
        path = manifest(tmp_path, gateway, prompts(2, "run: {max_attempts: 2}\n"))
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        asked = sum(gateway.usage()["requests"]["create"].values())
        db = sqlite3.connect(tmp_path / "outputs" / "tried" / "state.sqlite3")
        assert db.execute("SELECT count(*) FROM attempt").fetchone() == (asked,)
        db.close()
