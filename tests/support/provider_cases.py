"""One `Case` for each account profile: what it sends, byte for byte, and what it makes of answers.

A family of accounts is added here, as data; the claims are in test_provider_*.py.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from recorder import Recorder, Reply

from batchgen.catalog.accounts import Auth
from batchgen.catalog.load import builtin
from batchgen.errors import (
    AccountStopped,
    BatchgenError,
    JobRefused,
    JobRejected,
    NoSuchPath,
    OwnRefusal,
    PageReceived,
    RefusedOrTaken,
    TaskNotFound,
    TooFast,
    TooManyRunning,
    Unclear,
)
from batchgen.http.client import HttpClient
from batchgen.providers.base import Secrets
from batchgen.providers.registry import provider_class

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from batchgen.catalog.accounts import Account
    from batchgen.providers.base import Provider

ID = "bg-1abc-1"  # the external id of the attempts here
FACE_BASE64 = "<the reference as bare base64>"  # its place in an expected body


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """An answer, and what is made of it when it answers a create, and when it answers a query or a list."""

    reply: Reply
    create: type[BatchgenError]
    query: type[BatchgenError]
    retry_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One account profile. Expected bodies are the bytes that are sent, with `ID` and `FACE_BASE64` in their places."""

    profile: str
    models: tuple[str, str, str] = ("kling-v1", "kling-v2-1", "kling-v1-5")  # of the three bodies below
    keys: Mapping[str, str]  # the environment's
    checks: Mapping[str, str]  # what the sandbox is to hold them to
    create: str  # method and target
    minimal: str  # model kling-v1 and a prompt, nothing else
    texts: str  # everything that goes with a negative prompt
    image: str = ""  # everything that goes with a reference image, where the account takes one
    answers: Mapping[str, Meaning] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)  # of a create, beside those that all send
    taken: bytes = b'{"code":0,"data":{"task_id":"T"}}'  # an answer to a create, and to a query, that says yes
    asks: bool = True  # whether a task can be asked for
    asks_by_own_id: bool = True
    lists: bool = True

    def recorder(self, **settings: Any) -> Recorder:
        """The gateway that it speaks to, which checks its keys."""
        return Recorder(emulate=self.profile, **self.checks, **settings)

    def account(self, recorder: Recorder, **changes: Any) -> Account:
        """The built-in account, at the recorder's address."""
        account = builtin().accounts[self.profile]
        base_url = recorder.origin + ("/kling" if account.base_url.endswith("/kling") else "")
        return replace(account, **{"base_url": base_url, **changes})

    @asynccontextmanager
    async def provider(self, recorder: Recorder, **changes: Any) -> AsyncIterator[Provider]:
        """Its provider, with a client of its own."""
        account = self.account(recorder, **changes)
        async with HttpClient(8) as client:
            yield provider_class(account)(account, client, Secrets(self.keys))

    def settings(self, recorder: Recorder, **changes: Any) -> dict[str, Any]:
        """An entry of a manifest's `providers`."""
        own = {"use": self.profile, "base_url": self.account(recorder).base_url, "visibility_delay": 0}
        return own | {"limits": {"concurrency": 27}} | changes


# --- answers of the Kling family -----------------------------------------------------------------------------


def _coded(status: int, code: object, **headers: str) -> Reply:
    body = json.dumps({"code": code, "message": f"no, because of {code}", "request_id": "r"}).encode()
    return Reply(status=status, body=body, headers=headers | {"Content-Type": "application/json"})


def _page(status: int, body: bytes = b"<html><h1>proxy</h1></html>", **headers: str) -> Reply:
    return Reply(status=status, body=body, headers=headers | {"Content-Type": "text/html"})


def _said(status: int, body: object) -> Reply:
    return Reply(status=status, body=json.dumps(body).encode())


def _both(reply: Reply, meaning: type[BatchgenError], **more: Any) -> Meaning:
    return Meaning(reply=reply, create=meaning, query=meaning, **more)


