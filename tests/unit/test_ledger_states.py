"""The ledger under any order of events, crashes and reopenings, against a model of the gateway's account."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from jobs_for_tests import job
from ledger_events import CHARGE, PRICE, SHORT, accepted, ended, fetched, intent, made, not_made

from batchgen.jobs import Status, external_id
from batchgen.ledger.events import Ended, Missing, Outcome, Reopened
from batchgen.ledger.store import FILE_NAME, Ledger
from batchgen.ledger.transitions import IllegalTransition

JOBS = [job(f"prompt {number}", n=1 + number % 2) for number in range(3)]
QUICK = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Crash(Exception):
    """The process ends here."""


class OnDisk(RuleBasedStateMachine):
    """A ledger in a folder of its own, which a crash leaves as it is on disk at that moment."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ledger-"))
        self.crashes = 0
        self.path.parent.mkdir()
        self.ledger = Ledger.open(self.path)

    @property
    def path(self) -> Path:
        return self.folder / f"{self.crashes}" / FILE_NAME

    @initialize()
    def begin(self) -> None:
        self.ledger.set_wanted_jobs(JOBS)

    def reopen_a_copy(self) -> None:
        """What a killed process leaves: the files as they are, its connection never closed."""
        before, self.crashes = self.path.parent, self.crashes + 1
        shutil.copytree(before, self.path.parent)
        old, self.ledger = self.ledger, Ledger.open(self.path)
        old.db.close()

    @rule()
    def crash(self) -> None:
        self.reopen_a_copy()

    @rule()
    def close_and_open(self) -> None:
        self.ledger.close()
        self.ledger = Ledger.open(self.path)

    def rows(self, sql: str) -> list[tuple]:
        return self.ledger.db.execute(sql).fetchall()

    @invariant()
    def no_job_has_two_live_attempts(self) -> None:
        assert self.rows("SELECT job_id FROM attempt WHERE outcome = '' GROUP BY job_id HAVING count(*) > 1") == []

    @invariant()
    def a_live_attempt_is_the_latest_of_a_job_that_is_live(self) -> None:
        wrong = self.rows(
            "SELECT job_id, number, status FROM attempt JOIN job ON job.id = job_id WHERE outcome = ''"
            " AND (number <> job.attempt OR status NOT IN ('intent', 'submitted'))"
        )
        assert wrong == []

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.folder)


@dataclass(slots=True)
class Sent:
    """A task as the gateway knows it."""

    state: str  # running | made | failed
    n: int

    @property
    def billed(self) -> int:
        return CHARGE * self.n if self.state == "made" else 0


