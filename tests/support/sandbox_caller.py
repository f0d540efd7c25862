"""A caller of the sandbox for its own tests: real HTTP, without anything of batchgen's client."""

from __future__ import annotations

import base64
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
from PIL import Image

from batchgen.sandbox.api import PATH
from batchgen.sandbox.server import Sandbox
from batchgen.sandbox.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Answer(NamedTuple):
    status: int
    code: int
    data: Any
    message: str
    headers: Any


@dataclass
class Clock:
    """Time that passes only when a test says so; Unix seconds."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Caller:
    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self.session = session
        self.url = sandbox.base_url + PATH

    async def create(self, **body: Any) -> Answer:
        return await self.ask("POST", self.url, data=BytesIO(json.dumps(body).encode()))

    async def made(self, **body: Any) -> str:
        answer = await self.create(**body)
        assert (answer.status, answer.code) == (200, 0), answer
        return answer.data["task_id"]

    async def query(self, name: str) -> Answer:
        return await self.ask("GET", f"{self.url}/{name}")

    async def listed(self, query: str = "") -> Answer:
        return await self.ask("GET", self.url + query)

    async def ask(self, method: str, url: str, **more: Any) -> Answer:
        async with self.session.request(method, url, **more) as response:
            body = await response.json()
            assert body["request_id"]
            return Answer(response.status, body["code"], body.get("data"), body["message"], response.headers)

    async def fetch(self, url: str) -> bytes:
        async with self.session.get(url) as response:
            assert response.status == 200, await response.text()
            return await response.read()

    async def links(self, task: str) -> list[dict[str, Any]]:
        return (await self.query(task)).data["task_result"]["images"]

    async def usage(self, query: str = "") -> dict[str, Any]:
        async with self.session.get(f"{self.sandbox.origin}/_usage{query}") as response:
            return await response.json()


@asynccontextmanager
async def gateway(clock: Clock | None = None, *, key: str = "any", **settings: Any) -> AsyncIterator[Caller]:
    """A sandbox with these settings and a caller with this key. Without a clock, tasks end at once."""
    timing = {"clock": clock} if clock else {}
    settings.setdefault("latency", 1.0 if clock else 0.0)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        Sandbox(Settings(**settings), **timing) as sandbox,
        aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=20)) as session,
    ):
        yield Caller(sandbox, session)


def picture(width: int = 320, height: int = 320, kind: str = "PNG") -> str:
    """A picture of this size as bare base64."""
    file = BytesIO()
    Image.new("RGB", (width, height), "teal").save(file, kind)
    return base64.b64encode(file.getvalue()).decode()