KLING_ANSWERS = {
    **{f"401/{code}": _both(_coded(401, code), AccountStopped) for code in (1000, 1001, 1002, 1003, 1004)},
    **{f"429/{code}": _both(_coded(429, code), AccountStopped) for code in (1100, 1101, 1102, 1304)},
    "403/1103": _both(_coded(403, 1103), OwnRefusal),
    "400/1200": _both(_coded(400, 1200), RefusedOrTaken),
    "400/1201": _both(_coded(400, 1201), RefusedOrTaken),
    "404/1202": Meaning(reply=_coded(404, 1202), create=JobRefused, query=TaskNotFound),
    "404/1203": Meaning(reply=_coded(404, 1203), create=OwnRefusal, query=TaskNotFound),
    "400/1300": _both(_coded(400, 1300), JobRejected),
    "400/1301": _both(_coded(400, 1301), JobRejected),
    "429/1302": _both(_coded(429, 1302), TooFast),
    "429/1302 with Retry-After": _both(_coded(429, 1302, **{"Retry-After": "2"}), TooFast, retry_after=2.0),
    "429/1303": _both(_coded(429, 1303), TooManyRunning),
    "429/1303 with Retry-After": _both(_coded(429, 1303, **{"Retry-After": "1"}), TooManyRunning, retry_after=1.0),
    "429/1303 as a text": _both(_coded(429, "1303"), TooManyRunning),
    "500/5000": _both(_coded(500, 5000), Unclear),
    "503/5001": _both(_coded(503, 5001), Unclear),
    "504/5002": _both(_coded(504, 5002), Unclear),
    "500 with a code of nobody's": _both(_coded(500, 9999), Unclear),
    "401": _both(_page(401, b""), AccountStopped),
    "402": _both(_coded(402, "insufficient_balance"), AccountStopped),
    "403": Meaning(reply=_page(403), create=PageReceived, query=Unclear),
    "403/403": _both(_said(403, {"message": "no"}), AccountStopped),
    "404": Meaning(reply=_page(404), create=PageReceived, query=NoSuchPath),
    "404 and no more": Meaning(reply=_page(404, b""), create=PageReceived, query=NoSuchPath),
    "404 in JSON": Meaning(reply=_said(404, {"detail": "Not Found"}), create=AccountStopped, query=NoSuchPath),
    "404 of a task": Meaning(
        reply=_said(404, {"message": "task not found"}), create=AccountStopped, query=TaskNotFound
    ),
    "400/task_not_exist": Meaning(
        reply=_said(400, {"code": "task_not_exist", "message": "no"}), create=RefusedOrTaken, query=TaskNotFound
    ),
    "400/400": Meaning(
        reply=_said(400, {"message": "Your prompt violates our content policy"}), create=JobRejected, query=JobRefused
    ),
    "405": Meaning(reply=_page(405), create=PageReceived, query=NoSuchPath),
    "301": Meaning(reply=_page(301, Location="https://example.org/"), create=PageReceived, query=Unclear),
    "408": _both(_page(408, b""), Unclear),
    "413": Meaning(reply=_page(413), create=PageReceived, query=Unclear),
    "422": Meaning(reply=_said(422, {"message": "no"}), create=RefusedOrTaken, query=JobRefused),
    "429": _both(_page(429), TooFast),
    "429 with Retry-After": _both(_page(429, **{"Retry-After": "2"}), TooFast, retry_after=2.0),
    "429 with a date": _both(_page(429, **{"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), TooFast),
    "500": _both(_page(500), Unclear),
    "502": _both(_page(502), Unclear),
    "503": _both(_page(503, b""), Unclear),
    "504": _both(_page(504), Unclear),
    "520": _both(_page(520), Unclear),
    "200 and nothing": _both(_page(200, b""), Unclear),
    "200 and a page": _both(_page(200), Unclear),
    "200 without data": _both(_coded(200, 0), Unclear),
}


# --- answers of OpenAI's family; nothing of it can be asked for ---------------------------------------------------


def _error(status: int, code: str | None, kind: str = "invalid_request_error", **headers: str) -> Reply:
    body = json.dumps({"error": {"message": "no", "type": kind, "param": None, "code": code}}).encode()
    return Reply(status=status, body=body, headers=headers | {"Content-Type": "application/json"})


OPENAI_ANSWERS = {
    name: Meaning(reply=reply, create=meaning, query=TaskNotFound, **dict(more))
    for name, reply, meaning, *more in (
        ("401/invalid_api_key", _error(401, "invalid_api_key"), AccountStopped),
        ("429/insufficient_quota", _error(429, "insufficient_quota", "insufficient_quota"), AccountStopped),
        ("429/credit_balance_exhausted", _error(429, "credit_balance_exhausted", "x"), AccountStopped),
        ("429/insufficient_quota by type", _error(429, "a_new_limit", "insufficient_quota"), AccountStopped),
        ("400/billing_hard_limit_reached", _error(400, "billing_hard_limit_reached"), AccountStopped),
        ("403", _error(403, None, ""), AccountStopped),
        ("402", _said(402, {"error": "pay"}), AccountStopped),
        ("429/rate_limit_exceeded", _error(429, "rate_limit_exceeded", "requests"), TooFast),
        ("429/rate_limit_error", _error(429, None, "rate_limit_error"), TooFast),
        ("429", _page(429), TooFast),
        ("429 with Retry-After", _error(429, "x", **{"Retry-After": "2"}), TooFast, ("retry_after", 2.0)),
        ("400/moderation_blocked", _error(400, "moderation_blocked", "image_generation_user_error"), JobRejected),
        ("400/content_policy_violation", _error(400, "content_policy_violation"), JobRejected),
        ("400/contentfilter", _error(400, "contentFilter"), JobRejected),
        ("400/unknown_parameter", _error(400, "unknown_parameter"), JobRefused),
        ("400/invalid_request_error", _error(400, None), JobRefused),
        ("403/model_not_found", _error(403, "model_not_found"), OwnRefusal),
        ("404/model_not_found", _error(404, "model_not_found"), OwnRefusal),
        ("404/404", _said(404, {"error": {"message": "no", "type": "NotFoundError", "code": 404}}), OwnRefusal),
        ("422/422", _said(422, {"detail": "size"}), JobRefused),
        ("404", _said(404, {"detail": "Not Found"}), AccountStopped),
        ("301", _page(301, Location="https://example.org/"), PageReceived),
        ("403 and a page", _page(403), PageReceived),
        ("400/budget_exceeded", _error(400, "400", "budget_exceeded"), AccountStopped),
        ("422/budget_exceeded", _error(422, "422", "budget_exceeded"), AccountStopped),
        ("400/no_db_connection", _error(400, "400", "no_db_connection"), AccountStopped),
        ("503/no_db_connection", _error(503, "503", "no_db_connection"), Unclear),
        ("400/expired_key", _error(400, "400", "expired_key"), AccountStopped),
        ("401/token_not_found_in_db", _error(401, "401", "token_not_found_in_db"), AccountStopped),
        ("400/auth_error", _error(400, "400", "auth_error"), AccountStopped),
        ("401/401", _error(401, "401", "key_model_access_denied"), OwnRefusal),
        (
            "400/400",
            _said(400, {"error": {"message": "litellm.ContentPolicyViolationError: no", "type": None, "code": "400"}}),
            JobRejected,
        ),
        ("408", _page(408, b""), Unclear),
        ("500", _error(500, None, "server_error"), Unclear),
        ("503", _error(503, "server_is_overloaded", "service_unavailable_error"), Unclear),
        ("502", _page(502), Unclear),
        ("200 and a page", _page(200), Unclear),
        ("200 and nothing", _page(200, b""), Unclear),
        ("200 without an image", _said(200, {"created": 1, "data": []}), Unclear),
        ("200 with empty images", _said(200, {"created": 1, "data": [{}, {"b64_json": None, "url": ""}]}), Unclear),
        ("200 with a word", _said(200, {"created": 1, "data": "none"}), Unclear),
        ("200 nested without end", Reply(body=b"[" * 100_000), Unclear),
    )
}

_TEXTS = (
    '{"model_name":"kling-v2-1","prompt":"a fox","negative_prompt":"blur","resolution":"2k","n":9,'
    '"aspect_ratio":"21:9","watermark_info":{"enabled":false},"external_task_id":"bg-1abc-1"}'
)
_IMAGE = (
    f'{{"model_name":"kling-v1-5","prompt":"a fox","image":"{FACE_BASE64}","image_reference":"subject",'
    '"image_fidelity":0.5,"human_fidelity":0.45,"resolution":"1k","n":1,"aspect_ratio":"1:1",'
    '"watermark_info":{"enabled":true},"external_task_id":"bg-1abc-1"}'
)
_KAPON = Case(
    profile="kapon",
    keys={"KAPON_API_KEY": "the-key-of-kapon"},
    checks={"api_key": "the-key-of-kapon"},
    create="POST /kling/v1/images/generations",
    minimal=(
        '{"model_name":"kling-v1","prompt":"a fox","resolution":"1k","n":1,"aspect_ratio":"16:9",'
        '"external_task_id":"bg-1abc-1"}'
    ),
    texts=_TEXTS,
    image=_IMAGE,
    answers=KLING_ANSWERS,
)
CASES = {
    "kapon": _KAPON,
    "anyapi": replace(
        _KAPON,
        profile="anyapi",
        keys={"ANYAPI_API_KEY": "the-key-of-anyapi"},
        checks={"api_key": "the-key-of-anyapi"},
        minimal='{"model_name":"kling-v1","prompt":"a fox","resolution":"1k","n":1,"aspect_ratio":"16:9"}',
        texts=(
            '{"model_name":"kling-v2-1","prompt":"a fox","negative_prompt":"blur","resolution":"2k","n":9,'
            '"aspect_ratio":"21:9"}'
        ),
        image=(
            f'{{"model_name":"kling-v1-5","prompt":"a fox","image":"{FACE_BASE64}","image_reference":"subject",'
            '"image_fidelity":0.5,"human_fidelity":0.45,"resolution":"1k","n":1,"aspect_ratio":"1:1"}'
        ),
        asks_by_own_id=False,
        lists=False,
    ),
    "kling": replace(
        _KAPON,
        profile="kling",
        keys={"KLING_ACCESS_KEY": "an-access-key", "KLING_SECRET_KEY": "a-secret-key-of-thirty-two-bytes!"},
        checks={"access_key": "an-access-key", "secret_key": "a-secret-key-of-thirty-two-bytes!"},
        create="POST /v1/images/generations",
    ),
    "openai": Case(
        profile="openai",
        models=("gpt-image-2", "gpt-image-1", ""),
        keys={"OPENAI_API_KEY": "the-key-of-openai"},
        checks={"api_key": "the-key-of-openai"},
        create="POST /v1/images/generations",
        minimal='{"model":"gpt-image-2","prompt":"a fox","n":1,"size":"1024x1024"}',
        texts='{"model":"gpt-image-1","prompt":"a fox","n":9,"size":"1536x1024"}',
        answers=OPENAI_ANSWERS,
        headers={"X-Client-Request-Id": ID},
        taken=b'{"created":1790000000,"data":[{"url":"https://example.org/a.png"}]}',
        asks=False,
        asks_by_own_id=False,
        lists=False,
    ),
    "sandbox": replace(_KAPON, profile="sandbox", keys={}, checks={}, create="POST /v1/images/generations"),
}


def of_cases(able: Callable[[Case], bool]) -> Any:
    """A mark: for each account that is able."""
    chosen = {name: case for name, case in CASES.items() if able(case)}
    return pytest.mark.parametrize("case", chosen.values(), ids=chosen)


every = of_cases(lambda _: True)
asked = of_cases(lambda case: case.asks)
askable = of_cases(lambda case: case.asks_by_own_id)
listing = of_cases(lambda case: case.lists)
with_image = of_cases(lambda case: bool(case.image))


def bears_its_key(case: Case, authorization: str) -> bool:
    """Whether a header shows the account's key; a token is looked at by its own tests."""
    auth = builtin().accounts[case.profile].auth
    if auth is Auth.API_KEY:
        return authorization == f"Bearer {next(iter(case.keys.values()))}"
    return authorization.startswith("Bearer ") and len(authorization) > len("Bearer ")
