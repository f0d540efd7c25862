"""What is not verified is not believed, what is in hand is not dropped: the attacks that once went through.

Each test is one lie of a gateway, a proxy or a disk, told to the real command. `Witness.run` checks after every run
that nothing was paid twice, that each picture is its job's, and that exit 0 means that everything is there; each
test says besides what is to become of the jobs, and that the lie was told at all.
"""

from __future__ import annotations

import asyncio
import shutil
from functools import partial

import pytest
from aiohttp import web
from command import batchgen
from lying_gateway import FOR_EVER, REFUSALS, Lies, LyingGateway
from output_checks import rows_of
from witness import Witness

HONEST = Lies()
LOST = Lies(lost=1)
SOME_LOST = Lies(seed=15, lost=0.5)  # four of nine prompts, the first not among them
FEW = 12  # jobs of an account whose creates' outcome cannot be known, before it is left alone


@pytest.fixture
def gateway():
    with LyingGateway() as running:
        yield running


@pytest.fixture
def witness(tmp_path, gateway):
    return Witness(tmp_path, gateway)


@pytest.fixture
def no_list(witness):
    """An account that can only be asked by the caller's id."""
    return partial(witness.write, lists_tasks="no")


@pytest.fixture
def only_list(witness):
    return partial(witness.write, lookup_by_external_id="no", lists_tasks="yes")


def with_lies(lies, **more):
    return Lies(**{name: getattr(lies, name) for name in lies.__slots__} | more)


def held_then_resolved(witness, *, doubtful, timeout=60.0):
    """The lost ones are held, said to be unknown and asked about again for free, once the gateway tells the truth."""
    code = witness.run(timeout=timeout).returncode
    assert set(witness.failures().values()) <= {"unknown"}
    assert witness.gateway.struck["lost"] >= doubtful
    if code in {0, 1}:  # else it was stopped before their question had its answer
        assert code == int(bool(witness.failures()))
        witness.check_nothing_is_lost()
    witness.gateway.lies = HONEST
    witness.all_there()


# --- 1 to 3: an absence that nobody checked ----------------------------------------------------------------


@pytest.mark.parametrize("lies", [LOST, SOME_LOST], ids=["all answers", "some answers"])
def test_a_look_up_that_never_finds_makes_nobody_pay_twice(gateway, witness, no_list, lies):
    gateway.lies = with_lies(lies, finds="never")
    no_list(9)
    held_then_resolved(witness, doubtful=2)
    assert gateway.struck["finds_never"] > 0


def test_a_look_up_that_never_finds_is_no_obstacle_where_the_list_shows_the_tasks(gateway, witness):
    gateway.lies = with_lies(SOME_LOST, finds="never")
    witness.write(9, lists_tasks="yes")
    witness.all_there(runs=2)
    assert gateway.struck["finds_never"] > 0


def test_a_look_up_that_finds_its_control_is_believed(gateway, witness, no_list):
    """The other side: what certainly did not arrive is sent again, in the same run."""
    gateway.lies = with_lies(SOME_LOST, never_arrived=1)
    no_list(9)
    witness.all_there(runs=1)
    assert gateway.struck["never_arrived"] >= 2


def test_a_look_up_that_knows_only_ended_tasks_is_no_proof(gateway, witness, no_list):
    gateway.lies = with_lies(SOME_LOST, finds="ended", slow=1)
    no_list(9, run=", task_timeout: 6s")
    witness.run()
    assert gateway.struck["finds_ended"] > 0
    gateway.lies = HONEST
    witness.all_there()


@pytest.mark.parametrize("lies", [LOST, SOME_LOST], ids=["all answers", "some answers"])
def test_a_404_page_of_a_proxy_is_not_the_gateways_word(gateway, witness, no_list, lies):
    gateway.lies = with_lies(lies, finds="proxy")
    no_list(4 if lies is LOST else 9)
    held_then_resolved(witness, doubtful=2, timeout=12.0)
    assert gateway.struck["finds_proxy"] > 0


def test_a_404_page_is_not_the_gateways_word_even_while_others_are_found(gateway, witness, no_list):
    gateway.lies = SOME_LOST
    lost = set()

    def page_for_the_lost(call):
        if call.by_own_id and call.task and gateway.of("create")[0].body["external_task_id"] != call.name:
            lost.add(call.task.prompt)
            return gateway.page_of_text(404)
        return gateway._query(call)

    gateway.answers["query"] = page_for_the_lost
    no_list(9)
    witness.run(timeout=12.0)
    assert lost
    gateway.answers["query"] = gateway._query
    witness.all_there()


