"""The requests of a declared API: made from its definition and a job, and sent with the key to its own hosts alone."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import defaultdict
from contextlib import suppress
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from batchgen.apis.compiler import definition_of
from batchgen.apis.definition import FILES, OF_IMAGE
from batchgen.apis.hosts import MovedHosts
from batchgen.apis.multipart import File, multipart
from batchgen.apis.values import ABSENT, addressed, rendered
from batchgen.errors import (
    AccountStopped,
    AttemptFailed,
    BatchgenError,
    CommandError,
    JobError,
    JobRefused,
    JobRejected,
    NotSent,
    OwnRefusal,
    RefusedOrTaken,
    TaskNotFound,
    Throttled,
    TooFast,
    TooManyRunning,
    Unclear,
)
from batchgen.http.decompression import LARGEST_ANSWER
from batchgen.providers import responses
from batchgen.providers.base import Provider
from batchgen.providers.credentials import Credentials
from batchgen.providers.declared_answers import message
from batchgen.providers.references import content

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchgen.apis.definition import Step
    from batchgen.apis.values import Values
    from batchgen.catalog.accounts import Account
    from batchgen.http.client import Answer, HttpClient
    from batchgen.jobs import Job, Reference
    from batchgen.providers.base import Secrets

_LARGEST_IMAGE = 64 * 1024 * 1024  # bytes of one that an answer holds
_REFERENCES_KEPT = 8
_MAGIC = {b"\x89PNG": "png", b"\xff\xd8": "jpeg", b"RIFF": "webp"}  # how a file begins
_NOT_TAKEN = frozenset({413, 415})  # too large, or of another kind
_UPLOAD_SECONDS = 3600.0  # after which an image is uploaded again: it is free, and an API may drop what it got
_OF_CREATE: Mapping[str, type[BatchgenError]] = {
    "account": AccountStopped,
    "slower": TooFast,
    "busy": TooManyRunning,
    "rejected": JobRejected,
    "refused": JobRefused,
    "again": AttemptFailed,
    "taken": RefusedOrTaken,
}
_OF_QUERY: Mapping[str, type[BatchgenError]] = {
    "account": AccountStopped,
    "slower": TooFast,
    "busy": TooFast,
    "missing": TaskNotFound,
    "rejected": JobRejected,
    "refused": JobRefused,
    "again": AttemptFailed,
}


class DeclaredRequests(Provider):
    """The half of a declared account that sends."""

    def __init__(self, account: Account, client: HttpClient, secrets: Secrets) -> None:
        super().__init__(account, client, secrets)
        try:
            self._api = definition_of(account.definition)
        except ValueError as error:
            raise CommandError(
                f"The account {account.name!r} has a definition that cannot be used: {error}"
                " Check it with: batchgen validate"
            ) from error
        self._steps = self._api.steps
        self._hosts = MovedHosts(self._api.hosts, account.base_url)
        self._credentials = Credentials(account, self._api, secrets)
        self._forms = lru_cache(maxsize=_REFERENCES_KEPT)(_forms)
        self._uploads: dict[str, tuple[str, float]] = {}  # what was given for an image, and until when it is used
        self._uploading: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def _of_job(self, job: Job) -> dict[str, Any]:
        parameters = job.parameters
        width, _, height = (self.account.size_of(parameters) or "").partition("x")
        found = {
            "prompt": job.prompt,
            "negative_prompt": parameters.negative_prompt,
            "model": parameters.model,
            "n": parameters.n,
            "aspect_ratio": parameters.aspect_ratio,
            "resolution": parameters.resolution,
            "width": int(width) if width else None,
            "height": int(height) if height else None,
            "image_fidelity": parameters.image_fidelity,
            "callback_url": self.callback_url or None,
            **await self._of_image(parameters.image),
            **dict.fromkeys(self.account.parameters),
            **self.further(job),
        }
        for name, words in self._api.words.items():
            if found.get(name) is not None:
                found[name] = words.get(str(found[name]), found[name])
        return found

    async def _of_image(self, image: Reference | None) -> dict[str, str | None]:
        """The reference image: a link as `url` and `data_uri`, a file in every other form that the create sends."""
        found: dict[str, Any] = dict.fromkeys(OF_IMAGE)
        if image is None:
            return found
        if image.path is None or image.sha256 is None:
            found |= {"image_url": image.url, "image_data_uri": image.url}
        else:
            forms = asyncio.to_thread(self._forms, image.path, image.sha256, self._api.image_values)
            found |= await forms
            if "image_uploaded" in self._api.image_values:
                found["image_uploaded"] = await self._uploaded(image.path, image.sha256)
        if not any(found[name] for name in self._api.image_values):
            form = "a link" if image.url else "a file"
            raise OwnRefusal(f"This account does not take {form} as the reference image.", code="local")
        return found

    async def _uploaded(self, path: str, sha256: str) -> str:
        """What the API gave for a reference image, which is sent once for all jobs with this content.

        Raises as a create that was not sent: an upload is free, and may be repeated.
        """
        async with self._uploading[sha256]:
            given, until = self._uploads.get(sha256, ("", 0.0))
            if not given or time.monotonic() >= until:
                given = await self._upload(path, sha256)
                self._uploads[sha256] = given, time.monotonic() + _UPLOAD_SECONDS
            return given

    async def _upload(self, path: str, sha256: str) -> str:
        step = self._steps["upload"]
        values = await asyncio.to_thread(self._forms, path, sha256, frozenset(step.names))
        try:
            answer, body = await self._ask(step, values)
            if answer.status in _NOT_TAKEN:  # a server in front of the API may say so, with a page
                raise OwnRefusal(f"The API does not take this reference image ({answer.status}).", code="upload")
            self._check_yes(step, answer, body, "an upload")
        except (TaskNotFound, Unclear) as error:
            raise NotSent(f"The reference image could not be uploaded: {error}") from error
        if not (given := step.selectors["give"].word(body)):
            raise NotSent("The reference image could not be uploaded: the answer does not name what was uploaded.")
        return given

    def _check_yes(self, step: Step, answer: Answer, body: Any, operation: str) -> None:  # noqa: ANN401 - any JSON
        """Raise what an answer to a free request means that is not a yes."""
        if self._api.means(step, answer.status, body) or not self._is_yes(step, answer, body):
            raise self._refusal(step, answer, body, operation)

    async def _ask(self, step: Step, values: Values, *, goes_on: str = "") -> tuple[Answer, Any]:
        """A free request and its answer, and the answer's JSON; `goes_on`: where a list does."""
        sent = rendered({"query": step.query, "headers": step.headers, "body": step.body}, values)
        if goes_on and step.next_query is not None:
            sent = {**sent, "query": {**(sent.get("query") or {}), step.next_query[0]: goes_on}}
            goes_on = ""
        answer = await self._exchange(step, goes_on or self._url(step, values, sent), sent)
        return answer, responses.json_of(answer)

    def _url(self, step: Step, values: Values, sent: Mapping[str, Any]) -> str:
        if step.begins_with_task:  # it is an address already
            url = step.address.text({**values, "task_path": values["task"]})
        else:
            url = addressed(step.address, values)
        url = self.root_url + url if url.startswith("/") else url
        query = {name: value for name, value in (sent.get("query") or {}).items() if value is not None}
        return f"{url}{'&' if '?' in url else '?'}{urlencode(query, doseq=True)}" if query else url

    async def _exchange(
        self, step: Step, url: str, sent: Mapping[str, Any], *, images: int = 1, new_connection: bool = False
    ) -> Answer:
        """Send one request, with the key. Raises Unclear instead where the key may not be sent there."""
        if not self._hosts.allow(url):
            raise Unclear(f"The API names {url[:120]}, where the key may not be sent.")
        url = self._hosts.reached(url)
        headers = {**self.headers, **{name: str(value) for name, value in (sent.get("headers") or {}).items()}}
        data, body = sent.get("body", ABSENT), None
        if step.is_form:
            headers["Content-Type"], body = multipart(data if isinstance(data, dict) else {})
        elif step.body is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps({} if data is ABSENT else data, ensure_ascii=False, separators=(",", ":")).encode()
        own = partial(self._credentials.headers, step.method, url, headers, body)
        send = partial(
            self.client.send,
            step.method,
            url,
            body=body,
            answer_timeout=self.account.request_timeout,
            max_bytes=_LARGEST_IMAGE * images if step.is_large else LARGEST_ANSWER,
            new_connection=new_connection,
        )
        answer = await send(headers=(shown := await own()))
        if answer.status == 401 and self._credentials.can_renew and self._made_nothing(step, answer):
            renewed = await own(refused=self._credentials.shown_in(shown))
            with suppress(NotSent):  # then the first answer stands
                answer = await send(headers=renewed)
        return answer

    def _made_nothing(self, step: Step, answer: Answer) -> bool:
        """Whether a 401 says so, as it does unless the definition gives it another meaning."""
        return self._api.means(step, answer.status, responses.json_of(answer)) in {"", "account"}

    # --- answers --------------------------------------------------------------------------------------------

    @staticmethod
    def _is_yes(step: Step, answer: Answer, body: Any) -> bool:  # noqa: ANN401 - any value of JSON
        return 200 <= answer.status < 300 and (step.fine is None or step.fine.holds(body))

    def _refusal(self, step: Step, answer: Answer, body: Any, operation: str) -> BatchgenError:  # noqa: ANN401
        """What an answer means that is not a yes: by the definition's rows, else by batchgen's own rules."""
        creating, means = step.name == "create", self._api.means(step, answer.status, body)
        kind = (_OF_CREATE if creating else _OF_QUERY).get(means)
        if means and (kind is None or (kind is RefusedOrTaken and not (self.can_find or self.can_list))):
            kind = Unclear
        if kind is None:
            codes = responses.Codes(refused=JobRefused)
            found = responses.refusal(answer, creating=creating, operation=operation, codes=codes)
            if isinstance(found, Unclear) or not 200 <= answer.status < 300:
                return found
            return Unclear(str(found), body_excerpt=answer.body_excerpt)
        words = message(step, body, "message") or responses.message_of(body, answer) or responses.code_of(body)
        text = f"The API answered HTTP {answer.status} to {operation}{f': {words}' if words else ''}"
        code = responses.code_of(body) or str(answer.status)
        if issubclass(kind, Throttled):
            return kind(text, code=code, retry_after=answer.retry_after)
        if issubclass(kind, JobError | Unclear):
            return kind(text, code=code, body_excerpt=answer.body_excerpt)
        return kind(f"{text.rstrip('.')}. Check the key and the balance of the account.")


def _forms(path: str, sha256: str, names: frozenset[str]) -> dict[str, Any]:
    """A reference image in those of its forms that a request holds. Raises OwnRefusal as `content`."""
    data = content(path, sha256)
    kind = next((kind for start, kind in _MAGIC.items() if data.startswith(start)), "png")
    found: dict[str, Any] = {}
    if FILES & names:
        file = File(name=f"{sha256[:16]}.{kind}", media_type=f"image/{kind}", data=data)
        found |= dict.fromkeys(FILES, file)
    if {"image_b64", "image_data_uri"} & names:
        text = base64.b64encode(data).decode("ascii")
        found |= {"image_b64": text, "image_data_uri": f"data:image/{kind};base64,{text}"}
    return found
