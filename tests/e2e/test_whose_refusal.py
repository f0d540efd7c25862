"""Whose refusal it was, the job's or the account's: shown by whether the account accepts others meanwhile."""

from __future__ import annotations

import pytest
from account_manifest import kapon, statuses, unasked, written
from aiohttp import web
from command import batchgen, prompts
from output_checks import check_invariant, rows_of
from recorder import Recorder, Reply
from scripted_gateway import ScriptedGateway

FIREWALL = b"<html><head><style>p {}</style><title>Blocked</title></head><body>Request blocked by WAF</body></html>"
ONE_BY_ONE = {"concurrency": 1}


@pytest.fixture
def gateway():
    with ScriptedGateway(latency=0.0) as running:
        yield running


def output(folder):
    return folder / "outputs" / "tried"


def blocked(*numbers):
    """A firewall that minds these prompts."""

    def answer(call):
        if int(call.body["prompt"].split()[-1]) in numbers:
            return web.Response(status=403, body=FIREWALL, content_type="text/html")
        return None

    return answer


# --- refusals of the account that fit one job ----------------------------------------------------------------


def error(status, kind, code=None):
    body = web.json_response({"error": {"message": f"no: {kind}", "type": kind, "param": None, "code": code}}).body
    return Reply(status=status, body=bytes(body), headers={"Content-Type": "application/json"})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (422, "budget_exceeded"),
        (400, "budget_exceeded"),
        (400, "no_db_connection"),
        (400, "expired_key"),
        (400, "auth_error"),
        (400, "a_refusal_that_nobody_knows"),
    ],
)
def test_a_refusal_of_litellm_stops_the_account_and_fails_nobody(tmp_path, status, kind):
    with Recorder(emulate="openai") as recorder:
        recorder.answers["create"] = lambda _: error(status, kind, str(status))
        path = written(tmp_path, prompts(30), **unasked(recorder, "openai"))
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 6, done.stdout + done.stderr
        assert kind in done.stderr
        assert set(statuses(tmp_path)) == {"pending"}
        recorder.clear()
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        assert len(check_invariant(output(tmp_path))) == 30


@pytest.mark.parametrize("kind", ["no_db_connection", "expired_key", "budget_exceeded", "a_new_one"])
def test_doctor_is_not_ready_to_run_where_even_the_free_question_is_refused(tmp_path, kind):
    with Recorder(emulate="openai") as recorder:
        recorder.answers |= dict.fromkeys(("models", "other", "query", "list"), lambda _: error(400, kind, "400"))
        path = written(tmp_path, prompts(1), **unasked(recorder, "openai"))
        done = batchgen("doctor", path, cwd=tmp_path)
        assert done.returncode == 1, done.stdout
        assert kind in done.stdout


def test_the_same_refusal_of_jobs_under_way_together_stops_the_account(tmp_path, gateway):
    gateway.answers["create"] = lambda _: gateway.no(400, 1201, "parameters")
    done = batchgen("run", written(tmp_path, prompts(6), **kapon(gateway)), cwd=tmp_path)
    assert done.returncode == 6, done.stdout + done.stderr
    assert set(statuses(tmp_path)) == {"pending"}


def test_the_same_refusal_of_many_jobs_stops_the_account_after_a_handful(tmp_path, gateway):
    gateway.answers["create"] = lambda _: gateway.no(400, 1201, "parameters")
    path = written(tmp_path, prompts(40), **kapon(gateway, limits=ONE_BY_ONE))
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 6, done.stdout + done.stderr
    assert gateway.count("create") == 5
    assert set(statuses(tmp_path)) == {"pending"}
    assert "parameters" in done.stderr


def test_refusals_with_accepted_creates_between_are_the_jobs_own(tmp_path, gateway):
    def every_second(call):
        return gateway.no(400, 1201, "parameters") if int(call.body["prompt"].split()[-1]) % 2 else None

    gateway.answers["create"] = every_second
    path = written(tmp_path, prompts(20), **kapon(gateway, limits=ONE_BY_ONE))
    assert batchgen("run", path, cwd=tmp_path).returncode == 1
    assert statuses(tmp_path) == {"done": 10, "failed": 10}
    assert gateway.count("create") == 20


