"""OpenAI's images API, as OpenAI, many gateways and local servers speak it: a create answers with the images.

There is no task to ask for afterwards: an answer that is lost is lost, and nothing is sent twice on its account.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from batchgen.catalog.accounts import Auth
from batchgen.errors import (
    AccountStopped,
    BatchgenError,
    CommandError,
    JobRefused,
    JobRejected,
    OwnRefusal,
    PageReceived,
    TaskNotFound,
    TooFast,
    Unclear,
)
from batchgen.jobs import INLINE, ImageLink
from batchgen.providers import responses
from batchgen.providers.base import Provider, Task, TaskState

if TYPE_CHECKING:
    from batchgen.catalog.accounts import Account
    from batchgen.http.client import Answer, HttpClient
    from batchgen.jobs import Job
    from batchgen.providers.base import Secrets

_CREATES, _MODELS = "/images/generations", "/models"
_VERSIONED = re.compile(r"/v\d+\w*$")  # OpenAI's own clients want a base_url with /v1, and many gateways name it so
_LARGEST_IMAGE = 64 * 1024 * 1024  # bytes of one that the answer holds
_LATEST = 2**43  # what a time in seconds can be; a larger number is none

# What an error means by its `code`, else by its `type`, else by the HTTP status.
# Sources, read 2026-11: OpenAI's guide to error codes and its help page on 429; Azure's and vLLM's own words; LiteLLM's
# ProxyErrorTypes (litellm/proxy/_types.py), which it answers with statuses of 400, 401, 403 and 422 as it happens;
# new-api's codes of a user's quota.
_PAY = "Look at the account's credits and limits; then run again to go on."
_KEY = "Check the account's key."
_STOPS_ACCOUNT = {
    "insufficient_quota": _PAY,
    "credit_balance_exhausted": _PAY,
    "organization_spend_limit_exceeded": _PAY,
    "organization_usage_limit_exceeded": _PAY,
    "project_spend_limit_exceeded": _PAY,
    "billing_hard_limit_reached": _PAY,
    "billing_not_active": _PAY,
    "account_deactivated": "Look at the gateway's console.",
    "invalid_api_key": _KEY,
    "authentication_error": _KEY,
    "unsupported_country_region_territory": "The service is not offered where this machine is.",
    "budget_exceeded": _PAY,
    "expired_key": _KEY,
    "token_not_found_in_db": _KEY,
    "insufficient_user_quota": _PAY,
    "pre_consume_token_quota_failed": _PAY,
}
# The same as long as the status does not say that it is the server's own trouble.
_STOPS_ACCOUNT_BELOW_500 = {
    "auth_error": _KEY,
    "no_db_connection": "The proxy has no database to look the key up in: check the key, then ask who runs it.",
}
_REJECTS = frozenset({"moderation_blocked", "content_policy_violation", "content_filter", "contentfilter"})
_REFUSES = frozenset(
    {
        "model_not_found",
        "notfounderror",
        "deploymentnotfound",
        "key_model_access_denied",
        "team_model_access_denied",
        "user_model_access_denied",
        "org_model_access_denied",
        "project_model_access_denied",
    }
)
_TOO_FAST = frozenset({"rate_limit_exceeded", "rate_limit_error", "slow_down"})


class OpenAIProvider(Provider):
    """Create over one account; nothing else can be asked."""

    can_query = False

    def __init__(self, account: Account, door: HttpClient, secrets: Secrets) -> None:
        super().__init__(account, door, secrets)
        if account.auth is Auth.JWT:
            raise CommandError(
                f"The account {account.name!r} has auth: jwt, which OpenAI's images API does not know;"
                " write auth: api_key, or none for a server that wants no key."
            )
        self._root = versioned(account.base_url)

    async def create(self, job: Job, external_id: str) -> Task:
        """POST the job and wait for its images, which the answer names or holds."""
        body = json.dumps(self.request(job), ensure_ascii=False, separators=(",", ":")).encode()
        answer = await self.door.send(
            "POST",
            self._root + _CREATES,
            # Our own id, for whoever has to look for a lost answer in the gateway's logs: no body field takes it.
            headers={"Content-Type": "application/json", "X-Client-Request-Id": external_id} | self._key(),
            body=body,
            within=self.account.request_timeout,
            most=_LARGEST_IMAGE * job.parameters.n,
            fresh=self.creates_alone,
        )
        return task_from(answer, external_id).told_in(answer)

    async def probe(self) -> None:
        """Ask for the list of models, which is free. Raises TaskNotFound where there is none."""
        answer = await self.door.send("GET", self._root + _MODELS, headers=self._key())
        if answer.status in {404, 405}:
            raise TaskNotFound(f"The gateway answered HTTP {answer.status} for its models.", code=str(answer.status))
        if 200 <= answer.status < 300:
            return
        error = _refusal(answer, responses.json_of(answer), "the question for its models")
        if isinstance(error, JobRefused) and not isinstance(error, PageReceived):
            # The question has no parameters: whoever is refused even this is refused himself.
            raise AccountStopped(f"{str(error).rstrip('.')}. {_KEY}") from error
        raise error

    async def query(self, task_id: str) -> Task:
        """Raise TaskNotFound: what a create made is told once."""
        raise TaskNotFound(f"The account {self.account.name!r} cannot be asked for {task_id} again.")

    def request(self, job: Job) -> dict[str, Any]:
        """The create's body: what was asked for, and nothing that the account does not know."""
        parameters = job.parameters
        known = self.account.fields | self.account.required
        values: dict[str, Any] = {
            self.account.model_field: parameters.model if "model" in known else None,
            "prompt": job.prompt,
            "n": parameters.n if "n" in known else None,
            "size": self.account.size_of(parameters) if "aspect_ratio" in known else None,
            "response_format": self.account.response_format or None,
            "quality": self.account.quality or None,
            "style": self.account.style or None,
            "background": self.account.background or None,
        }
        return {name: value for name, value in values.items() if value is not None}

    def _key(self) -> dict[str, str]:
        if self.account.auth is Auth.NONE:
            return self.headers
        return {**self.headers, "Authorization": f"Bearer {self.secrets[self.account.api_key_env]}"}


