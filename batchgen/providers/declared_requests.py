"""The requests of a declared API: made from its definition and a job, and sent with the key to its own hosts alone."""

from __future__ import annotations

import asyncio
import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from batchgen.apis.compiler import definition_of
from batchgen.apis.multipart import multipart
from batchgen.apis.values import ABSENT, quoted, rendered
from batchgen.errors import CommandError, OwnRefusal, Unclear
from batchgen.http.decompression import LARGEST_ANSWER
from batchgen.providers import responses
from batchgen.providers.base import Provider
from batchgen.providers.references import encoded

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
_MAGIC = {"iVBOR": "png", "/9j/": "jpeg", "UklGR": "webp"}  # how a file begins in base64


class DeclaredRequests(Provider):
    """The half of a declared account that sends."""

    def __init__(self, account: Account, client: HttpClient, secrets: Secrets) -> None:
        super().__init__(account, client, secrets)
        try:
            self._api = definition_of({**account.definition, "base_url": account.base_url})
        except ValueError as error:
            raise CommandError(
                f"The account {account.name!r} has a definition that cannot be used: {error}"
                " Check it with: batchgen validate"
            ) from error
        self._steps = self._api.steps
        self._encoded = lru_cache(maxsize=_REFERENCES_KEPT)(encoded)

    async def _of_job(self, job: Job, external_id: str) -> dict[str, Any]:
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
            "callback_url": self.callback_url_of(external_id) or None,
            **await self._of_image(parameters.image),
        }
        for name, words in self._api.words.items():
            if found.get(name) is not None:
                found[name] = words.get(str(found[name]), found[name])
        return found

    async def _of_image(self, image: Reference | None) -> dict[str, str | None]:
        """The reference image: a link as `url` and `data_uri`, a file as `b64` and `data_uri`."""
        found: dict[str, str | None] = dict.fromkeys(("image_url", "image_b64", "image_data_uri"))
        if image is None:
            return found
        if image.path is None or image.sha256 is None:
            found |= {"image_url": image.url, "image_data_uri": image.url}
        else:
            data = await asyncio.to_thread(self._encoded, image.path, image.sha256)
            kind = next((kind for start, kind in _MAGIC.items() if data.startswith(start)), "png")
            found |= {"image_b64": data, "image_data_uri": f"data:image/{kind};base64,{data}"}
        if not any(found[name] for name in self._api.image_values):
            form = "a link" if image.url else "a file"
            raise OwnRefusal(f"This account does not take {form} as the reference image.", code="local")
        return found

    async def _ask(self, step: Step, values: Values, *, goes_on: str = "") -> tuple[Answer, Any]:
        """A free request and its answer, and the answer's JSON; `goes_on`: where a list does."""
        sent = rendered({"query": step.query, "headers": step.headers, "body": step.body}, values)
        if goes_on and step.next_query is not None:
            sent = {**sent, "query": {**(sent.get("query") or {}), step.next_query[0]: goes_on}}
            goes_on = ""
        answer = await self._exchange(step, goes_on or self._url(step, values, sent), sent)
        return answer, responses.json_of(answer)

    def _url(self, step: Step, values: Values, sent: Mapping[str, Any]) -> str:
        texts = quoted({name: values[name] for name in step.address_names})
        if step.begins_with_task:
            texts["task"] = str(values.get("task", ""))
        url = step.address.text(texts)
        url = self.root_url + url if url.startswith("/") else url
        query = {name: value for name, value in (sent.get("query") or {}).items() if value is not None}
        return f"{url}{'&' if '?' in url else '?'}{urlencode(query, doseq=True)}" if query else url

    async def _exchange(self, step: Step, url: str, sent: Mapping[str, Any], *, images: int = 1) -> Answer:
        """Send one request, with the key. Raises Unclear instead where the key may not be sent there."""
        if not self._api.hosts.allow(url):
            raise Unclear(f"The API names {url[:120]}, where the key may not be sent.")
        headers = {**self.headers, **{name: str(value) for name, value in (sent.get("headers") or {}).items()}}
        data, body = sent.get("body", ABSENT), None
        if step.is_form:
            headers["Content-Type"], body = multipart(data if isinstance(data, dict) else {})
        elif step.body is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps({} if data is ABSENT else data, ensure_ascii=False, separators=(",", ":")).encode()
        if key := self.key:
            headers[self._api.header] = f"{self._api.prefix}{key}"
        return await self.client.send(
            step.method,
            url,
            headers=headers,
            body=body,
            answer_timeout=self.account.request_timeout,
            max_bytes=_LARGEST_IMAGE * images if step.is_large else LARGEST_ANSWER,
            new_connection=step.name == "create" and not (self.can_find or self.can_list),
        )

    @property
    def key(self) -> str:
        """The account's key; empty where it needs none."""
        return self.secrets[self.account.api_key_env] if self.account.key_variables else ""