def test_fewer_than_a_handful_fail_when_nothing_else_is_to_do(tmp_path, gateway):
    gateway.answers["create"] = lambda _: gateway.no(400, 1201, "parameters")
    path = written(tmp_path, prompts(4), **kapon(gateway))
    assert batchgen("run", path, cwd=tmp_path).returncode == 1
    assert statuses(tmp_path) == {"failed": 4}
    assert {row["code"] for row in rows_of(output(tmp_path), "failures.csv")} == {"1201"}
    assert gateway.count("create") == 4


def test_a_refusal_for_the_content_is_rejected_however_many_meet_it(tmp_path, gateway):
    gateway.answers["create"] = lambda _: gateway.no(400, 1301, "content safety")
    path = written(tmp_path, prompts(12), **kapon(gateway))
    assert batchgen("run", path, cwd=tmp_path).returncode == 1
    assert statuses(tmp_path) == {"rejected": 12}


def test_a_model_that_is_not_allowed_fails_its_jobs_and_the_others_are_made(tmp_path, gateway):
    def not_allowed(call):
        return gateway.no(403, 1103, "no permission") if call.body["model_name"] == "kling-v1" else None

    gateway.answers["create"] = not_allowed
    text = prompts(8, "  model: [kling-v1, kling-v2-1]\n")
    assert batchgen("run", written(tmp_path, text, **kapon(gateway)), cwd=tmp_path).returncode == 1
    assert statuses(tmp_path) == {"done": 8, "failed": 8}


# --- pages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 9])
def test_a_prompt_that_a_firewall_blocks_costs_that_job_alone(tmp_path, gateway, concurrency):
    gateway.answers["create"] = blocked(3)
    path = written(tmp_path, prompts(20), **kapon(gateway, limits={"concurrency": concurrency}))
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert statuses(tmp_path) == {"done": 19, "failed": 1}
    (failure,) = rows_of(output(tmp_path), "failures.csv")
    assert "Request blocked by WAF" in failure["message"]
    assert "<" not in failure["message"]
    creates = [call.body["prompt"] for call in gateway.of("create")]
    assert creates[-1] == "prompt number 3"  # at the end of the queue it was tried once more
    assert creates.count("prompt number 3") == 2


def test_it_stays_one_job_in_later_runs_and_is_tried_again_for_free(tmp_path, gateway):
    gateway.answers["create"] = blocked(3)
    path = written(tmp_path, prompts(6), **kapon(gateway))
    assert batchgen("run", path, cwd=tmp_path).returncode == 1
    assert batchgen("run", path, "--retry-failed", cwd=tmp_path).returncode == 1
    assert statuses(tmp_path) == {"done": 5, "failed": 1}
    gateway.answers.clear()
    assert batchgen("run", path, "--retry-failed", cwd=tmp_path).returncode == 0
    assert set(gateway.billed_by_job().values()) == {1}


@pytest.mark.parametrize("status", [403, 404, 405, 302])
def test_a_page_to_everybody_stops_the_account_and_fails_nobody(tmp_path, gateway, status):
    gateway.answers["create"] = lambda _: web.Response(status=status, body=FIREWALL, content_type="text/html")
    for number, more in ((30, ""), (2, "")):
        path = written(tmp_path, prompts(number, more), **kapon(gateway, limits=ONE_BY_ONE))
        before = gateway.count("create")
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 6, done.stdout + done.stderr
        assert "base_url" in done.stderr
        assert set(statuses(tmp_path)) == {"pending"}
        assert gateway.count("create") - before <= 5


# --- the end of a task ---------------------------------------------------------------------------------------------


