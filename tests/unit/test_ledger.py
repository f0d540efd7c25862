"""The ledger on a real SQLite file: transitions, queries, and what it refuses."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace

import pytest
from jobs_for_tests import job
from ledger_events import received

from batchgen.errors import CommandError, OutputBusy, RunStopped
from batchgen.jobs import ImageKey, ImageLink, Status, external_id
from batchgen.ledger import lock
from batchgen.ledger.events import (
    Accepted,
    Ended,
    Fetched,
    Intent,
    Made,
    Missing,
    NotMade,
    Outcome,
    Relocated,
    Reopened,
)
from batchgen.ledger.store import FILE_NAME, Ledger
from batchgen.ledger.transitions import IllegalTransition
from batchgen.ledger.versions import VERSION
from batchgen.ledger.writer import Writer

FOX = job("a fox", n=2)


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger.open(tmp_path / FILE_NAME)
    yield opened
    opened.close()


def intent(of=FOX, attempt=1, reserved=2_000_000):
    return Intent(
        job=of,
        attempt=attempt,
        account="kapon",
        base_url="http://127.0.0.1",
        external_id=external_id(of.id, attempt),
        at=1000,
        reserved=reserved,
    )


def accepted(of=FOX, attempt=1):
    return Accepted(job_id=of.id, attempt=attempt, task_id=f"task-{of.id}-{attempt}", at=2000)


def made(of=FOX, attempt=1, images=2, cost=1_500_000):
    links = tuple(ImageLink(index=i, url=f"http://127.0.0.1/{i}") for i in range(images))
    return Made(job_id=of.id, attempt=attempt, links=links, cost=cost, at=3000)


def fetched(index, of=FOX, attempt=1):
    image = received(f"{index}" * 64)
    return Fetched(key=ImageKey(of.id, attempt, index, 0), path=f"images/{index}.png", image=image, at=4000)


def not_made(of=FOX, attempt=1, outcome=Outcome.FAILED, *, counts=True):
    return NotMade(job_id=of.id, attempt=attempt, outcome=outcome, counts=counts, at=5000)


def status_of(ledger, of=FOX):
    return Status(ledger.db.execute("SELECT status FROM job WHERE id = ?", (of.id,)).fetchone()[0])


def test_a_job_from_intent_to_done(ledger):
    for event, status in [
        (intent(), Status.INTENT),
        (accepted(), Status.SUBMITTED),
        (made(), Status.MADE),
        (fetched(0), Status.MADE),
        (fetched(1), Status.DONE),
    ]:
        ledger.record([event])
        assert status_of(ledger) is status


def test_fewer_images_than_asked_for_leave_the_job_partial(ledger):
    ledger.record([intent(), accepted(), made(images=1), fetched(0)])
    assert status_of(ledger) is Status.PARTIAL


def test_a_job_never_has_two_live_attempts(ledger):
    ledger.record([intent()])
    with pytest.raises(IllegalTransition):
        ledger.record([intent(attempt=2)])


def test_an_attempt_number_is_used_once(ledger):
    ledger.record([intent(), not_made()])
    with pytest.raises(IllegalTransition):
        ledger.record([intent(attempt=1)])
    ledger.record([intent(attempt=2)])
    assert status_of(ledger) is Status.INTENT


def test_a_failed_commit_leaves_nothing_of_itself(ledger):
    with pytest.raises(IllegalTransition):
        ledger.record([intent(), accepted(), accepted()])
    assert ledger.db.execute("SELECT count(*) FROM job").fetchone() == (0,)


def test_only_counted_failures_count(ledger):
    ledger.record([intent(), not_made(outcome=Outcome.REFUSED, counts=False), intent(attempt=2), not_made(attempt=2)])
    ledger.set_wanted_jobs([FOX])
    (state,) = ledger.page(0, 10)
    assert (state.status, state.attempt, state.failures) == (Status.PENDING, 2, 1)


def test_what_is_spent_counts_charges_reservations_and_doubts_but_no_failures(ledger):
    owl, cat, dog = job("owl"), job("cat"), job("dog")
    ledger.record([intent(), accepted(), made()])  # charged 1.5
    ledger.record([intent(owl)])  # reserved 2
    ledger.record([intent(cat), not_made(cat)])  # nothing
    ended = Ended(job_id=dog.id, attempt=1, status=Status.UNKNOWN, outcome=Outcome.UNKNOWN, at=1)
    ledger.record([intent(dog, reserved=None), ended])  # who knows
    spent = ledger.spent()
    assert (spent.cost, spent.images, spent.unpriced) == (3_500_000, 4, 1)


def test_what_was_begun_is_found_again_without_the_manifest(tmp_path):
    first = Ledger.open(tmp_path / FILE_NAME)
    first.record([intent(), accepted()])
    first.close()
    again = Ledger.open(tmp_path / FILE_NAME)
    (attempt,) = again.open_attempts()
    assert attempt.job == FOX
    assert attempt.task_id == f"task-{FOX.id}-1"
    assert attempt.wanted is False
    again.close()


def test_equal_jobs_are_wanted_once_where_they_first_stand(ledger):
    owl = job("owl")
    ledger.set_wanted_jobs([FOX, owl, FOX])
    assert [(row.seq, row.job_id) for row in ledger.page(0, 10)] == [(0, FOX.id), (1, owl.id)]


def test_a_known_job_takes_over_the_name_that_the_manifest_gives_it_now(ledger):
    ledger.record([intent(), accepted(), made(), fetched(0), fetched(1)])
    ledger.set_wanted_jobs([replace(FOX, prompt_id="new-name")])
    assert {row.job.prompt_id for row in ledger.index_rows()} == {"new-name"}


def test_a_lost_file_makes_the_job_made_again_and_needs_no_new_attempt(ledger):
    ledger.set_wanted_jobs([FOX])
    ledger.record([intent(), accepted(), made(), fetched(0), fetched(1)])
    ledger.record([Missing(key=ImageKey(FOX.id, 1, 1, 0))])
    assert status_of(ledger) is Status.MADE
    assert [link.index for link, _ in ledger.links_to_fetch(FOX.id, 1)] == [1]
    ledger.record([fetched(1)])
    assert status_of(ledger) is Status.DONE


def test_what_is_no_longer_wanted_is_to_be_retired_and_not_in_the_index(ledger):
    ledger.record([intent(), accepted(), made(), fetched(0), fetched(1)])
    ledger.set_wanted_jobs([job("owl")])
    assert {image.path for image in ledger.images_to_retire()} == {"images/0.png", "images/1.png"}
    assert list(ledger.index_rows()) == []


def test_images_of_an_earlier_attempt_give_way_to_those_of_a_later_one(ledger):
    ledger.set_wanted_jobs([FOX])
    ledger.record([intent(), accepted(), made(images=1), fetched(0), Reopened(job_id=FOX.id)])
    assert len(list(ledger.index_rows())) == 1
    ledger.record([intent(attempt=2), accepted(attempt=2), made(attempt=2)])
    (earlier,) = ledger.earlier_images(FOX.id, 2)
    moved = Relocated(key=ImageKey(FOX.id, 1, 0, 0), path="retired/0.png")
    ledger.record([moved, fetched(0, attempt=2), fetched(1, attempt=2)])
    assert earlier.path == "images/0.png"
    assert [row.path for row in ledger.index_rows()] == ["images/0.png", "images/1.png"]


def test_at_rest_the_ledger_is_a_single_file(tmp_path):
    ledger = Ledger.open(tmp_path / FILE_NAME)
    ledger.record([intent()])
    ledger.close()
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_reader_sees_what_is_committed_while_a_run_writes(tmp_path, ledger):
    reader = Ledger.read(tmp_path / FILE_NAME)
    ledger.record([intent()])
    assert len(reader.open_attempts()) == 1
    reader.close()


def test_a_preview_changes_nothing(tmp_path):
    Ledger.open(tmp_path / FILE_NAME).close()
    before = (tmp_path / FILE_NAME).read_bytes()
    preview = Ledger.preview(tmp_path / FILE_NAME)
    preview.set_wanted_jobs([FOX])
    assert preview.counts() == {Status.PENDING: 1}
    preview.close()
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_preview_needs_no_ledger_at_all():
    preview = Ledger.preview(None)
    preview.set_wanted_jobs([FOX])
    assert preview.counts() == {Status.PENDING: 1}
    preview.close()


def test_a_later_batchgens_ledger_is_refused_and_left_alone(tmp_path):
    Ledger.open(tmp_path / FILE_NAME).close()
    db = sqlite3.connect(tmp_path / FILE_NAME)
    db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    with pytest.raises(CommandError, match="later batchgen"):
        Ledger.open(tmp_path / FILE_NAME)


@pytest.mark.parametrize("content", [b"not a database, but long" * 30, b"SQLite format 3\0" + b"x" * 200])
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    with pytest.raises(CommandError, match="ledger of batchgen"):
        Ledger.open(path)
    assert path.read_bytes() == content


def test_a_foreign_database_is_refused(tmp_path):
    db = sqlite3.connect(tmp_path / FILE_NAME)
    db.execute("CREATE TABLE theirs (a)")
    db.close()
    with pytest.raises(CommandError, match="not a ledger of batchgen"):
        Ledger.open(tmp_path / FILE_NAME)


async def test_what_record_returned_from_is_on_disk(tmp_path, ledger):
    jobs = [job(f"owl {number}") for number in range(200)]
    async with Writer(ledger) as writer, asyncio.TaskGroup() as group:
        for one in jobs:
            group.create_task(writer.record(intent(one)))
    reader = Ledger.read(tmp_path / FILE_NAME)
    assert len(reader.open_attempts()) == 200
    reader.close()


async def test_a_refused_change_is_raised_where_it_was_asked_for(ledger):
    async with Writer(ledger) as writer:
        await writer.record(intent())
        with pytest.raises(IllegalTransition):
            await writer.record(intent(attempt=2))


async def test_a_value_that_no_row_can_hold_harms_no_other_change(ledger):
    cat = job("a cat", n=2)
    async with Writer(ledger) as writer, asyncio.TaskGroup() as group:
        group.create_task(writer.record(intent(cat)))
        with pytest.raises(sqlite3.Error):
            await writer.record(replace(intent(), account=object()))
    assert [attempt.job.id for attempt in ledger.open_attempts()] == [cat.id]


async def test_a_program_that_holds_the_ledger_is_said_and_nothing_is_half_written(tmp_path, ledger, monkeypatch):
    monkeypatch.setattr("batchgen.ledger.writer.BUSY_TIMEOUT", 0.1)
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    async with Writer(ledger) as writer:
        with pytest.raises(RunStopped, match="close that program"):
            await writer.record(intent())
        other.close()
        await writer.record(intent())
    assert status_of(ledger) is Status.INTENT


def test_a_second_run_is_told_who_has_the_output(tmp_path):
    told = pytest.raises(OutputBusy, match=r"Another run .* is going \(process \d+ on ")
    with lock.held(tmp_path), told, lock.held(tmp_path):
        pass
    with lock.held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
