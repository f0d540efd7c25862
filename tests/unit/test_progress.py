"""What a watcher of a run sees: on a terminal, in a pipe, as JSON, and nothing at all."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import subprocess
import sys
import threading

import pytest

from batchgen.app.observer import observed
from batchgen.cli.progress import Progress, Rate, describe, seconds_left
from batchgen.cli.terminal import cells
from batchgen.engine.counters import Counters
from batchgen.errors import AccountStopped


class Ticks:
    """A sleep that lasts until the test says so, and a clock that stands still until then."""

    def __init__(self):
        self.now = 1000.0
        self._slept = asyncio.Queue()
        self._wake = asyncio.Queue()

    async def sleep(self, seconds):
        self._slept.put_nowait(seconds)
        await self._wake.get()
        self.now += seconds

    async def tick(self):
        """Let one look at the counters happen; returns how long it waited for, in seconds."""
        seconds = await self._slept.get()
        self._wake.put_nowait(None)
        while self._slept.empty():
            await asyncio.sleep(0)
        return seconds


@pytest.fixture
async def ticks():
    return Ticks()


def watched(counters, ticks, **options):
    stream = options.pop("stream", None) or io.StringIO()
    progress = Progress(stream=stream, clock=lambda: ticks.now, **options)
    return stream, progress, observed(counters, progress, sleep=ticks.sleep)


class Terminal:
    """A real terminal, and everything that was drawn on it."""

    def __init__(self, columns=100):
        self._columns = columns

    def __enter__(self):
        import fcntl
        import struct
        import termios

        self._parent, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, self._columns, 0, 0))
        self.stream = open(child, "w", encoding="utf-8")  # noqa: PTH123 - of a descriptor
        self._drawn = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __exit__(self, *error):
        self.stream.close()
        self._reader.join()
        os.close(self._parent)

    def _read(self):
        while True:
            try:
                piece = os.read(self._parent, 65536)
            except OSError:  # so Linux says that the other end is closed
                return
            if not piece:
                return
            self._drawn += piece

    @property
    def drawn(self):
        """What was drawn; complete once the terminal is left."""
        return self._drawn.decode()


# --- a terminal ---------------------------------------------------------------------------------------------


async def test_a_terminal_gets_a_bar_that_follows_the_counters(ticks):
    counters = Counters(images_wanted=40, jobs_wanted=20, unit="USD")
    with Terminal() as terminal:
        _, _, shown = watched(counters, ticks, stream=terminal.stream)
        async with shown:
            assert await ticks.tick() == 0.25
            counters.images_done, counters.jobs_failed = 10, 2
            counters.slots_in_use, counters.slots, counters.cost = 7, 9, 1_250_000
            ticks.now += 5
            await ticks.tick()
            counters.images_done = 40
    assert " 25% " in terminal.drawn
    assert "10/40 · 2 failed · slots 7/9 · 1.8/s · 14 s left · 1.25 USD" in terminal.drawn
    last = terminal.drawn.rstrip("\r\n").split("\r")[-1]
    assert last.startswith("100% ")
    assert "40/40" in last
    assert terminal.drawn.endswith("\r\n")


WIDE = "the gateway says 請稍候 शुभ 👩‍👩‍👧"
SHOWN = {
    120: "1234/100000 · 2 failed · slots 7/9 · 99/s · 17 min left · 123.5 USD · the gateway says 請稍候 ",
    80: "1234/100000 · 2 failed · 17 min left · 123.5 USD · the gateway …",
    60: "1234/100000 · 2 failed · 17 min left · 123.5 USD",
    40: "1234/100000 17 min 123.5 USD",
    20: "1234/100000",
}


@pytest.mark.parametrize("columns", SHOWN)
async def test_a_narrow_terminal_keeps_percent_images_time_left_and_cost(ticks, columns):
    counters = Counters(images_wanted=100_000, jobs_wanted=100_000, unit="USD")
    with Terminal(columns) as terminal:
        _, progress, shown = watched(counters, ticks, stream=terminal.stream)
        async with shown:
            await ticks.tick()
            counters.images_done, counters.jobs_failed, counters.refusals = 1234, 2, 40
            counters.slots_in_use, counters.slots, counters.cost = 7, 9, 123_500_000
            counters.note = WIDE
            ticks.now += 12
            await ticks.tick()
            assert progress._width() == columns - 8 - (8 if columns >= 80 else 0)
    lines = [line for line in terminal.drawn.split("\r") if "1234" in line]
    assert all(cells(line.rstrip("\n")) <= columns for line in lines)
    assert lines[0].startswith("  1% ")
    assert SHOWN[columns] in lines[0]


async def test_a_note_of_wide_characters_is_cut_where_it_ends(ticks):
    counters = Counters(images_wanted=9, note="狐" * 99)
    with Terminal(80) as terminal:
        _, _, shown = watched(counters, ticks, stream=terminal.stream)
        async with shown:
            pass
    lines = [line.rstrip("\n") for line in terminal.drawn.split("\r") if "0/9" in line]
    assert all("狐…" in line and cells(line) <= 80 for line in lines)


async def test_a_message_stands_above_the_bar(ticks):
    with Terminal() as terminal:
        _, progress, shown = watched(Counters(images_wanted=4), ticks, stream=terminal.stream)
        async with shown:
            progress.on_message("The account is busy.", "warning", code="1303")
            await ticks.tick()
    lines = [line.split("\r")[-1].rstrip() for line in terminal.drawn.split("\r\n")]
    assert "warning: The account is busy. code=1303" in lines
    assert sum("0/4" in line for line in lines) == 1


async def test_a_note_and_a_message_cannot_steer_the_terminal(ticks):
    counters = Counters(images_wanted=4, note="\x1b[2Jcleared")
    stream, progress, shown = watched(counters, ticks)
    async with shown:
        progress.on_message("\x1b]0;title\x07 said the gateway")
    assert "\x1b" not in stream.getvalue()
    assert "\x07" not in stream.getvalue()
    assert "cleared" in stream.getvalue()


async def test_a_terminal_that_goes_away_ends_nothing(ticks):
    with Terminal() as terminal:
        _, progress, shown = watched(Counters(images_wanted=4), ticks, stream=terminal.stream)
        async with shown:
            terminal.stream.close()
            await ticks.tick()
            progress.on_message("still here")


# --- no terminal --------------------------------------------------------------------------------------------


async def test_a_pipe_gets_a_line_every_half_minute_and_a_last_one(ticks):
    counters = Counters(images_wanted=500, jobs_wanted=500)
    stream, _, shown = watched(counters, ticks)
    async with shown:
        counters.images_done = 60
        assert await ticks.tick() == 30
        counters.images_done, counters.jobs_failed, counters.note = 360, 1, "waiting for the gateway"
        await ticks.tick()
        counters.images_done = 499
    assert stream.getvalue().splitlines() == [
        "60 of 500 images, 2/s, 4 min left",
        "360 of 500 images, 1 failed, 6/s, 23 s left, waiting for the gateway",
        "499 of 500 images, 1 failed, 8.3/s, waiting for the gateway",
    ]


async def test_json_lines_are_one_object_each(ticks):
    counters = Counters(images_wanted=8, jobs_wanted=8, cost=2_500_000, unit="USD")
    stream, progress, shown = watched(counters, ticks, log_format="json")
    async with shown:
        progress.on_message("Two\nlines", "warning", job="1abc", code=1303)
        counters.images_done = 8
        await ticks.tick()
    said, progressed, last = map(json.loads, stream.getvalue().splitlines())
    assert said.pop("time").endswith("Z")
    assert said == {"level": "warning", "message": "Two\nlines", "job": "1abc", "code": 1303}
    assert progressed["event"] == "progress"
    assert (progressed["images_done"], progressed["images_wanted"], progressed["cost"]) == (8, 8, "2.5")
    assert last["images_done"] == 8


async def test_json_is_asked_for_even_on_a_terminal(ticks):
    with Terminal() as terminal:
        _, _, shown = watched(Counters(), ticks, stream=terminal.stream, log_format="json")
        async with shown:
            await ticks.tick()
    assert all(json.loads(line) for line in terminal.drawn.splitlines())


async def test_quiet_shows_errors_alone(ticks):
    stream, progress, shown = watched(Counters(images_wanted=8), ticks, quiet=True)
    async with shown:
        progress.on_message("The run began.")
        progress.on_message("The account is busy.", "warning")
        progress.on_message("The disk is full.", "error")
    assert stream.getvalue() == "error: The disk is full.\n"


async def test_lines_go_on_after_the_run_and_before_it(ticks):
    stream, progress, shown = watched(Counters(), ticks)
    progress.on_message("before")
    async with shown:
        pass
    progress.on_message("after")
    assert stream.getvalue().splitlines() == ["before", "0 of 0 images", "after"]


async def test_a_reader_that_goes_away_ends_nothing(ticks):
    read, write = os.pipe()
    stream = os.fdopen(write, "w", encoding="utf-8")
    os.close(read)
    _, progress, shown = watched(Counters(images_wanted=8), ticks, stream=stream)
    async with shown:
        await ticks.tick()
        progress.on_message("nobody reads this")
    with pytest.raises(BrokenPipeError):
        stream.close()


async def test_an_error_of_the_run_comes_through_as_it_is(ticks):
    _, _, shown = watched(Counters(), ticks)
    with pytest.raises(AccountStopped, match="balance"):
        async with shown:
            raise AccountStopped("The balance is empty.")


async def test_a_cancelled_run_is_cancelled_and_shown_a_last_time(ticks):
    stream, _, shown = watched(Counters(images_wanted=8), ticks)

    async def run():
        async with shown:
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await ticks.tick()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stream.getvalue().splitlines() == ["0 of 8 images"] * 2
    assert [t for t in asyncio.all_tasks() if t.get_name() == "progress"] == []


def test_the_bar_s_package_is_loaded_only_for_a_bar():
    script = (
        "import asyncio, sys\n"
        "from batchgen.engine.counters import Counters\n"
        "from batchgen.app.observer import observed\n"
        "from batchgen.cli.progress import Progress\n"
        "async def run():\n"
        "    async with observed(Counters(images_wanted=3), Progress()): pass\n"
        "asyncio.run(run())\n"
        "print('tqdm' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "0 of 3 images\n")


# --- rate and time left -------------------------------------------------------------------------------------


def rate_after(*steps, window=120.0):
    """The rate after steps of (seconds since the step before, images by then)."""
    now = 0.0
    rate = Rate(lambda: now, window=window)
    for seconds, images in steps:
        now += seconds
        rate.note(images)
    return rate.a_second()


@pytest.mark.parametrize("steps", [(), ((0, 50),), ((0, 0), (1.9, 100)), ((0, 0), (60, 2)), ((0, 7), (60, 7))])
def test_there_is_no_rate_before_there_is_enough_to_say(steps):
    assert rate_after(*steps) is None


def test_what_was_there_before_the_run_is_not_its_speed():
    assert rate_after((0, 1000), (10, 1020)) == 2


def test_the_rate_forgets_what_lies_before_its_window():
    assert rate_after((0, 0), (60, 600), (60, 606), (60, 612), window=120) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("counters", "rate", "seconds"),
    [
        (Counters(images_wanted=100, images_done=40, jobs_wanted=50), 2.0, 30),
        (Counters(images_wanted=100, images_done=40, jobs_wanted=50, jobs_failed=10), 2.0, 20),
        (Counters(images_wanted=100, images_done=40), None, None),
        (Counters(images_wanted=100, images_done=40, slots=10, task_seconds=20), None, 120),
        (Counters(images_wanted=100, images_done=40, slots=10, task_seconds=20, images_to_fetch=30), None, 60),
        (Counters(images_wanted=100, images_done=40, slots=10, task_seconds=20), 6.0, 120),
        (Counters(images_wanted=100, images_done=40, slots=10, task_seconds=20), 0.1, 600),
        (Counters(images_wanted=100, images_done=100, jobs_wanted=50), 2.0, None),
        (Counters(images_wanted=100, images_done=90, jobs_wanted=50, jobs_failed=50), 2.0, None),
    ],
)
def test_the_time_left_follows_the_rate_and_the_latencies_and_leaves_out_failed_jobs(counters, rate, seconds):
    assert seconds_left(counters, rate) == seconds


@pytest.mark.parametrize(("rest", "words"), [(60, "60 s left"), (3600, "60 min left"), (9000, "2 h 30 min left")])
def test_times_are_said_in_the_unit_that_fits(rest, words):
    assert words in describe(Counters(images_wanted=rest, jobs_wanted=1), 1.0)