def test_a_look_up_that_answers_with_another_task_adopts_none(gateway, witness, no_list):
    gateway.lies = with_lies(SOME_LOST, finds="other")
    no_list(9)
    held_then_resolved(witness, doubtful=2)
    assert gateway.struck["finds_other"] > 0


LISTS = {
    "in seconds": Lies(clock="s", page_cap=3),
    "hours behind": Lies(clock="behind", page_cap=3),
    "hours ahead": Lies(clock="ahead", page_cap=3),
    "oldest first": Lies(order="oldest", page_cap=40),
    "unsorted": Lies(order="shuffled", page_cap=10),
    "with empty pages": Lies(gaps=True, page_cap=2),
    "hides ids of running tasks": Lies(hides="ids"),
    "hides running tasks": Lies(hides="tasks"),
    "without ids": Lies(ids="none"),
    "ids in upper case": Lies(ids="upper"),
    "ids cut short": Lies(ids="cut"),
    "lags": Lies(lag=3600.0),
}


@pytest.mark.parametrize("habit", LISTS.values(), ids=LISTS)
def test_a_list_that_is_not_as_described_is_no_proof_of_absence(gateway, witness, only_list, habit):
    gateway.remember(60, seconds=7200)  # which fills an oldest-first or unsorted list's first pages
    gateway.lies = with_lies(habit, seed=SOME_LOST.seed, lost=SOME_LOST.lost, slow=int(bool(habit.hides)))
    only_list(9, run=", task_timeout: 6s")
    witness.run()
    assert gateway.count("list") > 0
    assert gateway.struck["lost"] >= 2
    gateway.lies = HONEST
    witness.all_there()


# --- 4: who asks is not who sent ---------------------------------------------------------------------------


def in_the_air(witness, at_least):
    """A run that is killed when so many creates are accepted and none is answered."""
    witness.gateway.lies = Lies(lost=1, lost_by="silence")
    witness.killed_when(lambda: len(witness.gateway.billed()) >= at_least)
    witness.gateway.lies = HONEST


def test_another_key_does_not_see_the_first_ones_tasks_and_pays_for_none_again(gateway, witness, no_list, monkeypatch):
    no_list(8)
    in_the_air(witness, 8)
    gateway.lies = Lies(per_key=True)
    monkeypatch.setenv("OTHER_KEY", "another-key-for-tests")
    no_list(8, api_key_env="OTHER_KEY")
    witness.run()
    assert gateway.struck["per_key"] > 0 or gateway.count("create") == 8
    witness.check_nothing_is_lost()
    no_list(8)
    witness.all_there()


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "held"])
def test_an_account_that_learns_to_look_up_finds_nothing_that_was_sent_without_an_id(gateway, witness, no_list, killed):
    witness.write(7, use="anyapi")
    if killed:
        in_the_air(witness, 1)
    else:
        gateway.lies = LOST
        witness.run()
    gateway.lies = HONEST
    no_list(7)
    for _ in range(2):
        assert witness.run().returncode == 1
    assert set(witness.failures().values()) == {"unknown"}
    assert len(gateway.billed()) >= 1


def test_retry_unknown_sends_a_job_again_that_has_no_attempt_left(gateway, witness):
    gateway.lies = Lies(lost=1, never_arrived=1)
    witness.write(1, use="anyapi", run=", max_attempts: 1")
    witness.run()
    assert set(witness.failures().values()) == {"unknown"}
    gateway.lies = HONEST
    assert witness.run("--retry-unknown").returncode == 0


# --- 5: from when time counts ------------------------------------------------------------------------------


def test_a_create_is_waited_for_from_the_end_of_its_exchange(gateway, witness, no_list):
    """The proxy's 504 comes when the time would be over, if it were counted from the sending."""
    gateway.lies = with_lies(SOME_LOST, lost_by="504", lost_after=4.0, accepted_after=3.4)
    no_list(9, visibility_delay=4.0)
    witness.all_there(runs=1)
    assert gateway.struck["lost"] >= 2


