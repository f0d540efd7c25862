"""The contract of every account profile with its gateway, III: what a whole run makes of each answer.

Which job ends how, how the command ends, what stops, and what the gateway bills.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import pytest
from output_checks import check_invariant, rows_of
from provider_cases import of_cases
from recorder import Reply

from batchgen.cli.main import main
from batchgen.engine import poller
from batchgen.errors import AccountStopped, JobRefused, JobRejected, PageReceived, Throttled, Unclear

# A run of the account `sandbox` is one of `kapon`, from the same code on.
every = of_cases(lambda case: case.profile != "sandbox")
asked = of_cases(lambda case: case.profile != "sandbox" and case.asks)
askable = of_cases(lambda case: case.profile != "sandbox" and case.asks_by_own_id)
listing = of_cases(lambda case: case.profile != "sandbox" and case.lists)


@dataclass
class Command:
    """The command on a manifest of the case's account, in this folder."""

    case: object
    recorder: object
    folder: object
    capsys: object

    def write(self, prompts, more="", **changes):
        accounts = json.dumps({"local": self.case.settings(self.recorder, **changes)})
        matrix = json.dumps({"prompt": list(prompts)})
        text = f"version: 1\nname: tried\nprovider: local\nproviders: {accounts}\nmatrix: {matrix}\n{more}"
        (self.folder / "manifest.yaml").write_text(text, encoding="utf-8")

    def run(self, *words):
        code = main(["run", str(self.folder / "manifest.yaml"), *words])
        said = self.capsys.readouterr()
        self.said = said.out + said.err
        assert "Traceback" not in self.said
        return code

    @property
    def output(self):
        return self.folder / "outputs" / "tried"

    def delivered(self):
        return {row["prompt"] for row in check_invariant(self.output)}

    def failures(self):
        return {row["prompt"]: row for row in rows_of(self.output, "failures.csv")}

    def billed(self):
        """Tasks that were paid for, by prompt."""
        return Counter(
            task["request"]["prompt"] for task in self.recorder.usage()["tasks"] if task["status"] != "failed"
        )

    def creates(self):
        """Creates that arrived, by prompt."""
        return Counter(sent.data["prompt"] for sent in self.recorder.of("create"))


