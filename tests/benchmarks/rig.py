"""The rig of the engine's benchmark: a sandbox in its own process, a manifest, and the real command on it."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from gateway_usage import GatewayUsage, throttled
from measured import Running, Threads, Usage, cpu_of, start
from sandbox_process import SandboxProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KEY = {"SANDBOX_KEY": "a-key-for-benchmarks"}
NAME = "bench"
SEED = 11
_OURS = ("-m", "batchgen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A run that has ended: the resources it used, and the gateway's usage."""

    usage: Usage
    gateway: GatewayUsage
    gateway_cpu: float
    main_cpu: float  # of the run's own thread with the event loop
    other_cpu: float
    refused_early: int  # creates that were refused in the first minute
    last_file: float  # Unix seconds

    @property
    def making(self) -> float:
        """Seconds from the first create to the last file."""
        return self.last_file - self.gateway.first_create


@contextmanager
def folder() -> Iterator[Path]:
    """A new folder for one run, removed when the benchmark ends.

    ext4 does not reuse recently freed inodes, and searching for others would slow down the next run.
    """
    path = Path(tempfile.mkdtemp(prefix="batchgen-bench-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    yield path


def gateway(*options: object, units: int, latency: float, sigma: float = 0.0) -> SandboxProcess:
    """A sandbox with blank images in its own process, as a context."""
    return SandboxProcess(
        *("--blank-images", "--concurrency", str(units), "--latency", str(latency), "--latency-sigma", str(sigma)),
        *("--seed", str(SEED), "--emulate", "kapon"),
        *map(str, options),
    )


def manifest(place: Path, base_url: str, matrix: str, *, limits: str = "", more: str = "") -> Path:
    """Write a manifest for an account at this gateway. `limits` is the inside of its mapping."""
    path = place / "manifest.yaml"
    path.write_text(
        f"version: 1\nname: {NAME}\nprovider: local\nmax_jobs: 9000000\n"
        f'providers: {{local: {{use: kapon, base_url: "{base_url}", api_key_env: SANDBOX_KEY,'
        f" limits: {{{limits}}}}}}}\n{more}{matrix}",
        encoding="utf-8",
    )
    return path


def mixed(jobs: int) -> str:
    """A matrix of this many prompts with n from 1 to 4, the same on every call."""
    rng = Random(SEED)
    lines = "".join(f'    - {{prompt: "prompt number {i}", n: {rng.randint(1, 4)}}}\n' for i in range(jobs))
    return f"matrix:\n  prompt:\n{lines}"


def plain(place: Path, jobs: int) -> str:
    """A matrix of this many prompts in a file beside the manifest."""
    (place / "prompts.txt").write_text("".join(f"prompt number {i}\n" for i in range(jobs)), encoding="utf-8")
    return "matrix: {prompt: {from: prompts.txt}}\n"


def many(jobs: int) -> str:
    """A matrix of this many jobs (a multiple of 1,000) as a product of variables."""
    rows, columns = jobs // 1000, 1000
    values = [", ".join(f"v{i}" for i in range(number)) for number in (rows, columns)]
    return f'matrix: {{prompt: "{{{{ a }}}} of {{{{ b }}}}", vars: {{a: [{values[0]}], b: [{values[1]}]}}}}\n'


def launch(place: Path, path: Path, *options: object, python: Sequence[str] = _OURS) -> Running:
    """Start `batchgen run`; it prints one JSON document at its end, and errors."""
    return start([sys.executable, *python, "run", str(path), "--quiet", "--json", *map(str, options)], place, KEY)


def whole_run(
    place: Path, server: SandboxProcess, path: Path, *options: object, python: Sequence[str] = _OURS, codes: str = "0"
) -> Seen:
    """Run to the end. `codes`: the expected exit codes, one digit each."""
    before = cpu_of(server._process.pid)
    running = launch(place, path, *options, python=python)
    early = _Early(server)
    threads = Threads(running.process.pid)
    threads.follow()
    usage = running.wait()
    early.end()
    if str(usage.exit_code) not in codes:
        raise SystemExit(f"The run ended with exit code {usage.exit_code}:\n{usage.printed[-2000:]}")
    return Seen(
        usage=usage,
        gateway=GatewayUsage.of(server.usage()),
        gateway_cpu=cpu_of(server._process.pid) - before,
        main_cpu=threads.main,
        other_cpu=threads.others,
        refused_early=early.refused,
        last_file=last_file(place / "outputs" / NAME / "images"),
    )


def last_file(tree: Path) -> float:
    """When the last file was written, Unix seconds; 0 where there is none."""
    return max((file.stat().st_mtime for file in tree.rglob("*") if file.is_file()), default=0.0)


class _Early:
    """Asks the gateway a minute after the start how many creates it refused."""

    def __init__(self, server: SandboxProcess) -> None:
        self._server = server
        self.refused = 0
        self._timer = threading.Timer(61.0, self._ask)  # the command takes a second to start
        self._timer.daemon = True
        self._timer.start()

    def _ask(self) -> None:
        sums: dict[str, Any] = self._server.usage(tasks=False)
        self.refused = throttled(sums["requests"])

    def end(self) -> None:
        self._timer.cancel()
        self._timer.join()