def test_after_a_crash_a_create_is_waited_for_from_the_restart(gateway, witness, no_list):
    accepted = {}

    def accepted_after_the_first_question(call):
        if call.by_own_id and call.name in bodies and call.name not in accepted:
            accepted[call.name] = call
            call.body = bodies[call.name]
            call.store_after(3.2)
        return gateway._query(call)

    no_list(3, visibility_delay=4.0)
    gateway.lies = Lies(lost=1, never_arrived=1, lost_by="silence")
    witness.shifted(-60, kill_when=lambda: gateway.count("create") == 3)
    bodies = {call.body["external_task_id"]: call.body for call in gateway.of("create")}
    gateway.lies = HONEST
    gateway.answers["query"] = accepted_after_the_first_question
    witness.all_there()
    assert len(accepted) == 3


# --- 6 and 7: what stands between --------------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted(REFUSALS))
def test_a_refusal_of_a_repeated_creates_second_copy_is_asked_about(gateway, witness, no_list, code):
    gateway.lies = Lies(seed=15, repeated=0.5, second_copy=code)
    no_list(9)
    witness.all_there()
    assert gateway.struck["repeated"] >= 2


def test_questions_pass_by_a_cache(gateway, witness, no_list):
    """A 404 from before the create was accepted is kept by the cache; asked past it, the gateway knows better."""
    gateway.lies = with_lies(SOME_LOST, finds="cached", accepted_after=0.6)
    no_list(9, visibility_delay=2.0)
    witness.all_there(runs=1)
    assert gateway.struck["lost"] >= 2


def test_another_creates_answer_is_not_this_ones(gateway, witness, no_list):
    gateway.lies = Lies(seed=15, mixed_up=0.5)
    no_list(9)
    witness.all_there()
    assert gateway.struck["mixed_up"] >= 2


# --- 8 to 11: what a gateway has not yet, or has no more ----------------------------------------------------


def test_retry_failed_remakes_no_task_of_its_own_run(gateway, witness, no_list):
    gateway.lies = Lies(forgets=4)
    no_list(4)
    witness.run("--retry-failed")
    gateway.lies = HONEST
    witness.all_there()


def test_retry_failed_remakes_no_image_whose_link_is_late(gateway, witness, no_list):
    gateway.lies = Lies(image_refusals=6)
    no_list(4)
    witness.run("--retry-failed")
    assert gateway.struck["image_refusals"] >= 6
    witness.all_there()


def test_images_that_were_refused_for_a_while_long_after_their_task_are_asked_for_again(gateway, witness, no_list):
    gateway.lies = Lies(image_refusals=1000)
    no_list(4)
    witness.shifted(-7200)
    witness.run()
    assert gateway.struck["image_refusals"] > 8
    gateway.lies = HONEST
    witness.all_there()
    assert gateway.count("create") == 4


def test_a_list_with_fewer_links_than_images_is_asked_about_singly(gateway, witness):
    gateway.latency = 1.0
    gateway.lies = Lies(list_links=1)
    witness.write(6, n=3, lists_tasks="yes", limits={"concurrency": 18})
    witness.all_there(runs=1)
    assert gateway.count("list") > 0


def test_links_that_come_later_are_asked_for_in_later_runs_before_anything_is_paid(gateway, witness, no_list):
    gateway.lies = Lies(fewer=1000)
    no_list(3, n=3)
    witness.run()
    assert gateway.struck["fewer"] >= 3
    gateway.lies = HONEST
    witness.all_there(runs=2)
    assert gateway.count("create") == 3


def test_a_refusal_that_uses_up_no_attempt_ends_no_job(gateway, witness, no_list):
    """One attempt has failed already, and no more than one may."""

    def failed(call):
        told = {"task_status": "failed", "task_status_msg": "try again"}
        return gateway.yes(gateway.view(call.task) | told) if call.task else gateway._query(call)

    gateway.answers["query"] = failed
    gateway.answers["create"] = lambda call: (
        gateway.no(429, 1102, "empty") if call.number > 1 else gateway._create(call)
    )
    no_list(1, run=", max_attempts: 2")
    witness.run()
    for task in gateway.tasks.values():
        task.is_refused = True  # a failed task is not charged
    gateway.answers["query"] = gateway._query
    refused = gateway.count("create") + 2
    gateway.answers["create"] = lambda call: gateway.no(429, 1303) if call.number <= refused else gateway._create(call)
    no_list(1, run=", max_attempts: 1")
    witness.run()
    assert "failed" not in witness.failures().values()
    witness.all_there()


