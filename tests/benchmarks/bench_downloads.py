"""Measures downloads, and compares them with a bare loop that writes the same files; run it by hand:

    python tests/benchmarks/bench_downloads.py [--images 1000] [--bytes 2000000] [--repeat 3] [--profile]

One server process serves the same PNG for every request. `batchgen run` starts with every task made, so it only has to
download: links from the ledger, the check of each image, its hash, fsync, the ledger, the move into place. The bare
loops use aiohttp with as many concurrent downloads and write each file in the loop or in a thread, without check, hash
or sync; the third one hashes and syncs. `to bare` is the ratio to the fastest of the first two in the same round,
`to synced` to the third. `stall` is the longest time for which the event loop was blocked, seen by a task that wakes
each millisecond, without the first and last tenth of a second; the machine causes what the third one has of it. With
`--folder /dev/shm` no disk is used.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

ROOT = Path(__file__).resolve().parents[2]
AIM, AIM_STALL = 0.9, 0.020  # of the bare loop's MB/s; seconds
WAYS = {
    "loop": "bare, written in the loop",
    "thread": "bare, written in a thread",
    "synced": "bare, synced and hashed",
    "ours": "batchgen run",
}
MANIFEST = """version: 1
name: bench
provider: local
defaults: {{n: {n}}}
run: {{downloads: {at_once}}}
providers: {{local: {{use: kapon, base_url: "{origin}/kling", api_key_env: BENCH_KEY}}}}
matrix:
  prompt:
{prompts}
"""
IMAGES_PER_TASK = 8


# --- the server -------------------------------------------------------------------------------------------------


class Server(asyncio.Protocol):
    """Answers every request with the same image, without a framework."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            self._received = self._received[end + 4 :]
            self._transport.write(self._answer)


async def serve(size: int) -> None:
    from batchgen.sandbox.formats import Format, padded
    from batchgen.sandbox.painter import blank

    body = padded(blank((1024, 1024)), Format.PNG, size)
    answer = f"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    server = await asyncio.get_running_loop().create_server(lambda: Server(answer), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# --- what is measured, each in a process of its own -------------------------------------------------------------


async def ticked(work: Coroutine[Any, Any, Any], figures: dict[str, float]) -> Any:
    """Do the work beside a task that wakes each millisecond; seconds, and the longest of its sleeps."""
    sleeps: list[tuple[float, float]] = []

    async def tick() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            sleeps.append((before, time.perf_counter() - before))

    started, used = time.perf_counter(), time.process_time()
    ticker = asyncio.create_task(tick())
    result = await work
    ended = time.perf_counter()
    ticker.cancel()
    middle = [length for at, length in sleeps if started + 0.1 < at < ended - 0.1]
    figures |= {"seconds": ended - started, "stall": max(middle, default=0.0), "cpu": time.process_time() - used}
    return result


def write_synced(path: Path, body: bytes) -> str:
    with path.open("wb", buffering=0) as file:
        file.write(body)
        os.fsync(file.fileno())
    return hashlib.sha256(body).hexdigest()


