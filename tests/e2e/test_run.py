"""`batchgen run` whole: the real command, a sandbox in a process of its own as gateway and as witness."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest
from command import KEY, ROOT, accepted_by, batchgen, billed_by_job, manifest, prompts, started, wait_for
from output_checks import check_invariant, rows_of
from sandbox_server import SandboxServer


def test_the_quickstart_leaves_images_and_an_index_and_says_where(tmp_path):
    done = batchgen("run", ROOT / "manifests" / "quickstart.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    output = tmp_path / "outputs" / "quickstart"
    rows = check_invariant(output)
    assert len(rows) >= 8
    assert "outputs/quickstart/index.csv" in done.stdout
    assert not (output / "failures.csv").exists()


def test_a_second_run_sends_nothing_and_leaves_the_index_as_it_is_to_the_byte(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(5))
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    output = tmp_path / "outputs" / "tried"
    index, before = (output / "index.csv").read_bytes(), gateway.usage()["requests"]
    again = batchgen("run", path, cwd=tmp_path)
    assert again.returncode == 0
    assert "Nothing to do" in again.stdout
    after = gateway.usage()["requests"]
    before.pop("usage", None), after.pop("usage", None)
    assert after == before
    assert (output / "index.csv").read_bytes() == index


def test_an_edited_manifest_makes_only_what_is_new_and_retires_what_is_not_wanted(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(4))
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    output = tmp_path / "outputs" / "tried"
    first = rows_of(output)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("prompt number 0", "another prompt"), encoding="utf-8")
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    rows = check_invariant(output)
    assert {row["prompt"] for row in rows} == {"another prompt", *(f"prompt number {i}" for i in (1, 2, 3))}
    assert accepted_by(gateway) == 5
    assert len(list((output / "retired").rglob("*.png"))) == 1
    assert batchgen("verify", path, cwd=tmp_path).returncode == 0
    path.write_text(text, encoding="utf-8")
    back = batchgen("run", path, cwd=tmp_path)
    assert back.returncode == 0
    assert check_invariant(output) == first
    assert accepted_by(gateway) == 5


def test_a_renamed_prompt_moves_its_files_and_pays_nothing(tmp_path, gateway):
    path = manifest(tmp_path, gateway, "matrix: {prompt: [{prompt: a fox, id: old}, {prompt: an owl, id: other}]}\n")
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    text = path.read_text(encoding="utf-8").replace("id: old", "id: swap").replace("id: other", "id: old")
    path.write_text(text.replace("id: swap", "id: other"), encoding="utf-8")
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    rows = check_invariant(tmp_path / "outputs" / "tried")
    assert {row["prompt_id"]: row["prompt"] for row in rows} == {"other": "a fox", "old": "an owl"}
    assert all(row["prompt_id"] in row["file_name"] for row in rows)
    assert accepted_by(gateway) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_sending_and_the_next_run_goes_on(tmp_path, gateway, number):
    path = manifest(tmp_path, gateway, prompts(120, "run: {grace: 2s}\n"), concurrency=4)
    run = started("run", path, cwd=tmp_path)
    wait_for(lambda: accepted_by(gateway) >= 6)
    run.send_signal(number)
    _, errors = run.communicate(timeout=30)
    assert run.returncode == 128 + number, errors
    assert "Run again to go on" in errors
    assert accepted_by(gateway) < 120
    check_invariant(tmp_path / "outputs" / "tried")
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    assert len(check_invariant(tmp_path / "outputs" / "tried")) == 120
    assert set(billed_by_job(gateway).values()) == {1}


def test_kill_9_at_any_moment_loses_nothing_and_pays_nothing_twice(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(90, "  n: [1, 3]\n"))
    for accepted in (1, 17, 60, 100, 150):
        run = started("run", path, cwd=tmp_path)
        wait_for(lambda least=accepted, run=run: run.poll() is not None or accepted_by(gateway) >= least)
        run.kill()
        run.communicate()
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    assert len(check_invariant(tmp_path / "outputs" / "tried")) == 90 * 4
    by_job = billed_by_job(gateway)
    assert len(by_job) == 180
    assert set(by_job.values()) == {1}


def test_a_second_run_of_the_same_output_leaves_with_4(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(60), concurrency=3)
    run = started("run", path, cwd=tmp_path)
    wait_for(lambda: accepted_by(gateway) >= 1)
    second = batchgen("run", path, cwd=tmp_path)
    standing = batchgen("status", path, "--json", cwd=tmp_path)
    run.kill()
    run.communicate()
    assert second.returncode == 4
    assert "Another run of" in second.stderr
    assert json.loads(standing.stdout)["started"] is True


def test_a_missing_key_is_a_sentence_with_its_name_and_nothing_is_written(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(1))
    path.write_text(path.read_text(encoding="utf-8").replace("SANDBOX_KEY", "NO_SUCH_KEY"), encoding="utf-8")
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 2
    assert "NO_SUCH_KEY" in done.stderr
    assert not (tmp_path / "outputs").exists()
    assert gateway.usage()["requests"].get("create") is None


def test_a_wrong_manifest_names_every_fault_and_writes_nothing(tmp_path, gateway):
    wrong = "matrix:\n  prompt: [a fox]\n  modle: [kling-v1]\n  aspect_ratio: [16:10]\n  n: [12]\n"
    path = manifest(tmp_path, gateway, wrong)
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 2
    for place in ("manifest.yaml:7:3", "manifest.yaml:8:18", "manifest.yaml:9:7"):
        assert place in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_rejected_and_failing_prompts_are_named_and_the_others_delivered(tmp_path, gateway):
    text = "matrix: {prompt: [a fox, a forbidden-word, please fail-this-task]}\nrun: {max_attempts: 2}\n"
    path = manifest(tmp_path, gateway, text)
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    output = tmp_path / "outputs" / "tried"
    assert [row["prompt"] for row in check_invariant(output)] == ["a fox"]
    failures = {row["prompt"]: row for row in rows_of(output, "failures.csv")}
    assert failures["a forbidden-word"]["status"] == "rejected"
    assert failures["a forbidden-word"]["code"] == "1301"
    assert failures["please fail-this-task"]["status"] == "failed"
    assert failures["please fail-this-task"]["attempts"] == "2"
    assert batchgen("status", path, cwd=tmp_path).returncode == 1
    again = batchgen("run", path, cwd=tmp_path)
    assert again.returncode == 1
    assert accepted_by(gateway) == 3
    batchgen("run", path, "--retry-failed", cwd=tmp_path)
    assert accepted_by(gateway) == 5


def test_verify_finds_a_changed_a_missing_and_a_foreign_file_and_run_mends_two_of_them(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(4))
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    output = tmp_path / "outputs" / "tried"
    assert batchgen("verify", path, cwd=tmp_path).returncode == 0
    changed, missing, *_ = [output / row["file_name"] for row in rows_of(output)]
    changed.write_bytes(changed.read_bytes()[:-1] + b"x")
    missing.unlink()
    (output / "images" / "foreign.png").write_bytes(b"mine")
    done = batchgen("verify", path, "--json", cwd=tmp_path)
    assert done.returncode == 1
    found = {(finding["fault"], finding["path"]) for finding in json.loads(done.stdout)["findings"]}
    assert found == {
        ("changed", changed.relative_to(output).as_posix()),
        ("missing", missing.relative_to(output).as_posix()),
        ("foreign", "images/foreign.png"),
    }
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    assert (output / "images" / "foreign.png").read_bytes() == b"mine"
    (output / "images" / "foreign.png").unlink()
    assert batchgen("verify", path, cwd=tmp_path).returncode == 0
    assert len(check_invariant(output)) == 4
    assert accepted_by(gateway) == 4


def test_a_budget_stops_before_it_is_passed_and_a_raised_one_goes_on(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(10, "  n: [2]\nbudget: {max_images: 7}\n"))
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 3
    assert "max_images" in done.stderr
    assert gateway.usage()["images_billed"] == 6
    assert len(check_invariant(tmp_path / "outputs" / "tried")) == 6
    path.write_text(path.read_text(encoding="utf-8").replace("max_images: 7", "max_images: 70"), encoding="utf-8")
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    assert gateway.usage()["images_billed"] == 20


def test_only_and_limit_narrow_what_is_begun_and_retire_nothing(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(6, "  aspect_ratio: [1:1, 16:9]\n"))
    done = batchgen("run", path, "--only", "aspect_ratio=1:1", "--limit", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    output = tmp_path / "outputs" / "tried"
    assert [row["aspect_ratio"] for row in check_invariant(output)] == ["1:1", "1:1"]
    assert batchgen("run", path, "--only", "prompt_id=*5", cwd=tmp_path).returncode == 0
    assert len(check_invariant(output)) == 4
    assert not (output / "retired").exists()


def test_plan_says_what_a_run_would_do_and_writes_nothing(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(3, "  n: [2]\n"))
    planned = json.loads(batchgen("plan", path, "--json", cwd=tmp_path).stdout)
    assert (planned["make"]["jobs"], planned["make"]["images"], planned["done"]["jobs"]) == (3, 6, 0)
    assert not (tmp_path / "outputs").exists()
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    files = sorted((tmp_path / "outputs").rglob("*"))
    planned = json.loads(batchgen("plan", path, "--json", cwd=tmp_path).stdout)
    assert (planned["make"]["jobs"], planned["done"]["jobs"]) == (0, 3)
    assert sorted((tmp_path / "outputs").rglob("*")) == files


def test_a_full_disk_stops_the_run_with_3_and_leaves_nothing_half_written(tmp_path, gateway, small_disk):
    path = manifest(tmp_path, gateway, prompts(80, "  n: [9]\n"))
    output = small_disk / "tried"
    done = batchgen("run", path, "--output", output, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "space" in done.stderr.lower()
    rows = rows_of(output)
    assert all((output / row["file_name"]).stat().st_size == int(row["bytes"]) for row in rows)
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    done = batchgen("run", path, "--output", output, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(check_invariant(output)) == 720
    assert set(billed_by_job(gateway).values()) == {1}


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_the_four_scenes_of_the_kapon_page_arrive_as_they_were_asked_for(tmp_path, gateway):
    text = """\