def test_a_task_refused_by_policy_is_rejected_and_not_made_again(gateway, witness, no_list):
    gateway.lies = Lies(seed=15, policy=0.5)
    no_list(6)
    for _ in range(2):
        assert witness.run().returncode == 1
    refused = {task.prompt for task in gateway.tasks.values() if task.is_refused}
    assert 1 <= len(refused) <= 5
    assert witness.failures() == dict.fromkeys(refused, "rejected")
    assert gateway.count("create") == 6


# --- 12, 27, 28, 31: what concerns the account, and what the job ---------------------------------------------


def assert_paused(witness, done, *, code=3, held=0):
    """Stopped for the account's sake, with a sentence; nobody's attempt is used up, and few are in doubt."""
    failures = witness.failures()
    assert done.returncode == code, (done.returncode, done.stderr, failures)
    assert set(failures.values()) <= {"unknown"}, failures
    assert len(failures) <= held, failures
    assert done.stderr.strip()


def test_an_outage_of_the_gateway_uses_up_nobodys_attempts(gateway, witness, no_list):
    gateway.lies = Lies(outage=(0, FOR_EVER))
    no_list(20, run=", max_attempts: 2")
    done = witness.run()
    assert_paused(witness, done, held=FEW)
    assert "503" in done.stderr
    gateway.lies = HONEST
    done = witness.runs()
    assert set(witness.failures().values()) <= {"unknown"}
    assert len(witness.delivered()) >= 20 - FEW


def test_an_outage_in_the_middle_ends_and_the_run_goes_on(gateway, witness, no_list):
    gateway.lies = Lies(outage=(5, 1.5))
    no_list(20, run=", max_attempts: 2", visibility_delay=0)  # one that is lost alone is an attempt like any other
    witness.run()
    assert gateway.struck["outage"] > 0
    witness.all_there()


def test_an_outage_at_an_account_that_cannot_be_asked_leaves_a_handful_unknown(gateway, witness):
    gateway.answers["create"] = lambda _: gateway.page_of_text(502)
    witness.write(60, use="anyapi")
    assert_paused(witness, witness.run(), held=FEW)
    gateway.answers["create"] = gateway._create
    witness.runs(2)
    assert len(witness.delivered()) >= 60 - FEW


def test_what_a_proxy_says_never_reached_the_gateway_is_not_sent(gateway, witness):
    gateway.answers["create"] = lambda _: web.Response(status=503, text="no healthy upstream")
    witness.write(20, use="anyapi")
    assert_paused(witness, witness.run())
    gateway.answers["create"] = gateway._create
    witness.all_there()


SPENT = {
    "budget": (422, {"error": {"message": "Budget has been exceeded! Max: 1.0", "type": "budget_exceeded"}}),
    "no database": (400, {"error": {"message": "No connected db.", "type": "no_db_connection", "code": "400"}}),
    "key expired": (400, {"error": {"message": "Authentication Error - Expired Key", "type": "expired_key"}}),
    "unheard of": (400, {"error": {"message": "Your plan does not include this any more", "type": "plan_q7"}}),
}


@pytest.mark.parametrize(("status", "body"), SPENT.values(), ids=SPENT)
def test_a_refusal_that_meets_everybody_is_the_accounts(gateway, witness, no_list, status, body):
    gateway.answers["create"] = lambda _: web.json_response(body, status=status)
    no_list(20)
    assert_paused(witness, witness.run(), code=6)
    gateway.answers["create"] = gateway._create
    witness.all_there()


def test_a_refusal_that_meets_some_jobs_is_theirs(gateway, witness, no_list):
    """The other side: a parameter that is wrong for every second job ends those, and no others."""
    gateway.answers["create"] = lambda call: (
        gateway.no(400, 1201, "bad") if int(call.body["prompt"][-2:]) % 2 else gateway._create(call)
    )
    no_list(20)
    assert witness.run().returncode == 1
    assert set(witness.failures().values()) == {"failed"}
    assert len(witness.failures()) == len(witness.delivered()) == 10


