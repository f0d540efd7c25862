"""What became of a lost create: "not found" is believed only when the same question finds a task that exists."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random
from types import SimpleNamespace

import pytest
from jobs_for_tests import job

from batchgen.catalog.load import builtin
from batchgen.engine.attempt import Attempt
from batchgen.engine.controls import Control, Controls, ListProof
from batchgen.engine.recovery import Postponed, Recovery, Undecided
from batchgen.errors import TaskNotFound
from batchgen.providers.base import Page, Provider, Task, TaskState

SENT = 1_800_000_000_000  # Unix ms
DAY = 86_400_000


class Clock:
    """Both clocks, and a sleep that takes no time."""

    def __init__(self):
        self.now = 0.0
        self.set_by = 0.0  # seconds that somebody has set the wall clock forward
        self.slept = []

    def __call__(self):
        return self.now

    def wall(self):
        return SENT / 1000 + self.now + self.set_by

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class Account(Provider):
    """Its `tasks` are what exists, in the order of its list; a test replaces how it answers."""

    def __init__(self, profile="kapon", *tasks):
        self.account = builtin().accounts[profile]
        self.tasks = list(tasks)
        self.asked = []

    async def create(self, *_asked):
        raise AssertionError("nothing is sent while asking")

    async def query(self, _task_id):
        raise AssertionError("nothing else is asked")

    async def find(self, external_id):
        self.asked.append(external_id)
        for task in self.tasks:
            if task.external_id == external_id:
                return task
        raise TaskNotFound("no such task")

    async def page(self, number, size):
        self.asked.append(f"page {number}")
        return Page(tasks=tuple(self.tasks[(number - 1) * size : number * size]))


def task(number, *, at=SENT, external_id=""):
    return Task(
        id=f"T{number}",
        state=TaskState.RUNNING,
        external_id=external_id or f"bg-{number}-1",
        created_ms=at,
    )


def lost(**more):
    sent = Attempt.of(job(), 0, 0).sent(SENT, id_sent=True, key_print="k")
    return sent if not more else sent.__class__(**{name: getattr(sent, name) for name in sent.__slots__} | more)


def recovery_of(provider, clock, *earlier, began=SENT + 1):
    """`earlier`: (task id, external id, accepted at) of tasks that the ledger knows; `began`: the run, Unix ms."""

    def known(before):
        return [(*each, "one") for each in earlier if before is None or each[2] <= before]

    context = SimpleNamespace(clock=clock, wall=clock.wall, now_ms=lambda: began, sleep=clock.sleep, rng=Random(1))
    controls = Controls(context, delay=provider.account.visibility_delay, earlier=known)
    return Recovery(
        context,
        provider,
        controls,
        is_proof=lambda work: work.id_sent and work.key_print == "k" and not work.base_url_changed,
        changed=lambda: None,
    )


async def found(recovery, work=None):
    """At the end of a run: what waits for a control is asked a last time."""
    recovery.decide_now(only_one=False)
    return await recovery.find(work or lost(), waits=lambda: None)


KNOWN = ("T7", "bg-7-1", SENT - 1000)


async def test_it_is_believed_where_a_task_that_exists_is_found_the_same_way():
    provider = Account("kapon", task(7))
    assert await found(recovery_of(provider, Clock(), KNOWN)) is None
    assert provider.asked[-2:] == [lost().external_id, "bg-7-1"]


async def test_a_look_up_that_never_finds_is_not_believed_and_the_list_is_asked():
    provider = Account("kapon", task(7))
    provider.find = not_found
    assert await found(recovery_of(provider, Clock(), KNOWN)) is None  # by the list, which shows the known one
    assert provider.asked == ["page 1", "page 2"]
    provider.tasks = []
    with pytest.raises(Undecided, match="leaves out a task"):
        await found(recovery_of(provider, Clock(), KNOWN))


async def not_found(_external_id):
    raise TaskNotFound("no such task")


async def test_without_any_accepted_task_nothing_is_believed_before_the_run_has_one():
    provider, clock = Account("kapon", task(7)), Clock()
    recovery = recovery_of(provider, clock)
    waiting = []
    question = asyncio.ensure_future(recovery.find(lost(), waits=lambda: waiting.append(True)))
    while not recovery.waiting:
        await asyncio.sleep(0)
    assert waiting
    recovery.on_accepted("T7", "bg-7-1", SENT)
    await asyncio.sleep(0)
    assert not question.done()  # it may not be visible yet
    clock.now += 120
    recovery.on_accepted("T8", "bg-8-1", SENT)
    assert await asyncio.wait_for(question, 10) is None


async def test_a_question_that_waits_is_left_to_the_next_run_when_this_one_stops():
    recovery = recovery_of(Account(), Clock())
    recovery.stop()
    with pytest.raises(Postponed):
        await recovery.find(lost(), waits=lambda: None)


async def test_at_the_end_of_a_run_without_a_control_it_is_unknown():
    with pytest.raises(Undecided, match="no accepted task yet"):
        await found(recovery_of(Account(), Clock()))


@pytest.mark.parametrize(
    "sent",
    [{"id_sent": False}, {"key_print": "another"}, {"base_url_changed": True}],
    ids=["without an id", "with another key", "to another address"],
)
async def test_what_cannot_be_found_by_its_id_here_is_never_believed_to_be_absent(sent):
    provider = Account("kapon", task(7))
    with pytest.raises(Undecided, match="proves nothing"):
        await found(recovery_of(provider, Clock(), KNOWN), lost(**sent))
    provider.tasks.append(task(1, external_id=lost().external_id))
    assert (await found(recovery_of(provider, Clock(), KNOWN), lost(**sent))).id == "T1"


@pytest.mark.parametrize("set_by", [0, 3600, -3600], ids=["right", "set forward", "set back"])
async def test_the_time_in_which_it_may_turn_up_begins_when_the_exchange_has_ended(set_by):
    """However long ago the create was sent, and whatever the wall clock says."""
    clock = Clock()
    clock.now, clock.set_by = 60.0, set_by
    provider = Account("kapon", task(7))
    assert await found(recovery_of(provider, clock, KNOWN)) is None
    assert provider.account.visibility_delay <= sum(clock.slept) <= provider.account.visibility_delay + 3


async def test_what_turns_up_late_is_adopted():
    provider, clock = Account("kapon", task(7)), Clock()
    plain = clock.sleep

    async def sleep(seconds):
        await plain(seconds)
        if clock.now > 10:
            provider.tasks.append(task(1, external_id=lost().external_id))

    clock.sleep = sleep
    assert (await found(recovery_of(provider, clock, KNOWN))).id == "T1"


async def test_a_create_of_long_ago_needs_a_control_that_is_as_old():
    provider = Account("kapon", task(7), task(6))
    old = lost(sent_at=SENT - 3 * DAY)
    with pytest.raises(Undecided):
        await found(recovery_of(provider, Clock(), KNOWN), old)
    assert await found(recovery_of(provider, Clock(), KNOWN, ("T6", "bg-6-1", SENT - 4 * DAY)), old) is None
    provider.tasks.pop()  # forgotten, as ours may be
    with pytest.raises(Undecided):
        await found(recovery_of(provider, Clock(), KNOWN, ("T6", "bg-6-1", SENT - 4 * DAY)), old)


async def test_a_task_of_another_job_is_not_adopted():
    provider = Account("kapon", task(7))

    async def always_the_same(_external_id):
        return Task(id="T7", state=TaskState.RUNNING)

    provider.find = always_the_same
    recovery = recovery_of(provider, Clock(), KNOWN)
    recovery.on_accepted("T7", "bg-7-1", SENT)
    assert await found(recovery) is None  # the list proves it
    assert "page 1" in provider.asked


# --- lists ---------------------------------------------------------------------------------------------------


def listed(*tasks):
    provider = Account("kapon", *tasks)
    provider.find = not_found
    return provider


OURS = task(1, external_id=lost().external_id)
MANY = [task(number, at=SENT - number * 1000) for number in range(1000, 2100)]  # newest first


@pytest.mark.parametrize("order", ["newest first", "oldest first", "shuffled"])
@pytest.mark.parametrize("hours", [0, 5, -5])
async def test_a_list_is_read_far_enough_in_whatever_order_and_by_whatever_clock(order, hours):
    tasks = [task(7, at=SENT + 60_000), OURS, *MANY]
    tasks = [
        task(int(each.id[1:]), at=each.created_ms + hours * 3_600_000, external_id=each.external_id) for each in tasks
    ]
    if order == "oldest first":
        tasks.reverse()
    elif order == "shuffled":
        Random(4).shuffle(tasks)
    provider = listed(*tasks)
    known = ("T7", "bg-7-1", SENT + 60_000)
    assert (await found(recovery_of(provider, Clock(), known))).id == "T1"
    provider.tasks.remove(next(each for each in tasks if each.id == "T1"))
    provider.asked.clear()
    assert await found(recovery_of(provider, Clock(), known)) is None
    assert len(provider.asked) == (2 if order == "newest first" else 7)


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        ([task(8)], "leaves out"),
        ([task(7, external_id="BG-7-1")], "other ids"),
        ([task(7, external_id="bg-7")], "other ids"),
        ([task(7), Task(id="T9", state=TaskState.RUNNING, created_ms=SENT)], "without the ids"),
        ([Task(id="T7", state=TaskState.RUNNING, created_ms=SENT)], "without the ids"),
    ],
    ids=["gaps", "other case", "cut", "another task without an id", "ids hidden"],
)
async def test_a_list_that_hides_or_alters_ids_proves_nothing(shown, why):
    with pytest.raises(Undecided, match=why):
        await found(recovery_of(listed(*shown), Clock(), KNOWN))


async def test_an_old_task_without_an_id_is_no_objection():
    shown = [task(7), Task(id="T9", state=TaskState.SUCCEEDED, created_ms=SENT - 3_600_000)]
    assert await found(recovery_of(listed(*shown), Clock(), KNOWN)) is None


async def test_a_clock_that_was_set_forward_between_two_runs_hides_no_task_without_an_id():
    """By the clock of the earlier run, the lost task, which the list shows without its id, is a day too old."""
    hidden = replace(task(8, at=SENT - DAY), external_id=None)
    provider = Account("kapon", hidden, task(7, at=SENT - 2 * DAY))
    provider.find = not_found
    known = ("T7", "bg-7-1", SENT - 2 * DAY)
    with pytest.raises(Undecided, match="without the ids"):
        await found(recovery_of(provider, Clock(), known, began=SENT))
    assert await found(recovery_of(provider, Clock(), known)) is None  # sent by that run: the task is older


@pytest.mark.parametrize(("behind", "is_proof"), [(0, True), (9 * 60, True), (11 * 60, False), (-60 * 60, True)])
def test_a_list_that_begins_at_a_time_is_believed_where_the_gateways_clock_is_not_far_behind(behind, is_proof):
    known = Control(task_id="T7", external_id="bg-7-1", accepted_at=SENT + 3_600_000, since=0.0)
    proof = ListProof([known], SENT, SENT + 7_200_000, timed={"T7"}, any_runs=True, is_bounded=True)
    proof.is_complete_with([task(7, at=SENT + 3_600_000 - 1000 * behind)])
    assert (proof.gap == "") is is_proof


async def test_a_control_of_another_model_shows_nothing_where_a_list_is_of_one():
    provider = Account("kapon", task(7))
    provider.find = not_found
    provider.looks_by_model = True
    with pytest.raises(Undecided, match="no accepted task yet"):
        await found(recovery_of(provider, Clock(), KNOWN))


async def test_what_an_earlier_run_sent_is_looked_for_without_its_time():
    provider = Account("kapon", task(7))
    asked = []

    async def page_for(sent, number, size):
        asked.append(sent)
        return await Provider.page_for(provider, sent, number, size)

    provider.find, provider.page_for, provider.lists_since = not_found, page_for, True
    assert await found(recovery_of(provider, Clock(), KNOWN), lost(earlier=True)) is None
    assert {(sent.external_id, sent.sent_at) for sent in asked} == {(lost().external_id, 0)}
