"""The world of one life: time, chance, the disk and the order of everything, all from one seed.

Importing this module replaces the clocks of the process, so it is imported before batchgen.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import time
import uuid
from hashlib import blake2b
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.simulation.loop import Loop

EPOCH = 1_790_000_000.0  # Unix seconds at which every life begins
MOST_STEPS = 400_000  # of one run's event loop
LONGEST_RUN = 20 * 3600.0  # seconds of the machine's clock
MOST_REQUESTS = 30_000  # of one run

_real_time, _real_monotonic, _real_sleep, _real_uuid = time.time, time.monotonic, time.sleep, uuid.uuid4
_real_gettime = time.clock_gettime
_real_replace, _real_fsync, _real_exit = os.replace, os.fsync, os._exit


class Crash(SystemExit):
    """The process ends here: nothing after this moment is on the disk, or on the network."""


class Violation(SystemExit):
    """A rule of the oracle does not hold. No handler of errors in the code under test may take it."""


class World:
    """`without`: faults and moves that do not happen, by name. `folder` is the disk, emptied by the caller.

    There are two clocks besides the user's: `now` is the machine's monotonic one; `true` goes on while it is suspended.
    """

    def __init__(self, seed: str, folder: Path, *, without: frozenset[str] = frozenset()) -> None:
        self.seed, self.folder, self.without = seed, folder, without
        self.now = self.asleep = self.wall_offset = 0.0
        self.order = self.random("order")
        self.trace: list[str] = []
        self.faults: dict[str, int] = {}  # that happened, by name
        self.attempt = ""  # the external id of the create that is being sent
        self._network: list[tuple[float, int, Callable[[], None]]] = []
        self._posted = 0
        self.is_honest = False  # no fault happens any more
        self.loop: Loop | None = None
        self.on_callback: Callable[[str, dict[str, Any]], None] | None = None  # with its address, while a run listens
        self.begin_run({})

    def begin_run(self, events: dict[int, Callable[[], None]]) -> None:
        """`events`: what happens at which step of the event loop."""
        self.events, self.points = dict(events), 0
        self.crash_at_point = self.power_cut_at_point = 0
        self.is_dead = self.disk_full = self.was_suspended = False
        self.disk_spare = 0
        self.steps = self.requests = 0
        self.began = self.now
        self._synced: set[int] = set()  # inodes of files
        self._renamed: list[tuple[str, str]] = []

    # --- chance -------------------------------------------------------------------------------------------

    def random(self, name: str) -> random.Random:
        """A stream of its own, so that what one part draws moves no other."""
        return random.Random(f"{self.seed}/{name}")

    def chance(self, *occasion: object) -> float:
        """A number from 0 to 1 that depends on the occasion alone, never on what was drawn before."""
        text = "/".join(map(str, occasion))
        digest = blake2b(text.encode(), digest_size=7, key=self.seed.encode()).digest()
        return int.from_bytes(digest, "big") / 2**56

    def strikes(self, fault: str, rate: float, *occasion: object) -> bool:
        """Whether a fault happens on this occasion."""
        if not rate or self.is_honest or fault in self.without or self.chance(fault, *occasion) >= rate:
            return False
        self.note_fault(fault)
        return True

    def note_fault(self, fault: str) -> None:
        self.faults[fault] = self.faults.get(fault, 0) + 1

    # --- time ---------------------------------------------------------------------------------------------

    @property
    def true(self) -> float:
        return self.now + self.asleep

    def wall(self) -> float:
        """What the user's clock shows, in Unix seconds."""
        return EPOCH + self.true + self.wall_offset

    def at(self, true: float, call: Callable[[], None]) -> None:
        """Something happens outside of the process, whether or not it lives then."""
        self._posted += 1
        heappush(self._network, (true, self._posted, call))

    def next_event(self) -> float | None:
        """When something happens outside, by the machine's clock."""
        return self._network[0][0] - self.asleep if self._network else None

    def advance(self, now: float) -> None:
        """Let time pass, with all that happens outside until then, in its order."""
        while self._network and self._network[0][0] - self.asleep <= now:
            true, _, call = heappop(self._network)
            self.now = max(self.now, true - self.asleep)
            call()
        self.now = max(self.now, now)

    def suspend(self, seconds: float, *, lid: bool) -> None:
        """The process stands still: by a closed lid, when the monotonic clock stands too, or by Ctrl-Z."""
        self.was_suspended = True
        self.note(f"suspended for {seconds:.0f} s{', with its clock' if lid else ''}")
        if lid:
            self.asleep += seconds
        else:
            self.now += seconds
        self.advance(self.now)

    def set_clock(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self.note(f"the clock is set by {seconds:.0f} s")
        self.note_fault("clock set")
        self.wall_offset += seconds

    def step(self) -> None:
        """One callback of the event loop is about to run."""
        self.steps += 1
        if (event := self.events.pop(self.steps, None)) is not None:
            event()
        if self.is_dead:
            raise Crash
        if self.steps > MOST_STEPS or self.now - self.began > LONGEST_RUN:
            raise Violation(f"the run hangs: {self.steps} steps in {self.now - self.began:.0f} s")

    # --- the disk -----------------------------------------------------------------------------------------

    def point(self, what: str) -> None:
        """The process does something to the disk just now: it may end before or after it."""
        self.points += 1
        if self.points in {self.crash_at_point, self.power_cut_at_point}:
            when = f"before {what}" if self.points % 2 else f"after {what}"
            self.crash(when, power=self.points == self.power_cut_at_point)

    def crash(self, when: str, *, power: bool = False) -> None:
        """Keep the disk as it is: the process ends, and what it still does is undone."""
        if self.is_dead:
            return
        self.note(f"{'power cut' if power else 'killed'} {when}")
        self.note_fault("power cut" if power else "kill")
        self.is_dead = True
        shutil.copytree(self.folder / "disk", self.folder / "kept", symlinks=True)
        if power:
            self._lose_unsynced()
        raise Crash

    def _lose_unsynced(self) -> None:
        """What no sync has made durable is lost, by chance: the bytes of files, and their last names."""
        for file in sorted((self.folder / "kept").rglob("*")):
            original = self.folder / "disk" / file.relative_to(self.folder / "kept")
            is_ledger = file.name.startswith("state.sqlite3")
            if file.is_file() and not is_ledger and original.stat().st_ino not in self._synced:
                is_new = original.stat().st_mtime_ns >= self._began_ns
                if is_new and self.chance("unsynced", file.name) < 0.5:
                    os.truncate(file, file.stat().st_size // 2)
        for source, target in reversed(self._renamed):
            kept = [self.folder / "kept" / os.path.relpath(path, self.folder / "disk") for path in (source, target)]
            if self.chance("renamed", kept[1].name) < 0.5 and kept[1].is_file() and not kept[0].exists():
                kept[0].parent.mkdir(parents=True, exist_ok=True)
                _real_replace(kept[1], kept[0])

    def note_synced(self, status: os.stat_result) -> None:
        """A file's bytes, or the names in a folder, are durable from now on."""
        self._synced.add(status.st_ino)
        if stat.S_ISDIR(status.st_mode):
            self._renamed = [pair for pair in self._renamed if status.st_ino not in map(_inode_above, pair)]

    def restart(self) -> None:
        """The machine, or the user, starts again: the disk is as it was kept."""
        if self.is_dead:
            shutil.rmtree(self.folder / "disk")
            (self.folder / "kept").rename(self.folder / "disk")
        self.is_dead = False

    def watch_disk(self) -> None:
        """From now on it is known what was written since."""
        marker = self.folder / "marker"
        marker.write_bytes(b"")
        self._began_ns = marker.stat().st_mtime_ns

    def fill_disk(self) -> None:
        self.disk_full = True

    def refuse_if_full(self) -> None:
        """Raise OSError where the disk is full, but for what the reserve has freed."""
        if not self.disk_full or self.is_dead:
            return
        if self.disk_spare <= 0:
            self.note_fault("disk full")
            raise OSError(errno.ENOSPC, "No space left on device")
        self.disk_spare -= 1

    # --- what is told -------------------------------------------------------------------------------------

    def note(self, line: str) -> None:
        if not self.is_dead:
            self.trace.append(f"{self.true:12.3f}  {line}".replace(str(self.folder), "~"))


def _inode_above(path: str) -> int:
    """The folder of a path; 0 where it is gone."""
    try:
        return os.stat(os.path.dirname(path)).st_ino
    except FileNotFoundError:
        return 0


current: World | None = None


def enter(world: World | None) -> None:
    """All clocks of the process are those of this world; None: the machine's own."""
    global current  # noqa: PLW0603 - there is one process, and one world at a time
    current = world


def _now(of_world: Callable[[World], float], real: Callable[[], float]) -> Callable[[], float]:
    return lambda: real() if current is None else of_world(current)


def _replace(source: str, target: str, **options: object) -> None:
    if current is None:
        return _real_replace(source, target, **options)
    current.point(f"the move to {os.path.basename(target)}")
    is_new = not os.path.exists(target)
    _real_replace(source, target, **options)
    if is_new and not current.is_dead:
        current._renamed.append((os.fspath(source), os.fspath(target)))
    current.point(f"the move to {os.path.basename(target)}")
    return None


def _fsync(descriptor: int) -> None:
    if current is not None:
        current.refuse_if_full()
        current.point("a sync")
        current.note_synced(os.fstat(descriptor))
    else:
        _real_fsync(descriptor)


def _exit(code: int) -> None:
    if current is None:
        _real_exit(code)
    current.crash(f"by its user, with {code}")


time.time = _now(World.wall, _real_time)
time.monotonic = _now(lambda world: world.now, _real_monotonic)
time.clock_gettime = lambda which: _real_gettime(which) if current is None else current.true
time.time_ns = lambda: int(time.time() * 1e9)
time.sleep = lambda seconds: _real_sleep(seconds) if current is None else current.advance(current.now + seconds)
uuid.uuid4 = lambda: _real_uuid() if current is None else uuid.UUID(int=current.order.getrandbits(128), version=4)
os.replace, os.fsync, os._exit = _replace, _fsync, _exit