def ended(status, words):
    def answer(call):
        if call.task is None or not call.task.prompt.endswith(" 1"):
            return None
        data = call.gateway.view(call.task, links=False) | {"task_status": status, "task_status_msg": words}
        return call.gateway.yes(data)

    return answer


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("failed", "Failure to pass the risk control system"),
        ("failed", "1301: content safety"),
        ("failed", "触发平台内容风控"),
        ("rejected", ""),
    ],
)
def test_a_task_that_policy_ends_is_rejected_and_paid_once(tmp_path, gateway, status, words):
    gateway.answers["query"] = ended(status, words)
    path = written(tmp_path, prompts(3), **kapon(gateway))
    assert batchgen("run", path, cwd=tmp_path).returncode == 1
    assert statuses(tmp_path) == {"done": 2, "rejected": 1}
    assert set(gateway.creates_by_job().values()) == {1}


@pytest.mark.parametrize("words", ["internal error", "content moderation service unavailable, try again", ""])
def test_a_task_that_fails_for_another_reason_gets_its_attempts(tmp_path, gateway, words):
    gateway.answers["query"] = ended("failed", words)
    path = written(tmp_path, prompts(3, "run: {max_attempts: 2}\n"), **kapon(gateway))
    assert batchgen("run", path, cwd=tmp_path).returncode == 1
    assert statuses(tmp_path) == {"done": 2, "failed": 1}
    assert sorted(gateway.creates_by_job().values()) == [1, 1, 2]


@pytest.mark.parametrize("status", ["canceled", "Cancelled", "timeout", "timed-out", "expired", "deleted", "error"])
def test_a_word_for_an_end_ends_the_waiting(tmp_path, gateway, status):
    gateway.answers["query"] = ended(status, "")
    path = written(tmp_path, prompts(3, "run: {max_attempts: 1}\n"), **kapon(gateway))
    assert batchgen("run", path, cwd=tmp_path).returncode == 1
    assert statuses(tmp_path) == {"done": 2, "failed": 1}


def test_a_word_that_nobody_knows_is_said_and_ends_with_the_time_for_a_task(tmp_path, gateway):
    gateway.answers["query"] = ended("on_holiday", "")
    path = written(tmp_path, prompts(3, "run: {task_timeout: 4s}\n"), **kapon(gateway))
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.count("'on_holiday'") == 1
    assert "run.task_timeout" in done.stdout
    assert statuses(tmp_path) == {"done": 2, "submitted": 1}


# --- throttling never fails a job -------------------------------------------------------------------------------------


def test_what_uses_up_no_attempt_fails_no_job_however_few_are_left(tmp_path, gateway):
    """One attempt has failed, then fewer are allowed: a refusal for now is still no attempt."""
    gateway.answers["query"] = ended("failed", "internal error")
    gateway.answers["create"] = lambda call: gateway.no(401, 1002) if call.number == 2 else None
    text = "matrix: {prompt: [number 1]}\n"
    assert batchgen("run", written(tmp_path, text, **kapon(gateway)), cwd=tmp_path).returncode == 6
    assert statuses(tmp_path) == {"pending": 1}
    del gateway.answers["query"]
    gateway.answers["create"] = lambda call: gateway.no(429, 1302) if call.number == 3 else None
    path = written(tmp_path, text + "run: {max_attempts: 1}\n", **kapon(gateway))
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    assert statuses(tmp_path) == {"done": 1}


# --- what a question's page says about a task ------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"404 page not found\n", b'{"detail":"Not Found"}', b"<h1>404 Not Found</h1>", b""])
def test_a_proxys_404_is_no_proof_that_a_create_was_not_accepted(tmp_path, gateway, body):
    """Create taken, its answer cut; the proxy knows no path below it for a while. Paid once."""

    def taken_and_cut(call):
        call.store()
        return call.cut()

    gateway.answers["create"] = lambda call: taken_and_cut(call) if call.number == 1 else None
    gateway.answers["query"] = lambda call: web.Response(status=404, body=body) if call.number <= 4 else None
    path = written(tmp_path, prompts(2), **kapon(gateway))
    batchgen("run", path, cwd=tmp_path)
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(gateway.billed_by_job().values()) == {1}
