"""One life: a story played with the real `run`, `plan` and `audit` in a world of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.simulation import world as worlds  # before batchgen, whose clocks it replaces

# isort: split
import asyncio

import batchgen
from batchgen.app import gateway_query, run, run_session
from batchgen.app.audit import audit
from batchgen.app.plan import plan
from batchgen.callbacks import addresses, endpoint, server
from batchgen.engine.context import Context
from batchgen.errors import BatchgenError, CommandError, DiskRefused, ImageBroken
from batchgen.http import client, downloads
from batchgen.jobs import LIVE, Status
from batchgen.ledger import connection, versions
from batchgen.providers.validated import ValidatedProvider
from batchgen.sandbox import server as sandbox_server
from batchgen.storage.tree import read_image
from tests.simulation import loop, network, story
from tests.simulation.gateway import Gateway
from tests.simulation.network import Network, Window
from tests.simulation.oracle import Books, Oracle, demand
from tests.simulation.story import Step, Story
from tests.simulation.world import Violation, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batchgen.app.run_result import RunResult

# --- what stands in for the machine ------------------------------------------------------------------------


class _Reserve:
    """Disk space that a run reserves: what it frees lets a few more changes be written."""

    def __init__(self, _folder: Path, _size: int) -> None:
        self._world, self._left = worlds.current, 8
        if self._world.disk_full:
            raise DiskRefused("The disk is full. Nothing was sent; free disk space, then run again.")

    def release(self) -> bool:
        self._left -= 1
        self._world.disk_spare += 1
        return self._left >= 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        """It disappears with the process."""


class _LocalSandbox:
    """The sandbox of a rehearsal: a gateway that bills nothing."""

    def __init__(self, settings: Any) -> None:
        world = worlds.current
        given = asdict(settings) | {"blank_images": True}
        self._gateway = Gateway(world, "rehearsal", rates={}, **given)
        self._network = world.network

    async def __aenter__(self) -> Any:
        sandbox = self._gateway.sandbox
        sandbox.store.open(sandbox._api.request_of)
        self._network.by_host[self._gateway.host] = self._gateway
        return sandbox

    async def __aexit__(self, *_error: object) -> None:
        self._network.by_host.pop(self._gateway.host, None)
        self._gateway.sandbox.store.close()


_execute = connection._Connection.execute


def _with_points(self: Any, sql: str, parameters: Any = (), /) -> Any:
    """As SQLite; a commit is a moment at which the process may end, or the disk be full."""
    world = worlds.current
    if sql != "COMMIT" or world is None:
        return _execute(self, sql, parameters)
    world.point("a commit")
    try:
        world.refuse_if_full()
    except OSError as error:
        raise DiskRefused("The disk refused to keep the ledger (state.sqlite3): database or disk is full.") from error
    done = _execute(self, sql, parameters)
    world.point("a commit")
    return done


def install() -> None:
    """Put the world below batchgen: its ports, and the few places where it turns to the machine itself."""
    asyncio.run = loop.run
    client.HttpClient = network.Client
    downloads.open_downloader = network.open_downloader
    endpoint.CallbackEndpoint = network.Endpoint
    server.open_callback_server = network.open_callback_server
    addresses.new_secret = network.new_secret
    sandbox_server.Sandbox = _LocalSandbox
    ValidatedProvider.create = network.create
    run_session.Context = lambda **given: Context(rng=worlds.current.random(f"engine {worlds.current.began}"), **given)
    run_session.Reserve = _Reserve
    run_session._rare_collections = nullcontext
    gateway_query.Random = lambda: worlds.current.random("audit")
    connection._Connection.execute = _with_points
    run.shared_kind = versions.shared_kind = lambda _: None
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a parent may have ignored it
    warnings.simplefilter("ignore", RuntimeWarning)
    sys.unraisablehook = lambda _: None  # of coroutines that a crash has left


class _Observer(batchgen.Observer):
    interval = 3600.0

    def __init__(self, world: World) -> None:
        self._world = world
        self.messages: list[str] = []

    def on_message(self, message: str, level: str = "info") -> None:
        self.messages.append(message)
        self._world.note(f"  {level}: {message[:150]}")


# --- the life -----------------------------------------------------------------------------------------------


class Life:
    """`without`: faults by name and steps by `step N` that a shrunken story leaves out."""

    def __init__(self, seed: str, folder: Path, *, without: frozenset[str] = frozenset()) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "disk").mkdir(parents=True)
        self.world = world = World(seed, folder, without=without)
        self.story: Story = story.draw(world.random("story"))
        self.manifest = self.story.manifest
        self.root = folder / "disk" / "out"
        self.outputs = [self.root]
        self.gateways = {account.name: self._gateway(account) for account in self.story.accounts}
        self.network = world.network = Network(world, self.gateways)
        self.oracle = Oracle(self)
        self.troubled: set[str] = set()  # attempts whose create was not simply accepted
        self.may_fail: set[str] = set()  # of those the ones that count against their job
        self.rehearsed = False
        self.creates = self.runs = 0
        self._taken: list[tuple[Path, bytes]] = []  # files that the user took away
        self._kept_ledger: bytes | None = None
        self._read: dict[str, Any] = {}
        for account in self.story.accounts:
            self._set_key(account.name, 1)

    def _gateway(self, plan: story.AccountPlan) -> Gateway:
        gateway = Gateway(self.world, plan.name, rates=plan.rates, skew=plan.skew, **plan.sandbox)
        gateway.visibility_delay = plan.settings.get("visibility_delay", 15)
        gateway.is_per_key = plan.is_per_key
        return gateway

    def _set_key(self, name: str, number: int) -> None:
        key = f"key-of-{name}-{number}"
        self.gateways[name].key = key
        self.network.keys.add(key)
        os.environ[f"KEY_{name.upper()}"] = key
        os.environ[f"SECRET_{name.upper()}"] = f"secret-{key}"

    # --- its course ---------------------------------------------------------------------------------------

    def play(self) -> None:
        """Raises Violation where a rule does not hold."""
        worlds.enter(self.world)
        tempfile.tempdir = str(self.world.folder)  # for what is rescued
        try:
            for step in self.story.steps:
                if f"step {step.number}" not in self.world.without:
                    self.world.note(f"--- {step}")
                    self._play(step)
                    self._pass(1.0 if self.world.chance("pause", step.number) < 0.5 else 100.0)
            self._end()
        except BaseException as error:
            if not isinstance(error, Violation | KeyboardInterrupt):
                raise Violation(f"a defect: {type(error).__name__}: {error}") from error
            raise
        finally:
            worlds.enter(None)
            tempfile.tempdir = None

    def _pass(self, seconds: float) -> None:
        self.world.advance(self.world.now + seconds)

    def _play(self, step: Step) -> None:
        if step.does == "run":
            self._run(step.given)
        else:
            getattr(self, f"_{step.does.replace(' ', '_')}")(**step.given)

    def _end(self) -> None:
        """The faults stop; after at most three plain runs everything is there."""
        world = self.world
        world.is_honest, world.wall_offset = True, 0.0
        for gateway in self.gateways.values():
            self._set_key(gateway.name, 1)
            gateway.is_per_key = False
        self.manifest.pop("budget", None)
        self.manifest["run"]["give_up_after"] = "2h"
        for root in self.outputs:
            self.root = root
            for _ in range(3):
                self._pass(7200.0)
                world.note("--- a plain run")
                result = self._run({"options": {}})
                if isinstance(result, CommandError):  # a ledger, or a file, that is not this output's
                    self._adopt()
                    self._delete_damaged()  # which nothing can adopt
                    result = self._run({"options": {}})
                elif isinstance(result, DiskRefused):  # all images are gone, as if a drive were not mounted
                    result = self._run({"options": {"refetch": True}})
                if (
                    not isinstance(result, BatchgenError)
                    and not result.unfinished
                    and not {*LIVE, Status.PENDING} & {*result.jobs}
                ):
                    break  # another run has nothing to do
            self.oracle.check_end(self.root, self._loaded(), result)
        self.oracle.check_nothing_lost()
        world.note("the end")

    # --- a run --------------------------------------------------------------------------------------------

    def _run(self, befalls: Mapping[str, Any], manifest: Any = None) -> RunResult | BatchgenError | None:
        """The result, the error with which it ended, or None where it was killed."""
        world, network = self.world, self.network
        options = dict(befalls["options"])
        self._write_manifest()
        self._prepare(befalls)
        self.oracle.begin_run(self.root, options, self.manifest["run"])
        network.resume(Books.read(self.root))
        before = self.oracle.images_billed()
        if "deadline" in options:
            options["deadline"] = timedelta(seconds=options["deadline"])
        observer = _Observer(world)
        loaded = None
        self.runs += 1
        result: RunResult | BatchgenError | None = None
        try:
            try:
                loaded = manifest or self._loaded()
            except BatchgenError as error:
                raise Violation(f"the manifest is not valid: {error}") from error
            self._note_limits(loaded)
            result = batchgen.run(loaded, observer=observer, output=self.root, handle_signals=True, **options)
        except Violation:
            raise
        except BatchgenError as error:
            result = error
        except BaseException:
            if not world.is_dead:
                raise
        if world.is_dead:
            world.restart()
            result = None
        has_rescued, world.disk_full = world.disk_full, False  # the user does not read what was rescued
        world.loop = world.on_callback = None
        self.troubled |= network.troubled
        self.may_fail |= network.may_fail
        if has_rescued:
            self.troubled |= {send.attempt for send in network.sends}
        if result is None:
            self.troubled |= {attempt for attempt, known in Books.read(self.root).attempts.items() if not known.outcome}
        self.creates += len(network.sends)
        self.oracle.check_money()
        self.oracle.check_refusal(result)
        if loaded is not None and len(self.outputs) == 1 and self._kept_ledger is None and not self.rehearsed:
            self.oracle.check_budget(loaded, before, options.get("max_cost"))
        if isinstance(result, BatchgenError):
            world.note(f"the run ends: {result}")
            self.oracle.check_secrets(self.root, [*observer.messages, str(result)])
        elif result is not None:
            world.note(f"the run ends: {json.dumps(result.as_data())}")
            self.oracle.check_result(self.root, loaded, result, [*observer.messages, result.reason], options)
        return result

    def _prepare(self, befalls: Mapping[str, Any]) -> None:
        """What is to happen at which step of the run."""
        world = self.world
        events: dict[int, Any] = {}

        def at(what: str, call: Any) -> None:
            value = befalls.get(what)
            if value is None or what in world.without:
                return
            for each in value if isinstance(value, list) else [value]:
                step, *rest = each if isinstance(each, tuple) else (each,)
                events[step] = partial(call, *rest)

        at("killed at step", lambda: world.crash(f"at step {world.steps}"))
        at("power cut at step", lambda: world.crash(f"at step {world.steps}", power=True))
        at("interrupted at step", self._interrupt)
        at("suspended at step", lambda seconds, lid: world.suspend(seconds, lid=lid))
        at("clock set at step", world.set_clock)
        at("disk full at step", world.fill_disk)
        world.begin_run(events)
        world.watch_disk()
        if "killed at point" not in world.without:
            world.crash_at_point = befalls.get("killed at point", 0)
        if "power cut at point" not in world.without:
            world.power_cut_at_point = befalls.get("power cut at point", 0)
        self.network.begin_run()
        for gateway in self.gateways.values():
            gateway.known_since.clear()
            gateway.is_given_up = "task_timeout" in self.manifest["run"]
            gateway.windows.clear()
        if (window := befalls.get("window")) and "window" not in world.without:
            name, kind, after, lasts = window
            if not (kind == "key" and "repeated" in self.gateways[name].rates):  # bound: not between the two copies
                self.gateways[name].windows.append(
                    Window(kind=kind, begins=world.true + after, ends=world.true + after + lasts)
                )

    def _interrupt(self) -> None:
        number = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[int(3 * self.world.chance("signal", self.world.steps))]
        if handlers := self.world.loop.signals:  # else a signal ends the process, as a kill does
            self.world.note(number.name)
            self.world.note_fault("signal")
            demand(number in handlers, f"{number.name} would kill the run")
            handlers[number]()

    def _note_limits(self, manifest: Any) -> None:
        for name, gateway in self.gateways.items():
            account = manifest.accounts[name]
            # A task that is no longer waited for may still run.
            is_stated = not account.adaptive_concurrency and "task_timeout" not in self.manifest["run"]
            gateway.limit = account.concurrency if is_stated else None
            gateway.quota = account.creates_per_minute

    def _write_manifest(self) -> None:
        self._path = self.world.folder / "disk" / "manifest.yaml"
        self._text = json.dumps(self.manifest, ensure_ascii=False)
        self._path.write_text(self._text, encoding="utf-8")

    def _loaded(self, provider: str | None = None) -> Any:
        """The manifest; read from its file once for each of its texts."""
        self._write_manifest()
        key = (self._text, provider)
        if self._read.get("key") != key:
            self._read = {"key": key, "manifest": batchgen.load_manifest(self._path, provider=provider)}
        return self._read["manifest"]

    # --- what the user does: each takes what `story._move` gives --------------------------------------------

    @property
    def _has_ids(self) -> bool:
        """Else a ledger that is put back, or copied, asks for everything anew: nobody could prevent that."""
        return all(account.has_ids for account in self.story.accounts)

    def _edit(self, what: str, seed: int) -> None:
        self.manifest = story.edited(self.manifest, what, seed)
        self.oracle.has_one_price &= what != "other price"

    def _files(self) -> list[Path]:
        return sorted(path for path in (self.root / "images").rglob("*") if path.is_file())

    def _delete_files(self, seed: int, every: int = 3) -> None:
        for path in self._files()[seed % every :: every]:
            self._taken.append((path, path.read_bytes()))
            self.oracle.note_deleted(self._taken[-1][1])
            path.unlink()

    def _delete_all_images(self, seed: int) -> None:
        self._delete_files(seed, every=1)
        if seed % 2:
            shutil.rmtree(self.root / "images", ignore_errors=True)

    def _damage_a_file(self, seed: int) -> None:
        for path in self._files()[seed % 5 :: 5][:1]:
            body = path.read_bytes()
            self.oracle.note_deleted(body)
            path.write_bytes(body[: len(body) // 2] if seed % 2 else body + b"more")
            self.oracle.note_deleted(path.read_bytes())

    def _delete_damaged(self) -> None:
        for path in self._files():
            try:
                read_image(path)
            except ImageBroken:
                path.unlink()

    def _return_files(self, seed: int) -> None:
        pictures = self.oracle.pictures()  # a rehearsal's, put back, would be adopted by their names alone
        for path, body in self._taken[seed % 2 :: 2]:
            is_own = not self.rehearsed or hashlib.sha256(body).hexdigest() in pictures
            if is_own and not path.exists() and path.parent.is_dir():
                path.write_bytes(body)
        self._taken = self._taken[1 - seed % 2 :: 2]

    def _delete_a_view(self, seed: int) -> None:
        (self.root / ("index.csv" if seed % 2 else "failures.csv")).unlink(missing_ok=True)

    def _set_a_key(self, seed: int) -> None:
        self._set_key("one", 1 + seed % 3)

    def _keep_the_ledger(self, seed: int) -> None:
        path = self.root / "state.sqlite3"
        if self._has_ids and path.exists() and not path.with_name("state.sqlite3-wal").exists():
            self._kept_ledger = path.read_bytes()

    def _restore_the_ledger(self, seed: int) -> None:
        if self._kept_ledger is not None:
            for end in ("-wal", "-shm"):
                (self.root / f"state.sqlite3{end}").unlink(missing_ok=True)
            (self.root / "state.sqlite3").write_bytes(self._kept_ledger)
            self.oracle.copies += 1

    def _copy_the_output(self, seed: int) -> None:
        copy = self.root.with_name("copy")
        if self._has_ids and self.root.exists() and not copy.exists():
            shutil.copytree(self.root, copy)
            self.outputs.append(copy)
            self.oracle.copies += 1

    def _other_output(self, seed: int) -> None:
        self.root = self.outputs[seed % len(self.outputs)]

    def _rehearse(self, seed: int) -> None:
        own, before = self.root, self.rehearsed
        self.root = self.root.with_name("out-sandbox") if seed % 3 else self.root
        self.rehearsed = True
        with self._unpaid():
            killed = {"killed at step": 10 + seed} if seed % 2 else {}
            self._run({"options": {}} | killed, self._loaded(provider="sandbox"))
        self.rehearsed = before or self.root == own
        self.root = own

    def _look(self, seed: int) -> None:
        """What only looks changes nothing and asks nobody."""
        with self._unchanged(), self._unpaid():
            self._told(lambda: plan(self._loaded(), output=self.root))
            self._told(lambda: audit(self._loaded(), self.root, offline=True))
            demand(self.world.requests == 0, "plan or audit --offline has asked somebody")

    def _ask(self, seed: int) -> None:
        with self._unchanged(), self._unpaid():
            self._told(lambda: audit(self._loaded(), self.root))

    def _adopt(self, seed: int = 0) -> None:
        self.oracle.begin_adoption()
        with self._unpaid():
            self._told(lambda: audit(self._loaded(), self.root, adopt=True))
        self.oracle.check_money()

    def _told(self, command: Callable[[], Any]) -> Any:
        """What a command returns; None where it ends with a sentence."""
        try:
            return command()
        except BatchgenError as error:
            self.world.note(f"  {error}")
            return None

    def _set_the_clock(self, seed: int, seconds: float) -> None:
        self.world.set_clock(seconds)

    def _wait(self, seed: int, seconds: float) -> None:
        self._pass(seconds)

    @contextmanager
    def _unpaid(self) -> Iterator[None]:
        """Nothing that is done here is billed."""
        self._prepare({})
        yield
        demand(all(send.gateway.name == "rehearsal" for send in self.network.sends), "this costs something")

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Nothing that is done here changes a file of the output."""
        before = self._state()
        yield
        demand(self._state() == before, "this has changed the output")

    def _state(self) -> list[tuple[str, int, int]]:
        files = (path for path in sorted(self.root.rglob("*")) if path.is_file())
        found = ((path, path.stat()) for path in files if not path.name.startswith("state.sqlite3-"))
        return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in found]
