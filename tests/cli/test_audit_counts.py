"""`audit` counts what it sees at the gateway, and adopts from whatever state a job is in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from command import batchgen, manifest, prompts
from hypothesis import example, given
from hypothesis import strategies as st
from jobs_for_tests import job
from ledger_events import SHORT, accepted, ended, fetched, intent, made, not_made
from scripted_gateway import ScriptedGateway

from batchgen.app.audit import adoptable, adoption
from batchgen.app.gateway_query import GatewayQuery, GatewayReport, OrphanTask
from batchgen.app.ledger_totals import ledger_totals
from batchgen.jobs import Status, external_id
from batchgen.ledger.events import Outcome, Reopened
from batchgen.ledger.store import Ledger
from batchgen.ledger.transitions import IllegalTransition
from batchgen.providers.base import Task, TaskState

A_JOB = job("a fox")


class Kling(ScriptedGateway):
    """Its list names the callers' ids."""


def audited(path, cwd, *words):
    done = batchgen("audit", path, "--json", *words, cwd=cwd)
    return done.returncode, json.loads(done.stdout)


def test_a_second_task_of_the_same_external_id_is_seen_and_counted(tmp_path):
    """A proxy that repeats POSTs, at a gateway that does not mind an id that it knows."""
    with Kling() as gateway:
        path = manifest(tmp_path, gateway, prompts(2, "  n: [2]\n"), use="kling", concurrency=9)
        path.write_text(path.read_text(encoding="utf-8").replace("api_key_env:", "auth: api_key, api_key_env:"))
        gateway.answers["create"] = lambda call: call.store() and None
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        code, data = audited(path, tmp_path)
        assert code == 1
        assert len(data["not_in_the_ledger"]) == 2
        assert data["images"] == {"paid": 8, "delivered": 4, "twice": 4, "in_flight": 0}
        assert data["sentence"] == "8 images paid for, 4 delivered, 4 twice."
        assert audited(path, tmp_path, "--adopt")[1]["images"]["twice"] == 4


def test_tasks_that_no_ledger_knows_are_paid_for_and_twice_only_where_their_job_has_another(tmp_path):
    """Another output of the same manifest, at a gateway that does not mind an id that it knows."""
    with Kling() as gateway:
        path = manifest(tmp_path, gateway, prompts(3, "  n: [2]\n"), use="kling", concurrency=9)
        path.write_text(path.read_text(encoding="utf-8").replace("api_key_env:", "auth: api_key, api_key_env:"))
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        other = ("--output", tmp_path / "other")
        assert batchgen("run", path, *other, "--limit", "1", cwd=tmp_path).returncode == 0
        _, data = audited(path, tmp_path, *other)
        assert (data["images"]["paid"], data["images"]["delivered"], data["images"]["twice"]) == (8, 2, 2)


EVENTS = st.one_of(
    st.builds(lambda n: intent(A_JOB, n), st.integers(1, 3)),
    st.builds(lambda n: accepted(A_JOB.id, n), st.integers(1, 3)),
    st.builds(lambda n: made(A_JOB.id, n, 1), st.integers(1, 3)),
    st.builds(lambda n: fetched(A_JOB.id, n, 0), st.integers(1, 3)),
    st.just(Reopened(job_id=A_JOB.id)),
    st.builds(lambda n, outcome: not_made(A_JOB.id, n, outcome), st.integers(1, 3), st.sampled_from(Outcome)),
    st.builds(
        lambda n, end: ended(A_JOB.id, n, *end),
        st.integers(1, 3),
        st.tuples(st.sampled_from(SHORT), st.sampled_from([*Outcome, None])).filter(
            lambda end: end[0] is not Status.GONE or end[1] is Outcome.LOST  # as the engine records it
        ),
    ),
)
TASKS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 2), st.sampled_from(TaskState)), max_size=4, unique=True)


@example(
    events=[intent(A_JOB, 1), ended(A_JOB.id, 1, Status.FAILED, Outcome.UNKNOWN)], tasks=[(1, 1, TaskState.RUNNING)]
)
@given(events=st.lists(EVENTS, max_size=12), tasks=TASKS)
def test_whatever_state_a_job_is_in_what_can_be_adopted_is_adopted(events, tasks):
    ledger = Ledger.preview(None)
    for event in events:
        try:
            ledger.record([event])
        except IllegalTransition:
            continue
    totals = ledger_totals(ledger, Path("/nowhere"))
    report = GatewayReport(account="kapon", base_url="http://127.0.0.1")
    query = GatewayQuery(None, totals)
    for attempt, copy, state in tasks:
        id_ = f"task-{A_JOB.id}-{attempt}" + ("" if copy == 1 else "-copy")
        query._note(report, Task(id=id_, state=state, external_id=external_id(A_JOB.id, attempt)))
    chosen = adoptable(report.orphans, {A_JOB.id: A_JOB}, totals)
    for orphan in chosen:
        ledger.record(adoption(orphan, A_JOB, ledger, 9))
        taken = ledger.attempt_of(A_JOB.id)
        assert (taken.status, taken.task_id) == (Status.SUBMITTED, orphan.task.id)
    assert len(chosen) <= 1
    ledger.db.close()


def test_each_task_of_the_gateway_is_counted_once(tmp_path):
    """Of an attempt whose task the ledger never learnt, one task is its own; any other was paid for besides."""
    ledger = Ledger.open(tmp_path / "state.sqlite3")
    ledger.record([intent(A_JOB, 1)])
    report = GatewayReport(account="kapon", base_url="")
    query = GatewayQuery(None, ledger_totals(ledger, tmp_path))
    one = Task(id="T1", state=TaskState.SUCCEEDED, external_id=external_id(A_JOB.id, 1))
    for task in (one, replace(one, id="T2"), one):
        query._note(report, task)
    assert [orphan.task.id for orphan in report.orphans] == ["T2"]
    assert all(isinstance(orphan, OrphanTask) for orphan in report.orphans)
    ledger.close()
