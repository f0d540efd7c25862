"""The same work in Scrapy (https://scrapy.org): create, wait for the latency, query once, download.

    python scrapy_spider.py BASE_URL PROMPTS FOLDER --slots 200 --latency 0.15

Scrapy is no dependency of batchgen: `python -m venv X && X/bin/pip install scrapy`, then run this with X/bin/python
(`bench_engine.py --scrapy X/bin/python` does). The spider knows when a task ends, so that it need not poll.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import scrapy
from scrapy.crawler import CrawlerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from scrapy.http import Response

PATH = "/v1/images/generations"
_MARGIN = 0.002  # seconds to wait beyond a task's latency
_KEY = {"Authorization": "Bearer any", "Content-Type": "application/json"}
SETTINGS: dict[str, Any] = {
    "LOG_LEVEL": "ERROR",
    "TELNETCONSOLE_ENABLED": False,
    "COOKIES_ENABLED": False,
    "RETRY_ENABLED": False,
    "ROBOTSTXT_OBEY": False,
    "DOWNLOAD_DELAY": 0,
    "TWISTED_REACTOR": "twisted.internet.asyncioreactor.AsyncioSelectorReactor",
}


class Images(scrapy.Spider):
    """One create for each prompt, `slots` tasks at a time."""

    name = "images"

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self.options = options
        self.url = options.base_url + PATH
        self.jobs: Iterator[tuple[int, str]] = iter(enumerate(options.prompts.read_text("utf-8").splitlines()))

    async def start(self) -> AsyncIterator[scrapy.Request]:
        for _ in range(self.options.slots):
            for request in self.next_create():
                yield request

    def next_create(self) -> Iterator[scrapy.Request]:
        for number, prompt in self.jobs:
            body = {"model_name": "kling-v1", "prompt": prompt, "n": 1, "external_task_id": f"scrapy-{number}"}
            yield self.request(self.url, self.created, number, method="POST", body=json.dumps(body))
            return

    def request(self, url: str, callback: Any, number: int, **more: Any) -> scrapy.Request:
        return scrapy.Request(
            url, callback=callback, cb_kwargs={"number": number}, headers=_KEY, dont_filter=True, **more
        )

    async def created(self, response: Response, number: int) -> AsyncIterator[scrapy.Request]:
        task_id = json.loads(response.body)["data"]["task_id"]
        await asyncio.sleep(self.options.latency + _MARGIN)
        yield self.request(f"{self.url}/{task_id}", self.ended, number)

    def ended(self, response: Response, number: int) -> Iterator[scrapy.Request]:
        link = json.loads(response.body)["data"]["task_result"]["images"][0]["url"]
        yield from self.next_create()
        yield self.request(link, self.fetched, number)

    def fetched(self, response: Response, number: int) -> None:
        (self.options.folder / "images" / f"{number}.png").write_bytes(response.body)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base_url")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slots", type=int, default=200)
    parser.add_argument("--latency", type=float, default=0.15, help="seconds that the gateway takes for a task")
    options = parser.parse_args()
    (options.folder / "images").mkdir(parents=True)
    at_once = {"CONCURRENT_REQUESTS": 2 * options.slots, "CONCURRENT_REQUESTS_PER_DOMAIN": 2 * options.slots}
    process = CrawlerProcess(SETTINGS | at_once)
    process.crawl(Images, options=options)
    process.start()


if __name__ == "__main__":
    main()