@pytest.mark.parametrize("answer", ["403", "302", "401"])
def test_a_firewalls_page_for_one_prompt_concerns_that_job(gateway, witness, no_list, answer):
    def firewall(call):
        if call.body["prompt"] != "prompt number 3":
            return gateway._create(call)
        page = gateway.page_of_text(int(answer))
        page.headers["Location"] = "/blocked"
        return page

    gateway.answers["create"] = firewall
    no_list(27)
    done = witness.run()
    assert done.returncode != 0
    assert witness.delivered() == set(witness.prompts) - {"prompt number 3"}
    assert gateway.creates("prompt number 3") <= 6


def test_a_firewalls_page_for_every_prompt_is_the_accounts(gateway, witness, no_list):
    gateway.answers["create"] = lambda _: gateway.page_of_text(403)
    no_list(27)
    done = witness.run()
    assert done.returncode in {3, 6}
    assert witness.failures() == {}
    assert gateway.count("create") < 27
    gateway.answers["create"] = gateway._create
    witness.all_there()


# --- 14 to 24: what is in hand -----------------------------------------------------------------------------


def test_what_arrived_while_we_were_stopped_is_read_before_a_time_out_counts(gateway, witness):
    """At an account that cannot be asked: what is not read is lost."""
    gateway.answers["create"] = partial(answered_after, 0.5)
    witness.write(9, use="anyapi", request_timeout=1)
    done = witness.stopped_for(1.6, when=lambda: gateway.count("create") == 9)
    assert len(gateway.billed()) == 9
    assert done.returncode == 0, (witness.failures(), done.stderr)


async def answered_after(seconds, call):
    await asyncio.sleep(seconds)
    return await call.gateway._create(call)


@pytest.mark.parametrize("manner", ["emptied", "not there"])
def test_images_that_go_away_and_come_back_are_taken_back(gateway, witness, no_list, manner):
    no_list(5)
    witness.all_there(runs=1)
    images, away = witness.root / "images", witness.folder / "away"
    images.rename(away)
    if manner == "emptied":
        images.mkdir()
    gateway.answers["image"] = lambda _: web.Response(status=404)
    gateway.answers["query"] = lambda _: gateway.no(404, 1203)
    done = batchgen("run", witness.path, cwd=witness.folder)
    assert done.returncode in {1, 3}, done.stderr
    if images.exists():
        assert not [path for path in images.rglob("*") if path.is_file()]
        shutil.rmtree(images)
    away.rename(images)
    assert witness.run().returncode == 0
    assert gateway.count("create") == 5


def test_a_file_that_comes_back_with_other_pixels_is_not_taken(gateway, witness, no_list):
    no_list(2)
    witness.all_there(runs=1)
    first, second = (witness.root / row["file_name"] for row in witness.rows())
    first.unlink()
    gateway.answers["image"] = lambda _: web.Response(status=404)
    gateway.answers["query"] = lambda _: gateway.no(404, 1203)
    assert witness.run().returncode != 0
    first.write_bytes(second.read_bytes())
    assert batchgen("run", witness.path, cwd=witness.folder).returncode != 0
    assert len(rows_of(witness.root)) == 1
    assert batchgen("verify", witness.path, cwd=witness.folder).returncode == 1
    assert gateway.count("create") == 2


ORDERS = {
    "one at first": Lies(fewer=1, shuffled=True),
    "one for long": Lies(fewer=2),
    "another one each time": Lies(fewer=3, shuffled=True, image_refusals=1),
    "turned": Lies(shuffled=True, image_refusals=1),
}


@pytest.mark.parametrize("lies", ORDERS.values(), ids=ORDERS)
def test_links_in_another_order_each_time_are_told_apart_by_their_own_index(gateway, witness, no_list, lies):
    gateway.lies = lies
    no_list(3, n=3)
    witness.all_there()


def test_an_answer_about_another_job_is_refused_by_its_id(gateway, witness, no_list):
    gateway.lies = Lies(foreign=2)
    no_list(6)
    witness.all_there()
    assert gateway.struck["foreign"] > 0


def test_an_image_that_the_sandbox_painted_is_none_of_a_real_account(witness, no_list):
    no_list(4, provider="sandbox")
    assert batchgen("run", witness.path, cwd=witness.folder).returncode == 0
    painted = {row["sha256"] for row in witness.rows()}
    assert len(painted) == 4
    no_list(4)
    witness.all_there(runs=1)
    assert {row["provider"] for row in witness.rows()} == {"local"}
    assert not painted & {row["sha256"] for row in witness.rows()}
