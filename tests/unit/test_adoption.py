"""Images of an index that an old ledger does not know are adopted, and no task that runs is given up for them."""

from __future__ import annotations

import pytest
from jobs_for_tests import job
from ledger_events import accepted, fetched, intent

from batchgen.jobs import Status
from batchgen.ledger.adoption import Delivery, events_of_delivery
from batchgen.ledger.events import Outcome
from batchgen.ledger.store import Ledger

FOX = job("a fox")


@pytest.fixture
def ledger(tmp_path):
    """Of a job whose first attempt was accepted at 2, and has not ended."""
    ledger = Ledger.open(tmp_path / "state.sqlite3")
    ledger.record([intent(FOX, 1), accepted(FOX.id, 1)])
    ledger.set_wanted_jobs([FOX])
    yield ledger
    ledger.close()


def delivery(*, task_id="a later task", submitted_at=3):
    return Delivery(
        job=FOX,
        account="kapon",
        base_url="http://127.0.0.1",
        submitted_at=submitted_at,
        finished_at=9,
        task_id=task_id,
        indexes=(0,),
        files=(fetched(FOX.id, 1, 0),),
    )


def test_an_image_of_a_later_task_is_adopted_and_the_task_before_is_given_up_as_paid(ledger):
    ledger.record(events_of_delivery(ledger, delivery()))
    assert ledger.counts() == {Status.DONE: 1}
    assert [(payment.task_id, payment.outcome) for payment in ledger.payments()] == [
        (f"task-{FOX.id}-1", Outcome.LOST),
        ("a later task", Outcome.MADE),
    ]
    assert [row.task_id for row in ledger.index_rows()] == ["a later task"]


@pytest.mark.parametrize("other", [{"submitted_at": 1}, {"submitted_at": 2}, {"task_id": ""}])
def test_an_image_that_may_be_of_an_earlier_task_gives_up_no_task_that_runs(ledger, other):
    assert events_of_delivery(ledger, delivery(**other)) == []
    assert ledger.counts() == {Status.SUBMITTED: 1}
