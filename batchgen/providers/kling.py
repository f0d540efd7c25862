"""The Kling image API of the official service and two gateways; their differences are data of the account."""

from __future__ import annotations

import asyncio
import time
import warnings
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import jwt

from batchgen.catalog.accounts import Auth
from batchgen.errors import AccountStopped, NotSent, TaskNotFound, Unclear
from batchgen.providers import kling_responses
from batchgen.providers.base import Page, Provider, Task
from batchgen.providers.references import encoded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchgen.catalog.accounts import Account
    from batchgen.http.client import Answer, HttpClient
    from batchgen.jobs import Job, Reference
    from batchgen.providers.base import Secrets

_PATH = "/v1/images/generations"
_TOKEN_SECONDS = 1800
_TOKEN_BACKDATED_SECONDS = 5
_REFERENCES_KEPT = 8


class KlingProvider(Provider):
    def __init__(
        self, account: Account, client: HttpClient, secrets: Secrets, *, wall: Callable[[], float] = time.time
    ) -> None:
        super().__init__(account, client, secrets)
        self.wall = wall  # Unix seconds
        self._skew = 0.0  # seconds that the gateway's clock is ahead of ours
        self._encoded = lru_cache(maxsize=_REFERENCES_KEPT)(encoded)

    async def create(self, job: Job, external_id: str) -> Task:
        """POST the job, with only the fields that the account knows."""
        answer = await self.send("POST", _PATH, await self.request(job, external_id))
        return _task(answer, creating=True, operation="the create")

    async def query(self, task_id: str) -> Task:
        answer = await self.send("GET", f"{_PATH}/{quote(task_id, safe='')}")
        return _task(answer, creating=False, operation="a query")

    async def page(self, number: int, size: int) -> Page:
        answer = await self.send("GET", f"{_PATH}?pageNum={number}&pageSize={size}")
        data = kling_responses.data_of(answer, creating=False, operation="a list of tasks")
        items = data if isinstance(data, list) else data.get("list") or data.get("tasks")
        if not isinstance(items, list | None):
            raise Unclear("The gateway's list of tasks is not a list.", body_excerpt=answer.body_excerpt)
        known = [item for item in items or () if isinstance(item, dict) and item.get("task_id")]
        return Page(tasks=tuple(kling_responses.task_from(item, "").noting(answer) for item in known))

    async def probe(self) -> str | None:
        """As `Provider.probe`; 1202 to a query says that there is no such path, not that there is no such task."""
        try:
            return await super().probe()
        except TaskNotFound as error:
            if error.code == kling_responses.NO_SUCH_PATH:
                raise AccountStopped(f"{error}. Check the account's base_url.") from error
            raise

    def parse_callback(self, call: Mapping[str, Any]) -> Task | None:
        """The task object, bare or as `data` of an answer."""
        inner = call.get("data")
        try:
            return kling_responses.task_from(inner if isinstance(inner, dict) else call, "")
        except Unclear:
            return None

    def sends_id(self, job: Job) -> bool:  # noqa: ARG002 - it is the same for all jobs
        """As far as the account knows the field."""
        return "external_task_id" in self.account.fields | self.account.required

    async def request(self, job: Job, external_id: str) -> dict[str, Any]:
        """The create's body: what the job asks for and the account requires, in fields that the account knows.

        Parameters that the account declares come first: none replaces a field of batchgen's own.
        """
        parameters = job.parameters
        values: dict[str, Any] = {
            "model": parameters.model,
            "prompt": job.prompt,
            "negative_prompt": parameters.negative_prompt,
            "image": await self._image(parameters.image) if parameters.image else None,
            "image_reference": parameters.image_reference,
            "image_fidelity": parameters.image_fidelity,
            "human_fidelity": parameters.human_fidelity,
            "resolution": parameters.resolution,
            "n": parameters.n,
            "aspect_ratio": parameters.aspect_ratio,
            "watermark_info": (None if parameters.watermark_info is None else {"enabled": parameters.watermark_info}),
            "callback_url": self.callback_url or None,
            "external_task_id": external_id,
        }
        known = self.account.fields | self.account.required
        fields = {"model": self.account.model_field}
        given = {fields.get(name, name): value for name, value in values.items() if value is not None and name in known}
        return {**self.further(job), **given}

    async def _image(self, reference: Reference) -> str:
        """The link, or the file as bare base64; the last few files are kept, not all of them."""
        if reference.path is None or reference.sha256 is None:
            return str(reference.url)
        return await asyncio.to_thread(self._encoded, reference.path, reference.sha256)

    async def send(self, method: str, path: str, data: object = None, **options: Any) -> Answer:  # noqa: ANN401
        """As `Provider.send`; a request with a token that the gateway refuses is sent once more with a new one.

        Where that one is not sent, the first answer stands: it may be that to the second copy of an accepted create.
        """
        answer = await super().send(method, path, data, **options)
        if self.account.auth is Auth.JWT and answer.status == 401:  # our clock may be wrong: theirs counts
            self._skew = 0.0 if answer.date is None else answer.date - self.wall()
            with suppress(NotSent):
                answer = await super().send(method, path, data, **options)
        return answer

    @property
    def bearer(self) -> str:
        """The API key, or a token signed with the secret key: a new one for each request takes microseconds."""
        if self.account.auth is not Auth.JWT:
            return super().bearer or "sandbox"
        now = self.wall() + self._skew
        claims = {
            "iss": self.secrets[self.account.access_key_env],
            "exp": int(now + _TOKEN_SECONDS),
            "nbf": int(now) - _TOKEN_BACKDATED_SECONDS,
        }
        with warnings.catch_warnings():  # the gateway refuses a key that is too short, in better words
            warnings.filterwarnings("ignore", message="The HMAC key")
            return jwt.encode(claims, self.secrets[self.account.secret_key_env], algorithm="HS256")


def _task(answer: Answer, *, creating: bool, operation: str) -> Task:
    data = kling_responses.data_of(answer, creating=creating, operation=operation)
    return kling_responses.task_from(data, answer.body_excerpt).noting(answer)