async def bare(way: str, origin: str, images: int, at_once: int, folder: Path) -> None:
    import aiohttp

    async def worker(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            async with session.get(f"{origin}/{number}.png") as response:
                body = await response.read()
            path = folder / f"{number}.png"
            if way == "loop":
                path.write_bytes(body)
            else:
                await asyncio.to_thread(path.write_bytes if way == "thread" else partial(write_synced, path), body)

    numbers = iter(range(images))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(worker(session))


def prepare(origin: str, images: int, at_once: int, folder: Path) -> Path:
    """A manifest, and an output whose ledger says that all tasks are made and nothing is downloaded."""
    from batchgen.app.load import load_manifest
    from batchgen.jobs import ImageLink, external_id
    from batchgen.ledger.events import Accepted, Intent, Made
    from batchgen.ledger.store import FILE_NAME, Ledger
    from batchgen.matrix.expand import expand

    prompts = "\n".join(f"    - prompt {number}" for number in range(images // IMAGES_PER_TASK))
    path = folder / "bench.yaml"
    path.write_text(
        MANIFEST.format(n=IMAGES_PER_TASK, at_once=at_once, origin=origin, prompts=prompts), encoding="utf-8"
    )
    manifest = load_manifest(path)
    root = folder / "outputs" / "bench"
    root.mkdir(parents=True)
    ledger = Ledger.open(root / FILE_NAME)
    ledger.set_wanted_jobs(expand(manifest))
    now = int(time.time() * 1000)
    for number, job in enumerate(expand(manifest)):
        links = tuple(ImageLink(index=i, url=f"{origin}/{number}-{i}.png") for i in range(IMAGES_PER_TASK))
        name, account = external_id(job.id, 1), manifest.account
        ledger.record(
            [
                Intent(
                    job=job,
                    attempt=1,
                    account=account.name,
                    base_url=account.base_url,
                    external_id=name,
                    at=now,
                    reserved=None,
                ),
                Accepted(job_id=job.id, attempt=1, task_id=f"T{number}", at=now),
                Made(job_id=job.id, attempt=1, links=links, cost=None, at=now),
            ]
        )
    ledger.close()
    return path


def ours(
    origin: str, images: int, at_once: int, folder: Path, figures: dict[str, float], words: tuple[str, ...] = ()
) -> None:
    from batchgen.app import run
    from batchgen.cli.main import main

    path = prepare(origin, images, at_once, folder)
    real = asyncio.run
    run.asyncio.run = lambda work: real(ticked(work, figures))
    os.chdir(folder)
    with open(os.devnull, "w") as nothing:  # noqa: PTH123
        sys.stdout, stdout = nothing, sys.stdout
        code = main(["run", str(path), "--quiet", *words])
        sys.stdout = stdout
    run.asyncio.run = real
    assert code == 0, code
    assert sum(1 for _ in (folder / "outputs").rglob("*.png")) == images // IMAGES_PER_TASK * IMAGES_PER_TASK


def child(way: str, origin: str, images: int, at_once: int, folder: Path) -> None:
    """Measure one way, and print its figures."""
    figures: dict[str, float] = {}
    if way == "ours":
        ours(origin, images, at_once, folder, figures)
    else:
        asyncio.run(ticked(bare(way, origin, images, at_once, folder), figures))
    print(json.dumps(figures))


def profiled(*arguments: Any) -> None:
    """As `child`, with a profile of the loop's thread."""
    import cProfile
    import pstats

    profile = cProfile.Profile()
    profile.runcall(child, *arguments)
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(25)
    print(text.getvalue(), file=sys.stderr)


# --- the table --------------------------------------------------------------------------------------------------


@contextmanager
def server(size: int) -> Iterator[str]:
    words = [sys.executable, __file__, "--serve", "--bytes", str(size)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()


def measured(way: str, origin: str, options: argparse.Namespace) -> dict[str, float]:
    folder = Path(tempfile.mkdtemp(prefix="batchgen-bench-", dir=options.folder))
    words = [sys.executable, __file__, "--way", way, "--origin", origin, "--images", str(options.images)]
    words += ["--at-once", str(options.at_once), "--folder", str(folder), *(["--profile"] if options.profile else [])]
    try:
        done = subprocess.run(
            words, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, env=os.environ | {"BENCH_KEY": "none"}
        )
        return json.loads(done.stdout.splitlines()[-1])
    finally:
        shutil.rmtree(folder)


def table(options: argparse.Namespace) -> None:
    """Run every way in turn and print the medians."""
    figures: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with server(options.bytes) as origin:
        for _ in range(options.repeat):
            for way in WAYS:
                figures[way].append(measured(way, origin, options))
    megabytes = options.images * options.bytes / 1e6
    best = [max(megabytes / figures[way][i]["seconds"] for way in ("loop", "thread")) for i in range(options.repeat)]
    load = os.getloadavg()[0]
    print(f"{options.images} images of {options.bytes:,} bytes, {options.at_once} concurrent; load {load:.1f}")
    print(f"{'':<28}{'MB/s':>8}{'to bare':>9}{'to synced':>12}{'CPU ms an image':>17}{'stall ms':>10}")
    for way, name in WAYS.items():
        speeds = [megabytes / each["seconds"] for each in figures[way]]
        ratio = median(speed / top for speed, top in zip(speeds, best, strict=True))
        pairs = zip(figures["synced"], figures[way], strict=True)
        synced = median(theirs["seconds"] / own["seconds"] for theirs, own in pairs)
        cpu = median(each["cpu"] for each in figures[way]) / options.images * 1000
        stall = median(each["stall"] for each in figures[way]) * 1000
        print(f"{name:<28}{median(speeds):>8.0f}{ratio:>9.2f}{synced:>12.2f}{cpu:>17.2f}{stall:>10.1f}")
    print(f"aimed at: {AIM} of the bare loop, no stall over {AIM_STALL * 1000:.0f} ms")


def main() -> None:
    """Read the command line; parts of the measurement call it too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--bytes", type=int, default=2_000_000, help="size of each (default: 2000000)")
    parser.add_argument("--at-once", type=int, default=8, help="concurrent downloads (default: 8, as run.downloads)")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions (default: 3)")
    parser.add_argument("--folder", type=Path, help="where to write (default: the temporary folder)")
    parser.add_argument("--profile", action="store_true", help="show where the loop's time goes")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--origin", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.images -= options.images % IMAGES_PER_TASK
    if options.serve:
        asyncio.run(serve(options.bytes))
    elif options.way:
        act = profiled if options.profile else child
        act(options.way, options.origin, options.images, options.at_once, options.folder)
    else:
        table(options)


if __name__ == "__main__":
    main()
