"""The Kling image API, as two gateways and the official service speak it; what differs is the account's data."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
import warnings
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import jwt

from batchgen.catalog.accounts import Auth
from batchgen.errors import AccountStopped, OwnRefusal, TaskNotFound, Unclear
from batchgen.providers import kling_responses
from batchgen.providers.base import Page, Provider, Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchgen.catalog.accounts import Account
    from batchgen.http.client import Answer, HttpClient
    from batchgen.jobs import Job, Reference
    from batchgen.providers.base import Secrets

_PATH = "/v1/images/generations"
_TOKEN_SECONDS = 1800
_TOKEN_BACKDATED_SECONDS = 5
_TOKEN_RENEWED_BEFORE_END_SECONDS = 300
_REFERENCES_KEPT = 8


class KlingProvider(Provider):
    """Create, query and list over one account."""

    def __init__(self, account: Account, door: HttpClient, secrets: Secrets) -> None:
        super().__init__(account, door, secrets)
        self._url = account.base_url + _PATH
        self._token = ""
        self._token_ends = 0.0  # by the gateway's clock, as far as it is known
        self._skew = 0.0  # seconds that the gateway's clock is ahead of ours
        self._references: OrderedDict[str, str] = OrderedDict()

    async def create(self, job: Job, external_id: str) -> Task:
        """POST the job, with only the fields that the account knows."""
        request = await self.request(job, external_id)
        body = json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode()
        answer = await self._send("POST", self._url, body)
        return kling_responses.task_from(
            kling_responses.data_of(answer, creating=True, operation="the create"), answer.head
        ).told_in(answer)

    async def query(self, task_id: str) -> Task:
        """GET one task by its id, or by the caller's own."""
        answer = await self._send("GET", f"{self._url}/{quote(task_id, safe='')}")
        return kling_responses.task_from(
            kling_responses.data_of(answer, creating=False, operation="a query"), answer.head
        ).told_in(answer)

    async def page(self, number: int, size: int) -> Page:
        """GET a page of tasks, newest first."""
        answer = await self._send("GET", f"{self._url}?pageNum={number}&pageSize={size}")
        data = kling_responses.data_of(answer, creating=False, operation="a list of tasks")
        items = data if isinstance(data, list) else data.get("list") or data.get("tasks")
        if not isinstance(items, list | None):
            raise Unclear("The gateway's list of tasks is not a list.", head=answer.head)
        known = [item for item in items or () if isinstance(item, dict) and item.get("task_id")]
        return Page(tasks=tuple(kling_responses.task_from(item, "").told_in(answer) for item in known))

    async def probe(self) -> None:
        """The list or a query; 1202 to a query says that there is no such path, not that there is no such task."""
        try:
            await super().probe()
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

    @property
    def sends_id(self) -> bool:
        """As far as the account knows the field."""
        return "external_task_id" in self.account.fields | self.account.required

    async def request(self, job: Job, external_id: str) -> dict[str, Any]:
        """The create's body: what was asked for, what the account requires, and nothing it does not know."""
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
        return {self._wire(name): value for name, value in values.items() if value is not None and name in known}

    def _wire(self, name: str) -> str:
        return self.account.model_field if name == "model" else name

    async def _image(self, reference: Reference) -> str:
        """The link, or the file as bare base64; the last few files are kept, not all of them."""
        if reference.path is None or reference.sha256 is None:
            return str(reference.url)
        if reference.sha256 not in self._references:
            text = await asyncio.to_thread(_encoded, reference.path, reference.sha256)
            self._references[reference.sha256] = text
            if len(self._references) > _REFERENCES_KEPT:
                self._references.popitem(last=False)
        self._references.move_to_end(reference.sha256)
        return self._references[reference.sha256]

    async def _send(self, method: str, url: str, body: bytes | None = None) -> Answer:
        bearer = self._bearer()
        headers = {**self.headers, "Authorization": f"Bearer {bearer}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        send = partial(
            self.door.send,
            method,
            url,
            body=body,
            within=self.account.request_timeout,
            fresh=body is not None and self.creates_alone,
        )
        answer = await send(headers=headers)
        if self.account.auth is Auth.JWT and answer.status == 401:
            self._renew(bearer, answer)
            bearer = self._bearer()
            headers["Authorization"] = f"Bearer {bearer}"
            answer = await send(headers=headers)
        return answer

    def _bearer(self) -> str:
        if self.account.auth is Auth.API_KEY:
            return self.secrets[self.account.api_key_env]
        if self.account.auth is Auth.NONE:
            return "sandbox"
        now = time.time() + self._skew
        if not self._token or now > self._token_ends - _TOKEN_RENEWED_BEFORE_END_SECONDS:
            self._token_ends = now + _TOKEN_SECONDS
            claims = {
                "iss": self.secrets[self.account.access_key_env],
                "exp": int(self._token_ends),
                "nbf": int(now) - _TOKEN_BACKDATED_SECONDS,
            }
            with warnings.catch_warnings():  # a key that is too short is refused by the gateway, in better words
                warnings.filterwarnings("ignore", message="The HMAC key")
                self._token = jwt.encode(claims, self.secrets[self.account.secret_key_env], algorithm="HS256")
        return self._token

    def _renew(self, refused: str, answer: Answer) -> None:
        """A refused token may have expired, or come from a clock that is not the gateway's: follow the gateway's.

        Of requests that were refused together, the first renews for all.
        """
        if refused == self._token:
            told = answer.date
            self._skew = 0.0 if told is None else told - time.time()
            self._token = ""


def _encoded(path: str, sha256: str) -> str:
    """The file as bare base64. Raises OwnRefusal where it is no longer what the job's id was made from."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise OwnRefusal(f"The reference image {path} cannot be read ({error.strerror}).", code="local") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise OwnRefusal(
            f"The reference image {path} has changed since this run began; run again to use what it is now.",
            code="local",
        )
    return base64.b64encode(data).decode("ascii")