def versioned(base_url: str) -> str:
    """The address with the version that its paths begin with: its own, else /v1."""
    return base_url if _VERSIONED.search(base_url) else f"{base_url}/v1"


def task_from(answer: Answer, external_id: str) -> Task:
    """A finished task out of a create's answer; raises what any other answer means.

    The API gives no task ids: the task is named by our own id and the time that the answer gives.
    """
    body = responses.json_of(answer)
    links = _links(body) if 200 <= answer.status < 300 else ()
    if not links:
        raise _refusal(answer, body, "the create")
    created = body.get("created")
    known = isinstance(created, int | float) and 0 < created < _LATEST
    return Task(
        id=f"{external_id}@{int(created)}" if known else external_id,
        state=TaskState.SUCCEEDED,
        external_id=external_id,
        links=links,
        created_ms=int(created * 1000) if known else None,
    )


def _links(body: Any) -> tuple[ImageLink, ...]:  # noqa: ANN401 - the gateway's own shape
    data = body.get("data") if isinstance(body, dict) else None
    images = [image for image in data if isinstance(image, dict)] if isinstance(data, list) else []
    urls = [url for url in map(_url_of, images) if url]  # one that moderation took out is an empty entry
    return tuple(ImageLink(index=index, url=url) for index, url in enumerate(urls))


def _url_of(image: dict[str, Any]) -> str:
    """The image itself, where the answer holds it, else its link."""
    inside, link = image.get("b64_json"), image.get("url")
    if isinstance(inside, str) and inside:
        return inside if inside.startswith(INLINE) else f"{INLINE};base64,{inside}"
    return link if isinstance(link, str) else ""


def _refusal(answer: Answer, body: Any, operation: str) -> BatchgenError:  # noqa: ANN401 - the gateway's own shape
    code, kind = responses.code_of(body), _type_of(body)
    message = responses.message_of(body, answer)
    said = f" {code}" if code else ""
    words = f": {message}" if message else ""
    text = f"The gateway answered HTTP {answer.status}{said} to {operation}{words}"
    detail = {"code": code or kind or str(answer.status), "head": answer.head}
    stops = _STOPS_ACCOUNT | (_STOPS_ACCOUNT_BELOW_500 if answer.status < 500 else {})
    for name in (code, kind):
        if name in stops:
            return AccountStopped(f"{text.rstrip('.')}. {stops[name]}")
        if name in _REJECTS:
            return JobRejected(text, **detail)
        if name in _REFUSES:
            return OwnRefusal(text, **detail)
        if name in _TOO_FAST:
            return TooFast(text, code=detail["code"], retry_after=answer.retry_after)
    if answer.status < 300:
        return Unclear(f"{text}; it names no image", **detail)
    return responses.refusal_by_status(answer, text, code=detail["code"], creating=True, refused=JobRefused)


def _type_of(body: object) -> str:
    error = body.get("error", body) if isinstance(body, dict) else None
    kind = error.get("type") if isinstance(error, dict) else None
    return kind.strip().lower() if isinstance(kind, str) else ""