class HonestRun(OnDisk):
    """A runner that does as the engine does, with a gateway beside it that no crash of ours touches."""

    def __init__(self) -> None:
        super().__init__()
        self.gateway: dict[str, Sent] = {}

    def live(self, *statuses: Status):
        return [attempt for attempt in self.ledger.open_attempts() if attempt.status in statuses]

    def pending(self):
        return [row for row in self.ledger.page(0, len(JOBS)) if row.status is Status.PENDING]

    # --- rules --------------------------------------------------------------------------------------------

    @precondition(lambda self: self.pending())
    @rule(
        data=st.data(),
        fate=st.sampled_from(["answered", "answer lost", "never arrived", "crash before", "crash after"]),
    )
    def create(self, data, fate) -> None:
        state = data.draw(st.sampled_from(self.pending()))
        of, number = JOBS[state.seq], state.attempt + 1
        self.record(intent(of, number))
        if fate == "crash before":
            self.reopen_a_copy()
            return
        if fate == "never arrived":
            return
        self.send(of, number)
        if fate == "crash after":
            self.reopen_a_copy()
        elif fate == "answered":
            self.record(accepted(of.id, number))

    def send(self, of, number) -> None:
        """The gateway takes it; it may cost money from here on, so the intent has to be on disk."""
        disk = Ledger.read(self.path)
        (found,) = disk.db.execute(
            "SELECT count(*) FROM attempt WHERE external_id = ? AND outcome = ''", (external_id(of.id, number),)
        ).fetchone()
        disk.close()
        assert found == 1, "sent without an intent"
        assert external_id(of.id, number) not in self.gateway, "sent twice"
        running = [id_ for id_, task in self.gateway.items() if of.id in id_ and task.state != "failed"]
        assert running == [], "the job has a task that is or will be paid for"
        self.gateway[external_id(of.id, number)] = Sent("running", of.parameters.n)

    @precondition(lambda self: self.live(Status.INTENT))
    @rule(data=st.data(), can_ask=st.booleans())
    def recover(self, data, can_ask) -> None:
        """An attempt without an answer: adopted, sent anew with the next id, or held."""
        attempt = data.draw(st.sampled_from(self.live(Status.INTENT)))
        if not can_ask:
            self.record(
                Ended(
                    job_id=attempt.job.id, attempt=attempt.attempt, status=Status.UNKNOWN, outcome=Outcome.UNKNOWN, at=1
                )
            )
        elif attempt.external_id in self.gateway:
            self.record(accepted(attempt.job.id, attempt.attempt))
        else:
            self.record(not_made(attempt.job.id, attempt.attempt, Outcome.REFUSED))

    @precondition(lambda self: self.ledger.incomplete(frozenset({Status.UNKNOWN})))
    @rule(data=st.data())
    def recover_what_was_held(self, data) -> None:
        attempt = self.ledger.attempt_of(
            data.draw(st.sampled_from(self.ledger.incomplete(frozenset({Status.UNKNOWN}))))
        )
        if attempt.external_id in self.gateway:
            self.record(accepted(attempt.job.id, attempt.attempt))
        else:
            self.record(not_made(attempt.job.id, attempt.attempt, Outcome.REFUSED))

    @precondition(lambda self: self.live(Status.SUBMITTED))
    @rule(data=st.data(), works=st.booleans(), crash=st.booleans())
    def end(self, data, works, crash) -> None:
        attempt = data.draw(st.sampled_from(self.live(Status.SUBMITTED)))
        task = self.gateway[attempt.external_id]
        if task.state == "running":
            task.state = "made" if works else "failed"
        if crash:
            self.reopen_a_copy()
        key = {"job_id": attempt.job.id, "attempt": attempt.attempt}
        if task.state == "made":
            self.record(made(attempt.job.id, attempt.attempt, task.n))
        elif works:
            self.record(Ended(**key, status=Status.FAILED, outcome=Outcome.FAILED, at=1))
        else:
            self.record(not_made(attempt.job.id, attempt.attempt, Outcome.FAILED))

    @precondition(lambda self: self.live(Status.MADE))
    @rule(data=st.data())
    def fetch_one(self, data) -> None:
        attempt = data.draw(st.sampled_from(self.live(Status.MADE)))
        link, _ = data.draw(st.sampled_from(self.ledger.links_to_fetch(attempt.job.id, attempt.attempt)))
        self.record(fetched(attempt.job.id, attempt.attempt, link.index))

    @precondition(lambda self: list(self.ledger.stored_images()))
    @rule(data=st.data())
    def lose_a_file(self, data) -> None:
        image = data.draw(st.sampled_from(list(self.ledger.stored_images())))
        self.record(Missing(key=image.key))

    @precondition(lambda self: self.ledger.incomplete(frozenset({Status.FAILED})))
    @rule(data=st.data())
    def retry(self, data) -> None:
        self.record(Reopened(job_id=data.draw(st.sampled_from(self.ledger.incomplete(frozenset({Status.FAILED}))))))

    @rule(events=st.integers(0, 3))
    def crash_within_a_commit(self, events) -> None:
        """Nothing of a commit that was not finished is there."""
        before = dump(self.ledger)

        def torn():
            for row in self.pending()[:events]:
                yield intent(JOBS[row.seq], row.attempt + 1)
            raise Crash

        with pytest.raises(Crash):
            self.ledger.record(torn())
        self.reopen_a_copy()
        assert dump(self.ledger) == before

    def record(self, event) -> None:
        self.ledger.record([event])

    # --- what always holds --------------------------------------------------------------------------------

    @invariant()
    def each_task_of_the_gateway_is_an_attempt_of_the_ledger(self) -> None:
        assert self.gateway.keys() <= {id_ for (id_,) in self.rows("SELECT external_id FROM attempt")}

    @invariant()
    def what_is_settled_costs_what_the_gateway_billed_and_the_rest_its_price(self) -> None:
        billed = doubtful = 0
        for id_, n, outcome in self.rows("SELECT external_id, images, outcome FROM attempt"):
            task = self.gateway.get(id_)
            if outcome == Outcome.MADE:
                billed += task.billed
            elif outcome in {Outcome.LIVE, Outcome.UNKNOWN}:
                doubtful += PRICE * n
            else:
                assert task is None or task.billed == 0, "the ledger says unpaid, the gateway billed it"
        assert self.ledger.spent().cost == billed + doubtful
        assert self.ledger.spent().cost >= sum(task.billed for task in self.gateway.values())

    @invariant()
    def a_job_that_is_done_has_been_billed_once(self) -> None:
        for (job_id,) in self.rows("SELECT id FROM job WHERE status = 'done'"):
            assert sum(task.state == "made" for id_, task in self.gateway.items() if job_id in id_) == 1


class AnyOrder(OnDisk):
    """Events in any order, sensible or not: the ledger takes what fits, and is as it was after what does not."""

    numbers = st.integers(1, 3)

    @rule(of=st.sampled_from(JOBS), number=numbers, data=st.data())
    def anything(self, of, number, data) -> None:
        event = data.draw(
            st.sampled_from(
                [
                    intent(of, number),
                    accepted(of.id, number),
                    made(of.id, number, of.parameters.n),
                    fetched(of.id, number, 0),
                    Reopened(job_id=of.id),
                    *(not_made(of.id, number, outcome) for outcome in Outcome),
                    *(ended(of.id, number, status, outcome) for status in SHORT for outcome in [*Outcome, None]),
                ]
            )
        )
        before = dump(self.ledger)
        try:
            self.ledger.record([event])
        except IllegalTransition:
            assert dump(self.ledger) == before

    @invariant()
    def what_is_spent_is_the_sum_of_what_is_not_known_to_be_unpaid(self) -> None:
        paid = [
            cost if cost is not None else reserved
            for cost, reserved, outcome in self.rows("SELECT cost, reserved, outcome FROM attempt")
            if outcome not in {Outcome.FAILED, Outcome.REFUSED}
        ]
        assert self.ledger.spent().cost == sum(paid)


def dump(ledger: Ledger) -> list[list[tuple]]:
    return [
        ledger.db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
        for table in ("job", "attempt", "image", "wanted")
    ]


TestHonestRun = HonestRun.TestCase
TestHonestRun.settings = QUICK
TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = QUICK


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.REFUSED])
def test_what_was_charged_is_never_recorded_as_unpaid(outcome):
    ledger, of = Ledger.preview(None), JOBS[0]
    ledger.record([intent(of, 1), accepted(of.id, 1), made(of.id, 1, 1)])
    with pytest.raises(IllegalTransition):
        ledger.record([not_made(of.id, 1, outcome)])
    assert ledger.spent().cost == CHARGE
    ledger.db.close()
