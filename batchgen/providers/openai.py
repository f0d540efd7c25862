"""OpenAI's images API, as OpenAI, many gateways and local servers speak it: a create answers with the images.

There is no task to query afterwards: a lost answer cannot be recovered, and its create is not sent again.
"""

from __future__ import annotations

import re
from dataclasses import replace
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
_UNPAID = """insufficient_quota credit_balance_exhausted organization_spend_limit_exceeded budget_exceeded
    organization_usage_limit_exceeded project_spend_limit_exceeded billing_hard_limit_reached billing_not_active
    insufficient_user_quota pre_consume_token_quota_failed"""
_ADVICE = {
    **dict.fromkeys(_UNPAID.split(), _PAY),
    **dict.fromkeys(("invalid_api_key", "authentication_error", "expired_key", "token_not_found_in_db"), _KEY),
    "account_deactivated": "Look at the gateway's console.",
    "unsupported_country_region_territory": "The service is not offered where this machine is.",
}
# The same, unless the status says that it is a failure of the server itself.
_ADVICE_BELOW_500 = {
    "auth_error": _KEY,
    "no_db_connection": "The proxy has no database to look the key up in: check the key, then ask who runs it.",
}
_ERRORS: dict[str, type[BatchgenError]] = {
    **dict.fromkeys(_ADVICE, AccountStopped),
    **dict.fromkeys(("moderation_blocked", "content_policy_violation", "content_filter", "contentfilter"), JobRejected),
    **dict.fromkeys(("rate_limit_exceeded", "rate_limit_error", "slow_down"), TooFast),
    **dict.fromkeys(("model_not_found", "notfounderror", "deploymentnotfound"), OwnRefusal),
    **{f"{owner}_model_access_denied": OwnRefusal for owner in ("key", "team", "user", "org", "project")},
}
_CODES = responses.Codes(errors=_ERRORS, advice=_ADVICE, with_types=True, refused=JobRefused)
_CODES_BELOW_500 = replace(
    _CODES,
    errors=_ERRORS | dict.fromkeys(_ADVICE_BELOW_500, AccountStopped),
    advice=_ADVICE | _ADVICE_BELOW_500,
)


class OpenAIProvider(Provider):
    """Creates over one account; nothing can be queried."""

    can_query = False

    def __init__(self, account: Account, client: HttpClient, secrets: Secrets) -> None:
        super().__init__(account, client, secrets)
        if account.auth is Auth.JWT:
            raise CommandError(
                f"The account {account.name!r} has auth: jwt, which OpenAI's images API does not know;"
                " write auth: api_key, or none for a server that wants no key."
            )
        self.root_url = versioned(account.base_url)

    async def create(self, job: Job, external_id: str) -> Task:
        """POST the job and wait for its images, which the answer names or holds."""
        # Our own id, for whoever has to look for a lost answer in the gateway's logs: no body field takes it.
        headers = {"X-Client-Request-Id": external_id}
        largest = _LARGEST_IMAGE * job.parameters.n
        answer = await self.send("POST", _CREATES, self.request(job), headers=headers, max_bytes=largest)
        return task_from(answer, external_id).noting(answer)

    async def probe(self) -> None:
        """GET the list of models, which is free. Raises TaskNotFound where there is none."""
        answer = await self.send("GET", _MODELS)
        if answer.status in {404, 405}:
            raise TaskNotFound(f"The gateway answered HTTP {answer.status} for its models.", code=str(answer.status))
        if 200 <= answer.status < 300:
            return
        error = _refusal(answer, "the query for its models")
        if isinstance(error, JobRefused) and not isinstance(error, PageReceived):
            # This query has no parameters, so the refusal concerns the account.
            raise AccountStopped(f"{str(error).rstrip('.')}. {_KEY}") from error
        raise error

    async def query(self, task_id: str) -> Task:
        """Raise TaskNotFound: only the answer to the create names the images."""
        raise TaskNotFound(f"The account {self.account.name!r} cannot be queried for {task_id}.")

    def request(self, job: Job) -> dict[str, Any]:
        """The create's body: what the job asks for, in fields that the account knows.

        A parameter that the account declares replaces its own `quality`, `style` and `background`, and no other field.
        """
        parameters = job.parameters
        known = self.account.fields | self.account.required
        values: dict[str, Any] = {
            self.account.model_field: parameters.model if "model" in known else None,
            "prompt": job.prompt,
            "n": parameters.n if "n" in known else None,
            "size": self.account.size_of(parameters) if "aspect_ratio" in known else None,
            "response_format": self.account.response_format or None,
        }
        chosen = {
            "quality": self.account.quality or None,
            "style": self.account.style or None,
            "background": self.account.background or None,
            **self.further(job),
        }
        return {name: value for name, value in {**chosen, **values}.items() if value is not None}


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
        raise _refusal(answer, "the create")
    created = body.get("created")
    is_known = isinstance(created, int | float) and 0 < created < _LATEST
    return Task(
        id=f"{external_id}@{int(created)}" if is_known else external_id,
        state=TaskState.SUCCEEDED,
        external_id=external_id,
        links=links,
        created_ms=int(created * 1000) if is_known else None,
    )


def _links(body: Any) -> tuple[ImageLink, ...]:  # noqa: ANN401 - the gateway's own shape
    data = body.get("data") if isinstance(body, dict) else None
    images = [image for image in data if isinstance(image, dict)] if isinstance(data, list) else []
    urls = [url for url in map(_url_of, images) if url]  # an image removed by moderation is an empty entry
    return tuple(ImageLink(index=index, url=url) for index, url in enumerate(urls))


def _url_of(image: dict[str, Any]) -> str:
    """The image itself, where the answer holds it, else its link."""
    inside, link = image.get("b64_json"), image.get("url")
    if isinstance(inside, str) and inside:
        return inside if inside.startswith(INLINE) else f"{INLINE};base64,{inside}"
    return link if isinstance(link, str) else ""


def _refusal(answer: Answer, operation: str) -> BatchgenError:
    codes = _CODES if answer.status >= 500 else _CODES_BELOW_500
    return responses.refusal(answer, creating=True, operation=operation, codes=codes)
