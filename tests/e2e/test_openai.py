"""The real command at a gateway that speaks OpenAI's images API: answers that hold the images, and what is lost."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
from base64 import b64encode
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pytest
from command import KEY, ROOT, accepted_by, batchgen, billed_by_job, prompts, started, wait_for
from output_checks import check_invariant, rows_of
from PIL import Image
from sandbox_server import SandboxServer

from batchgen.http.client import Answer
from batchgen.providers.openai import task_from, versioned
from batchgen.sandbox.painter import blank

IMAGE = blank((64, 64))


def sandbox(*options, **more):
    return SandboxServer("--emulate", "openai", "--latency", "0.2", "--blank-images", *options, **more)


def written(folder, base_url, text, account=""):
    path = folder / "manifest.yaml"
    path.write_text(
        "version: 1\nname: tried\nprovider: local\n"
        f'providers: {{local: {{use: openai, base_url: "{base_url}", api_key_env: SANDBOX_KEY{account}}}}}\n{text}',
        encoding="utf-8",
    )
    return path


def output(folder):
    return folder / "outputs" / "tried"


def ledger(folder, question):
    db = sqlite3.connect(output(folder) / "state.sqlite3")
    try:
        return db.execute(question).fetchall()
    finally:
        db.close()


@contextmanager
def scripted(*answers):
    """A server that gives these (status, body) in turn, the last one for ever; it keeps what it was sent."""
    requests, left = [], list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((self.path, dict(self.headers), body))
            status, answer = left.pop(0) if len(left) > 1 else left[0]
            raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_words):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()


def made(*images):
    return 200, {"created": 1_800_000_000, "data": [{"b64_json": b64encode(image).decode()} for image in images]}


# --- what is asked for comes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", ["b64_json", "url"])
def test_everything_is_delivered_and_billed_once_and_the_ledger_keeps_no_image(tmp_path, answers):
    with sandbox("--response-format", answers) as gateway:
        path = written(tmp_path, gateway.base_url, prompts(12, "  n: [1, 3]\n"))
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(check_invariant(output(tmp_path))) == 48
        assert Counter(billed_by_job(gateway).values()) == {1: 24}
        assert gateway.usage(tasks=False)["images_billed"] == 48
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        assert accepted_by(gateway) == 24
        assert not [url for (url,) in ledger(tmp_path, "SELECT url FROM image") if len(url) > 200]
        rows = rows_of(output(tmp_path))
        assert len({(row["task_id"], row["image_index"]) for row in rows}) == 48
        assert all(row["submitted_at"] <= row["finished_at"] for row in rows)


def test_more_than_the_gateway_runs_at_once_is_waited_for(tmp_path):
    with sandbox("--concurrency", "2") as gateway:
        path = written(tmp_path, gateway.base_url, prompts(8), ", limits: {concurrency: 5}")
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        assert gateway.usage(tasks=False)["requests"]["create"]["1303"] > 0
        assert set(billed_by_job(gateway).values()) == {1}
        assert len(check_invariant(output(tmp_path))) == 8


def test_a_request_holds_what_was_asked_for_and_the_size_that_the_ratio_means(tmp_path):
    text = "matrix:\n  prompt: a fox\n  aspect_ratio: [1:1, 3:2, 2:3, 16:9]\n  model: gpt-image-1\n"
    with scripted(made(IMAGE)) as (url, requests):
        path = written(tmp_path, url, text, ", sizes: {1k: {16:9: 1536x864}}")
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    sizes = ("1024x1024", "1536x1024", "1024x1536", "1536x864")
    wanted = {f'{{"model":"gpt-image-1","prompt":"a fox","n":1,"size":"{size}"}}'.encode() for size in sizes}
    assert {body for _, _, body in requests} == wanted
    assert {path for path, _, _ in requests} == {"/v1/images/generations"}
    assert all(headers["Authorization"] == f"Bearer {KEY['SANDBOX_KEY']}" for _, headers, _ in requests)
    assert len({headers["X-Client-Request-Id"] for _, headers, _ in requests}) == 4


def test_a_server_without_a_key_its_only_model_and_a_format(tmp_path):
    account = ", auth: none, models: [sd-turbo], response_format: b64_json"
    with scripted(made(IMAGE)) as (url, requests):
        path = written(tmp_path, f"{url}/v1", "matrix: {prompt: a fox}\n", account)
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
    ((where, headers, body),) = requests
    assert where == "/v1/images/generations"
    assert "Authorization" not in headers
    assert json.loads(body) == {
        "model": "sd-turbo",
        "prompt": "a fox",
        "n": 1,
        "size": "1024x1024",
        "response_format": "b64_json",
    }


def test_a_rehearsal_speaks_the_same_protocol_and_asks_for_the_same_jobs(tmp_path):
    path = written(tmp_path, "http://127.0.0.1:9", prompts(3), ", models: [my-model]")
    done = batchgen("run", path, "--provider", "sandbox", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = check_invariant(tmp_path / "outputs" / "tried-sandbox")
    assert {(row["model"], row["width"], row["height"]) for row in rows} == {("my-model", "1024", "1024")}
    plan = json.loads(batchgen("plan", path, "--detailed", "--json", cwd=tmp_path).stdout)
    assert {row["job_id"] for row in rows} == {job["job_id"] for job in plan["listed"]}


def test_a_ledger_that_held_many_images_is_small_again_after_the_run(tmp_path):
    noise = BytesIO()
    Image.frombytes("RGB", (1024, 1024), os.urandom(3 * 1024 * 1024)).save(noise, "PNG", compress_level=0)
    with scripted(made(*[noise.getvalue()] * 4)) as (url, _):
        path = written(tmp_path, url, "matrix: {prompt: [a fox, an owl], n: 4}\n")
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
    assert len(check_invariant(output(tmp_path))) == 8
    assert (output(tmp_path) / "state.sqlite3").stat().st_size < 1_000_000
    assert ledger(tmp_path, "PRAGMA integrity_check") == [("ok",)]


# --- what is lost -----------------------------------------------------------------------------------------------


def test_a_lost_answer_is_held_as_unknown_and_only_the_user_sends_it_again(tmp_path):
    state = ("--state", str(tmp_path / "gateway.jsonl"))
    with sandbox("--faults", "drop_after=1", *state) as gateway:
        port = gateway.base_url.rpartition(":")[2]
        path = written(tmp_path, gateway.base_url, prompts(3))
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 1
        assert [row["status"] for row in rows_of(output(tmp_path), "failures.csv")] == ["unknown"] * 3
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        assert accepted_by(gateway) == 3
    with sandbox("--port", port, *state) as gateway:
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        assert accepted_by(gateway) == 3
        assert batchgen("run", path, "--retry-unknown", cwd=tmp_path).returncode == 0
        assert accepted_by(gateway) == 6
        assert len(check_invariant(output(tmp_path))) == 3


def test_an_answer_is_waited_for_as_long_as_the_account_says(tmp_path):
    with sandbox("--latency", "5") as gateway:
        path = written(tmp_path, gateway.base_url, prompts(1), ", request_timeout: 1")
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 1
        (row,) = rows_of(output(tmp_path), "failures.csv")
        assert row["status"] == "unknown"
        assert "did not answer in time" in row["message"]


def test_ctrl_c_waits_for_the_answer_that_nobody_could_be_asked_for_later(tmp_path):
    with sandbox("--latency", "6") as gateway:
        path = written(tmp_path, gateway.base_url, prompts(20, "run: {grace: 1s}\n"), ", limits: {concurrency: 2}")
        run = started("run", path, cwd=tmp_path)
        wait_for(lambda: accepted_by(gateway) == 2)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
        assert run.returncode == 130
        assert "Waiting for the answers of 2 creates, at most 600 s" in said
        assert "is marked unknown" in said or "marked `unknown`" in said
        assert accepted_by(gateway) == 2
        assert {status for (status,) in ledger(tmp_path, "SELECT status FROM job")} <= {"made", "done"}
    with scripted(made(IMAGE)) as (url, requests):  # what is made is fetched without asking anybody
        text = path.read_text(encoding="utf-8").replace(gateway.base_url, url)
        path.write_text(text, encoding="utf-8")
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        assert len(requests) == 18
    assert len(check_invariant(output(tmp_path))) == 20


def test_killed_at_any_step_after_the_answer_is_recorded_the_image_comes_unpaid(tmp_path):
    """An attempt that is killed before holds the job as unknown: the answer was never known."""

    def run(name, step, gateway):
        folder = tmp_path / name
        folder.mkdir()
        path = written(folder, gateway.base_url, f"matrix: {{prompt: a fox at step {step}}}\n")
        env = {"CRASH_AT": str(step), "CRASH_LOG": str(folder / "steps"), "PYTHONPATH": str(ROOT)}
        batchgen_at(folder, path, env)
        return folder, path, (folder / "steps").read_text(encoding="utf-8").splitlines()

    with sandbox("--latency", "0.01") as gateway:
        _, _, steps = run("clean", 0, gateway)
        answered = max(number for number, step in enumerate(steps, 1) if step == "received")
        recorded = next(n for n, step in enumerate(steps, 1) if n > answered and step == "after COMMIT")
        tried = range(answered, len(steps) + 1, 1 if os.environ.get("BATCHGEN_ALL_POINTS") else 3)
        assert len(tried) > 10
        for step in tried:
            folder, path, met = run(f"killed-{step}", step, gateway)
            done = batchgen("run", path, cwd=folder)
            rows = check_invariant(folder / "outputs" / "tried")
            if step >= recorded:
                assert (done.returncode, len(rows)) == (0, 1), (step, met[-1], done.stdout, done.stderr)
            else:
                assert (done.returncode, len(rows)) in {(0, 1), (1, 0)}, (step, met[-1])
        assert gateway.usage(tasks=False)["duplicates"]["requests"] == 0
        assert set(billed_by_job(gateway).values()) == {1}


def batchgen_at(folder, path, env):
    import subprocess
    import sys

    launcher = ROOT / "tests" / "support" / "crash_points.py"
    subprocess.run(
        [sys.executable, launcher, "run", path],
        cwd=folder,
        env=os.environ | KEY | env,
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_a_file_that_goes_missing_later_is_made_anew_only_when_told(tmp_path):
    with sandbox() as gateway:
        path = written(tmp_path, gateway.base_url, prompts(2))
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        (output(tmp_path) / rows_of(output(tmp_path))[0]["file_name"]).unlink()
        assert "which is paid again" in batchgen("plan", path, cwd=tmp_path).stdout
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        (row,) = rows_of(output(tmp_path), "failures.csv")
        assert row["status"] == "gone"
        assert "part of the gateway's answer" in row["message"]
        assert accepted_by(gateway) == 2
        assert batchgen("run", path, "--retry-failed", cwd=tmp_path).returncode == 0
        assert accepted_by(gateway) == 3


def test_a_link_that_has_expired_is_not_paid_for_again_unasked(tmp_path):
    with sandbox("--response-format", "url", "--faults", "expire=1") as gateway:  # six tries, ever further apart
        path = written(tmp_path, gateway.base_url, prompts(1))
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 1
        assert "--retry-failed" in done.stdout + done.stderr
        asked = gateway.usage(tasks=False)["requests"]
        assert (asked["create"], sum(asked["image"].values())) == ({"0": 1}, 6)
        assert "query" not in asked


def test_an_image_that_came_broken_inside_the_answer_is_said_at_once(tmp_path):
    with scripted(made(b"<html>no image</html>")) as (url, requests):
        path = written(tmp_path, url, prompts(1))
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        (row,) = rows_of(output(tmp_path), "failures.csv")
        assert row["status"] == "gone"
        assert "not an image" in row["message"]
        assert len(requests) == 1


def test_the_doctor_asks_for_the_models_which_is_free(tmp_path):
    with sandbox("--api-key-env", "SANDBOX_KEY", env=KEY) as gateway:
        path = written(tmp_path, gateway.base_url, prompts(1))
        done = batchgen("doctor", path, cwd=tmp_path)
        assert done.returncode == 0, done.stdout
        assert "the key is accepted" in done.stdout
        assert "whose answer was lost is marked `unknown`" in done.stdout
        path = written(tmp_path, f"{gateway.base_url}/elsewhere", prompts(1))
        done = batchgen("doctor", path, cwd=tmp_path)
        assert done.returncode != 0
        assert "no such API" in done.stdout
        assert accepted_by(gateway) == 0


# --- what is refused ---------------------------------------------------------------------------------------------


def test_a_prompt_against_the_policy_is_rejected_for_good(tmp_path):
    with sandbox() as gateway:
        path = written(tmp_path, gateway.base_url, "matrix: {prompt: [a fox, a forbidden-word, a policy-word]}\n")
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        rows = rows_of(output(tmp_path), "failures.csv")
        assert [(row["status"], row["code"]) for row in rows] == [
            ("rejected", "moderation_blocked"),
            ("rejected", "content_policy_violation"),
        ]
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        assert accepted_by(gateway) == 1


def test_an_empty_balance_stops_the_account_though_it_says_429(tmp_path):
    with sandbox("--balance", "2") as gateway:
        path = written(tmp_path, gateway.base_url, prompts(5), ", limits: {concurrency: 1}")
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 6
        assert "insufficient_quota" in done.stderr
        assert "credits" in done.stderr
        assert len(check_invariant(output(tmp_path))) == 2
        assert not rows_of(output(tmp_path), "failures.csv")


def test_a_wrong_key_stops_the_account_and_is_shown_nowhere(tmp_path):
    with sandbox("--api-key-env", "RIGHT", env={"RIGHT": "another-key-than-ours"}) as gateway:
        path = written(tmp_path, gateway.base_url, prompts(3))
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 6
        assert "invalid_api_key" in done.stderr
        assert accepted_by(gateway) == 0
    echo = (401, {"error": {"message": f"Incorrect API key provided: {KEY['SANDBOX_KEY']}.", "code": "x"}})
    with scripted(echo) as (url, _):
        path = written(tmp_path, url, prompts(3))
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 6
        everything = done.stdout + done.stderr
        assert KEY["SANDBOX_KEY"] not in everything
        assert KEY["SANDBOX_KEY"].encode() not in (output(tmp_path) / "state.sqlite3").read_bytes()


def test_a_model_that_the_gateway_has_not_fails_its_jobs_alone(tmp_path):
    text = "matrix: {prompt: a fox, model: [gpt-image-1, gpt-image-9]}\n"
    with sandbox() as gateway:
        path = written(tmp_path, gateway.base_url, text, ", models: [gpt-image-1, gpt-image-9]")
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        (row,) = rows_of(output(tmp_path), "failures.csv")
        assert (row["status"], row["code"]) == ("failed", "model_not_found")
        assert len(check_invariant(output(tmp_path))) == 1


@pytest.mark.parametrize(
    ("text", "account", "place", "words"),
    [
        ("matrix:\n  prompt: a\n  image: https://example.org/a.png\n", "", "7:", ["does not know `image`"]),
        ("matrix:\n  prompt: a\n  negative_prompt: b\n", "", "7:", ["does not know `negative_prompt`"]),
        ("matrix:\n  prompt: a\n  aspect_ratio: 16:9\n", "", "7:", ["no size for 16:9 at 1k", "1:1, 3:2 and 2:3"]),
        ("matrix:\n  prompt: a\n  resolution: 2k\n", "", "7:", ["no sizes for the resolution 2k", "sizes: {2k: {1:1"]),
        ("matrix:\n  prompt: a\n  model: kling-v1\n", "", "7:", ['no model "kling-v1"', "gpt-image-1"]),
        ("matrix:\n  prompt: a\n", ", models: [one, two]", "6:", ["No model is given", "one and two"]),
        ("matrix:\n  prompt: a\n", ", sizes: {1k: {1:1: big}}", "4:", ["sizes"]),
    ],
)
def test_what_the_account_cannot_do_is_said_at_its_line_before_anything_is_sent(tmp_path, text, account, place, words):
    path = written(tmp_path, "http://127.0.0.1:9", text, account)
    done = batchgen("validate", path, cwd=tmp_path)
    assert done.returncode == 2
    said = done.stdout + done.stderr
    assert f"manifest.yaml:{place}" in said, said
    assert all(word in said for word in words), said


def test_what_the_account_does_not_know_is_said_once_each(tmp_path):
    text = "matrix:\n  prompt: a\n  image: https://example.org/a.png\n  negative_prompt: b\n  image_fidelity: 0.5\n"
    done = batchgen("validate", written(tmp_path, "http://127.0.0.1:9", text), cwd=tmp_path)
    assert (done.stdout + done.stderr).count("error:") == 3


def test_tokens_are_not_for_this_protocol(tmp_path):
    account = ", auth: jwt, access_key_env: SANDBOX_KEY, secret_key_env: SANDBOX_KEY"
    path = written(tmp_path, "http://127.0.0.1:9", prompts(1), account)
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 2
    assert "auth: api_key" in done.stderr


# --- the meaning of answers --------------------------------------------------------------------------------------


def answer(status, body, **headers):
    return Answer(status=status, headers=headers, body=body if isinstance(body, bytes) else json.dumps(body).encode())


def test_links_and_images_of_every_spelling_are_found_and_an_empty_entry_is_left_out():
    data = [
        {"url": "http://a/1.png"},
        {},
        {"b64_json": "QUJD", "url": None},
        {"b64_json": "data:image/png;base64,QUJD"},
    ]
    task = task_from(answer(200, {"created": 1_800_000_000, "data": data}), "bg-x-1")
    urls = ["http://a/1.png", "data:;base64,QUJD", "data:image/png;base64,QUJD"]
    assert [(link.index, link.url) for link in task.links] == list(enumerate(urls))
    assert task.id == "bg-x-1@1800000000"


@pytest.mark.parametrize("created", [None, "soon", -1, 1e300, float("nan"), True])
def test_a_task_is_named_also_where_the_answer_gives_no_time(created):
    task = task_from(answer(200, {"created": created, "data": [{"url": "http://a"}]}), "bg-x-1")
    assert task.id.startswith("bg-x-1")


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://api.openai.com", "https://api.openai.com/v1"),
        ("http://127.0.0.1:1234/v1", "http://127.0.0.1:1234/v1"),
        ("https://example.org/api/v3", "https://example.org/api/v3"),
        ("https://example.org/openai", "https://example.org/openai/v1"),
    ],
)
def test_an_address_may_name_the_version_or_not(base_url, url):
    assert versioned(base_url) == url