include:
  - {prompt: "A beautiful sunset over the ocean, vibrant colors, high detail", model: kling-v1, resolution: 2k,
     n: 1, aspect_ratio: 16:9}
  - {prompt: The character holding a magic wand in a fantasy forest, model: kling-v1-5,
     image: "https://example.com/character-reference.jpg", image_reference: subject, image_fidelity: 0.8,
     resolution: 2k, aspect_ratio: 3:4}
  - {prompt: "A professional headshot portrait, business attire, studio lighting", model: kling-v1-5,
     image: "https://example.com/face-photo.jpg", image_reference: face, human_fidelity: 0.9, resolution: 2k,
     aspect_ratio: 1:1}
  - {prompt: "Abstract colorful artwork, modern style", model: kling-v2, n: 4, resolution: 1k, aspect_ratio: 1:1}
"""
    done = batchgen("run", manifest(tmp_path, gateway, text), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    requests = [task["request"] for task in gateway.usage()["tasks"]]
    for request in requests:
        assert request.pop("external_task_id").startswith("bg-")
    key = lambda request: request["prompt"]  # noqa: E731
    assert sorted(requests, key=key) == sorted(
        [
            {
                "model_name": "kling-v1",
                "prompt": "A beautiful sunset over the ocean, vibrant colors, high detail",
                "resolution": "2k",
                "n": 1,
                "aspect_ratio": "16:9",
            },
            {
                "model_name": "kling-v1-5",
                "prompt": "The character holding a magic wand in a fantasy forest",
                "image": "https://example.com/character-reference.jpg",
                "image_reference": "subject",
                "image_fidelity": 0.8,
                "resolution": "2k",
                "n": 1,
                "aspect_ratio": "3:4",
            },
            {
                "model_name": "kling-v1-5",
                "prompt": "A professional headshot portrait, business attire, studio lighting",
                "image": "https://example.com/face-photo.jpg",
                "image_reference": "face",
                "human_fidelity": 0.9,
                "resolution": "2k",
                "n": 1,
                "aspect_ratio": "1:1",
            },
            {
                "model_name": "kling-v2",
                "prompt": "Abstract colorful artwork, modern style",
                "n": 4,
                "resolution": "1k",
                "aspect_ratio": "1:1",
            },
        ],
        key=key,
    )


def test_an_account_that_knows_fewer_fields_is_sent_fewer(tmp_path):
    with SandboxServer("--emulate", "anyapi", "--latency", "0.1", "--blank-images") as gateway:
        path = manifest(tmp_path, gateway, prompts(1), use="anyapi")
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        (task,) = gateway.usage()["tasks"]
        assert task["request"] == {
            "model_name": "kling-v1",
            "prompt": "prompt number 0",
            "resolution": "1k",
            "n": 1,
            "aspect_ratio": "16:9",
        }


def test_where_nobody_can_be_asked_a_lost_answer_is_held_and_sent_again_only_when_told(tmp_path):
    faults = ("--faults", "drop_after=1", "--latency", "0.1", "--blank-images")
    with SandboxServer("--emulate", "anyapi", *faults) as gateway:
        path = manifest(tmp_path, gateway, prompts(2), use="anyapi")
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        assert {row["status"] for row in rows_of(tmp_path / "outputs" / "tried", "failures.csv")} == {"unknown"}
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        assert accepted_by(gateway) == 2
        batchgen("run", path, "--retry-unknown", cwd=tmp_path)
        assert accepted_by(gateway) > 2


@pytest.mark.parametrize("profile", ["kapon", "kling"])
def test_in_bad_weather_all_is_delivered_and_each_billed_once(tmp_path, profile):
    faults = "drop_before=0.1,drop_after=0.1,error_before=0.1,error_after=0.1,too_fast=0.05,too_many=0.05"
    images = "truncate=0.1,corrupt=0.1,expire=0.05"
    words = ("--latency", "0.1", "--blank-images", "--faults", f"{faults},{images}", "--seed", "7")
    with SandboxServer("--emulate", profile, *words) as gateway:
        path = manifest(tmp_path, gateway, prompts(60, "run: {max_attempts: 9}\n"))
        done = batchgen("run", path, cwd=tmp_path)
        for _ in range(3):  # an image may stay torn through all tries of one run
            if done.returncode == 0:
                break
            done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(check_invariant(tmp_path / "outputs" / "tried")) == 60
        assert sum(billed_by_job(gateway).values()) == 60
        assert set(billed_by_job(gateway).values()) == {1}


def test_a_gateway_that_is_not_there_ends_the_run_and_bills_nothing(tmp_path, gateway):
    text = prompts(2, "run: {give_up_after: 3s}\n")
    path = manifest(tmp_path, gateway, text)
    path.write_text(path.read_text(encoding="utf-8").replace(gateway.base_url, "http://127.0.0.1:9"), encoding="utf-8")
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 3
    assert "give_up_after" in done.stderr
    path.write_text(path.read_text(encoding="utf-8").replace("http://127.0.0.1:9", gateway.base_url), encoding="utf-8")
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    assert accepted_by(gateway) == 2


def test_an_empty_account_stops_the_run_and_what_is_in_flight_is_collected(tmp_path):
    with SandboxServer("--emulate", "kapon", "--latency", "0.2", "--blank-images", "--balance", "5") as gateway:
        path = manifest(tmp_path, gateway, prompts(20), concurrency=3)
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 6
        assert "1102" in done.stderr
        assert len(check_invariant(tmp_path / "outputs" / "tried")) == 5
        standing = json.loads(batchgen("status", path, "--json", cwd=tmp_path).stdout)
        assert standing["jobs"] == {"pending": 15, "done": 5}


def test_the_key_is_in_no_file_and_no_message(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(2))
    done = batchgen("run", path, "--log-format", "json", cwd=tmp_path)
    assert done.returncode == 0
    secret = KEY["SANDBOX_KEY"]
    assert secret not in done.stdout + done.stderr
    for file in (tmp_path / "outputs").rglob("*"):
        if file.is_file():
            assert secret.encode() not in file.read_bytes(), file
