"""The bare loop that the engine is compared with: the same requests and files, without what makes a run safe.

No ledger, no checks, no limits, no retries, no index. It knows the latency, so it knows when a task has ended.

    python bare_loop.py BASE_URL PROMPTS FOLDER --slots 200 --latency 0.15 --lists 60 --queries 0

sends one create for each line of the file PROMPTS, as many list and single queries as the options say, and writes
FOLDER/images/NUMBER.png. It needs aiohttp.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = "/v1/images/generations"
PAGE = {"pageNum": "1", "pageSize": "500"}
_MARGIN = 0.002  # seconds to wait beyond a task's latency


@dataclass(slots=True, kw_only=True)
class Loop:
    """What the workers share."""

    session: aiohttp.ClientSession
    url: str
    latency: float
    images: Path
    synced: bool
    each_list: float  # tasks that come due for one list query
    each_query: float  # single queries for a task
    ends: dict[str, asyncio.Future[str]]  # by task id, of tasks that wait for the list
    lists: asyncio.Event
    due: float = 0.0
    queries_owed: float = 0.0
    running: int = 0

    async def work(self, jobs: Iterator[tuple[int, str]]) -> None:
        """One slot: one job after another."""
        for number, prompt in jobs:
            link = await self.made(prompt, f"bare-{number}")
            async with self.session.get(link) as response:
                content = await response.read()
            path = self.images / f"{number}.png"
            if self.synced:
                await asyncio.to_thread(write_synced, path, content)
            else:
                path.write_bytes(content)

    async def made(self, prompt: str, external_id: str) -> str:
        """The link of a task that has ended."""
        body = {"model_name": "kling-v1", "prompt": prompt, "n": 1, "external_task_id": external_id}
        async with self.session.post(self.url, json=body) as response:
            task_id = json.loads(await response.read())["data"]["task_id"]
        self.running += 1
        await asyncio.sleep(self.latency + _MARGIN)
        link = await self.query_singly(task_id)
        if link is None:
            end = self.ends[task_id] = asyncio.get_running_loop().create_future()
            self.due += 1
            if self.due >= self.each_list or len(self.ends) >= self.running:
                self.lists.set()
            link = await end
        self.running -= 1
        if self.ends and len(self.ends) >= self.running:  # this task was queried alone: no other may trigger the list
            self.lists.set()
        return link

    async def query_singly(self, task_id: str) -> str | None:
        """As many single queries as this task's share; the link of the last one, or None without any."""
        self.queries_owed += self.each_query
        link = None
        while self.queries_owed >= 1 or (link is None and not self.each_list):
            self.queries_owed = max(0.0, self.queries_owed - 1)
            async with self.session.get(f"{self.url}/{task_id}") as response:
                link = link_of(json.loads(await response.read())["data"])
        return link

    async def query_lists(self) -> None:
        """One list query whenever enough tasks are due."""
        while True:
            await self.lists.wait()
            self.lists.clear()
            self.due = max(0.0, self.due - self.each_list)
            async with self.session.get(self.url, params=PAGE) as response:
                tasks = json.loads(await response.read())["data"]
            for task in tasks:
                link = link_of(task)
                if link is not None and (end := self.ends.pop(task["task_id"], None)) is not None:
                    end.set_result(link)
            if self.due >= self.each_list or (self.ends and len(self.ends) >= self.running):
                self.lists.set()


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and sync it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def link_of(task: dict[str, Any]) -> str | None:
    """The image's address, once the task has succeeded."""
    return task["task_result"]["images"][0]["url"] if task["task_status"] == "succeed" else None


async def run(options: argparse.Namespace) -> None:
    """Send every prompt, `--slots` at a time."""
    prompts = options.prompts.read_text(encoding="utf-8").splitlines()
    images = options.folder / "images"
    images.mkdir(parents=True)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Authorization": "Bearer any"},
    ) as session:
        loop = Loop(
            session=session,
            url=options.base_url + PATH,
            latency=options.latency,
            images=images,
            synced=options.synced,
            each_list=len(prompts) / options.lists if options.lists else 0.0,
            each_query=options.queries / len(prompts),
            ends={},
            lists=asyncio.Event(),
        )
        jobs = iter(enumerate(prompts))
        async with asyncio.TaskGroup() as group:
            lister = group.create_task(loop.query_lists())
            async with asyncio.TaskGroup() as workers:
                for _ in range(options.slots):
                    workers.create_task(loop.work(jobs))
            lister.cancel()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base_url")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slots", type=int, default=200)
    parser.add_argument("--latency", type=float, default=0.15, help="seconds that the gateway takes for a task")
    parser.add_argument("--lists", type=int, default=0, help="list queries in all")
    parser.add_argument("--queries", type=int, default=0, help="single queries in all")
    parser.add_argument("--synced", action="store_true", help="sync each file (fsync)")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