@pytest.fixture
def command(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, value in case.keys.items():
        monkeypatch.setenv(name, value)
    with case.recorder(concurrency=200) as recorder:
        yield Command(case, recorder, tmp_path, capsys)


def first_of_each(replies, *, accepted=False):
    """Answers the first create of each prompt with the reply that it names; the gateway answers all others."""
    seen = Counter()

    def answer(sent):
        prompt = sent.data["prompt"]
        seen[prompt] += 1
        return replace(replies[prompt], accepted=accepted) if seen[prompt] == 1 and prompt in replies else None

    return answer


def named(case, *kinds):
    """The case's answers to a create that mean one of these."""
    return {name: each.reply for name, each in case.answers.items() if issubclass(each.create, kinds)}


# --- creates ----------------------------------------------------------------------------------------------------


@every
def test_a_refusal_of_one_job_is_named_with_its_code_and_sent_once_and_the_others_are_delivered(case, command):
    rejected = named(case, JobRejected)
    refused = {name: reply for name, reply in named(case, JobRefused).items() if name not in named(case, PageReceived)}
    command.write([*rejected, *refused, "a fox"])
    command.recorder.answers["create"] = first_of_each(rejected | refused)
    assert command.run() == 1
    assert command.delivered() == {"a fox"}
    failures = command.failures()
    assert {prompt: row["status"] for prompt, row in failures.items()} == dict.fromkeys(rejected, "rejected") | (
        dict.fromkeys(refused, "failed")
    )
    for prompt, row in failures.items():
        assert row["code"] == prompt.split("/")[-1]
        assert f"HTTP {prompt.split('/')[0]}" in row["message"]
    assert set(command.creates().values()) == {1}
    assert command.billed() == {"a fox": 1}


@every
def test_a_refusal_for_now_is_waited_out_and_uses_up_no_attempt(case, command):
    replies = named(case, Throttled)
    assert replies
    command.write([*replies, "a fox"], "run: {max_attempts: 1}\n")
    command.recorder.answers["create"] = first_of_each(replies)
    assert command.run() == 0, command.said
    assert command.delivered() == {*replies, "a fox"}
    assert command.billed() == dict.fromkeys([*replies, "a fox"], 1)


@pytest.mark.parametrize("accepted", [True, False], ids=["accepted", "not accepted"])
@every
def test_an_answer_that_says_nothing_is_asked_about_before_anything_is_sent_again(case, command, accepted):
    replies = named(case, Unclear) | {"cut": Reply(cut=True)}
    if not case.asks_by_own_id:  # more than a few in a row would be an outage
        replies = dict(list(replies.items())[-2:])
    command.write([*replies, "a fox"])
    command.recorder.answers["create"] = first_of_each(replies, accepted=accepted)
    code = command.run()
    billed = dict.fromkeys([*replies, "a fox"], 1) if accepted or case.asks_by_own_id else {"a fox": 1}
    assert command.billed() == billed
    if case.asks_by_own_id:
        assert (code, command.delivered()) == (0, {*replies, "a fox"}), command.said
        assert command.creates() == dict.fromkeys(replies, 1 if accepted else 2) | {"a fox": 1}
    else:
        assert (code, command.delivered()) == (1, {"a fox"}), command.said
        assert {row["status"] for row in command.failures().values()} == {"unknown"}
        assert set(command.creates().values()) == {1}
        assert command.run() == 1
        assert set(command.creates().values()) == {1}
        assert command.run("--retry-unknown") == 0
        assert command.delivered() == {*replies, "a fox"}


@every
def test_an_account_that_is_stopped_ends_the_run_with_6_and_what_is_pending_stays_so(case, command):
    replies = named(case, AccountStopped)
    assert replies
    prompts = ["a fox", "a cat", "a dog"]
    command.write(prompts, "run: {max_attempts: 1}\n", limits={"concurrency": 1})
    for name, reply in replies.items():
        command.recorder.clear()
        command.recorder.answers["create"] = lambda _, reply=reply: reply
        assert command.run() == 6, name
        assert f"HTTP {reply.status}" in command.said
        again = 2 if reply.status == 401 and len(case.keys) == 2 else 1  # a token is made anew once
        assert len(command.recorder.of("create")) == again, name
        assert command.failures() == {}
    command.recorder.clear()
    assert command.run() == 0
    assert command.billed() == dict.fromkeys(prompts, 1)


@askable
def test_a_repeated_external_id_is_asked_for_and_its_task_adopted(case, command):
    reply = case.answers["400/1201"].reply
    command.write(["a fox"])
    command.recorder.answers["create"] = first_of_each({"a fox": reply}, accepted=True)
    assert command.run() == 0, command.said
    assert command.creates() == command.billed() == {"a fox": 1}


# --- questions --------------------------------------------------------------------------------------------------


@asked
def test_a_question_that_meets_trouble_is_asked_again_and_nothing_is_sent_again(case, command):
    """Each of a row of tasks meets another answer to its first question."""
    meanings = {name: each for name, each in case.answers.items() if not issubclass(each.query, AccountStopped)}
    replies = iter([each.reply for each in meanings.values()])
    seen = defaultdict(int)

    def answer(sent):
        seen[sent.target] += 1
        return next(replies, None) if seen[sent.target] == 1 else None

    prompts = [f"a fox {number}" for number in range(len(meanings))]
    command.write(prompts, "run: {max_attempts: 1}\n", lists_tasks="no", limits={"concurrency": 100})
    command.recorder.answers["query"] = answer
    assert command.run() == 0, command.said
    assert next(replies, None) is None
    assert command.billed() == command.creates() == dict.fromkeys(prompts, 1)


@asked
def test_an_account_that_is_stopped_while_it_is_asked_keeps_what_was_paid_for(case, command):
    stops = {each.reply.status: each.reply for each in case.answers.values() if each.query is AccountStopped}
    prompts = ["a fox", "a cat"]
    command.write(prompts, "run: {grace: 0s}\n", lists_tasks="no")
    for reply in stops.values():
        command.recorder.clear()
        command.recorder.answers["query"] = lambda _, reply=reply: reply
        assert command.run() == 6, command.said
        assert f"HTTP {reply.status}" in command.said
        assert command.failures() == {}
    command.recorder.clear()
    assert command.run() == 0, command.said
    assert command.billed() == dict.fromkeys(prompts, 1)


def one_of_each(case):
    """An answer of each meaning to a question."""
    return {each.query: each.reply for each in case.answers.values()}


@listing
def test_a_list_that_is_refused_costs_no_job(case, command, monkeypatch):
    """Whatever it answers, and however long: single questions take its place."""
    monkeypatch.setattr(poller, "query_backoff", lambda *_: 0.02)
    prompts = []
    for meaning, reply in one_of_each(case).items():
        prompts += [f"{meaning.__name__} {number}" for number in range(4)]
        command.recorder.clear()
        command.recorder.answers["list"] = lambda _, reply=reply: reply
        command.write(prompts, lists_tasks="yes")
        assert command.run() == 0, (meaning, command.said)
        assert len(command.recorder.of("create")) == 4
        assert 1 <= len(command.recorder.of("list")) <= 8
    assert command.billed() == dict.fromkeys(prompts, 1)


@listing
def test_a_list_that_is_refused_for_now_is_asked_again(case, command, monkeypatch):
    monkeypatch.setattr(poller, "query_backoff", lambda *_: 0.02)
    reply = case.answers["429/1302"].reply
    command.write([f"a fox {number}" for number in range(6)], lists_tasks="yes")
    command.recorder.answers["list"] = lambda sent: reply if sent.number <= 2 else None
    assert command.run() == 0, command.said
    assert len(command.recorder.of("list")) >= 3
    assert command.recorder.of("query") == []
    assert len(command.recorder.of("create")) == 6


# --- results ----------------------------------------------------------------------------------------------------


def told(command, change):
    """One prompt, n 3, at a gateway whose task that has succeeded is told with this change."""

    def answer(sent):
        task = sent.target.rpartition("/")[2]
        images = [{"url": f"{command.recorder.origin}/images/{task}/{index}.png"} for index in range(3)]
        data = {"task_id": task, "task_status": "succeed", "task_result": {"images": images}}
        return Reply(body=json.dumps({"code": 0, "data": change(data)}).encode())

    command.write(["a fox"], "defaults: {n: 3}\n", lists_tasks="no")
    command.recorder.answers["query"] = answer
    return command.run()


@asked
def test_fewer_images_than_were_asked_for_are_partial_and_named(command):
    def fewer(data):
        del data["task_result"]["images"][2]
        return data

    assert told(command, fewer) == 1
    assert len(check_invariant(command.output)) == 2
    assert command.failures()["a fox"]["status"] == "partial"
    assert command.billed() == {"a fox": 1}


@asked
def test_more_images_than_were_asked_for_are_left(command):
    def more(data):
        data["task_result"]["images"] *= 2
        return data

    assert told(command, more) == 0, command.said
    assert len(check_invariant(command.output)) == 3


@asked
def test_another_spelling_of_success_is_delivered(command):
    assert told(command, lambda data: data | {"task_status": "Completed"}) == 0, command.said
    assert len(check_invariant(command.output)) == 3


@asked
def test_an_unknown_status_is_asked_for_until_it_is_known(command):
    states = iter(["queued", "in some new way", "paused"])
    assert told(command, lambda data: data | {"task_status": next(states, "succeed")}) == 0, command.said
    assert next(states, None) is None
    assert len(check_invariant(command.output)) == 3


@asked
def test_a_failed_task_is_tried_anew_under_an_id_of_its_own_until_the_attempts_are_used_up(case, command):
    command.write(["a fox that must fail-this-task"], "run: {max_attempts: 3}\n")
    assert command.run() == 1
    (row,) = command.failures().values()
    assert (row["status"], row["attempts"]) == ("failed", "3")
    assert len(command.recorder.of("create")) == 3
    ids = {sent.data.get("external_task_id") for sent in command.recorder.of("create")}
    assert len(ids) == (3 if case.asks_by_own_id else 1)
    assert command.recorder.usage()["images_billed"] == 0
