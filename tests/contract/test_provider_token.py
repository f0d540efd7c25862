"""The token of an account with two keys: what it says, when it is made anew, and clocks that are not the gateway's."""

from __future__ import annotations

import time
from types import SimpleNamespace

import jwt
import pytest
from jobs_for_tests import job as made_job
from provider_cases import CASES, ID
from recorder import Reply

from batchgen.errors import AccountStopped, NotSent
from batchgen.http.client import Answer
from batchgen.providers import kling

CASE = CASES["kling"]
ACCESS, SECRET = CASE.keys["KLING_ACCESS_KEY"], CASE.keys["KLING_SECRET_KEY"]


@pytest.fixture
def clock():
    """This machine's clock, `ahead` of the gateway's by so many seconds."""
    own = SimpleNamespace(ahead=0.0)
    own.wall = lambda: time.time() + own.ahead
    return own


def token_of(sent):
    return sent.headers["Authorization"].removeprefix("Bearer ")


def claims_of(sent):
    return jwt.decode(token_of(sent), SECRET, algorithms=["HS256"])


def test_a_key_that_is_too_short_brings_no_warning_of_a_library(recwarn):
    account = CASE.account(SimpleNamespace(origin="http://127.0.0.1:9"))
    provider = kling.KlingProvider(account, None, {"KLING_ACCESS_KEY": "a", "KLING_SECRET_KEY": "b"})
    assert jwt.decode(provider.bearer, options={"verify_signature": False})["iss"] == "a"
    assert not recwarn.list


def refused(code):
    return Reply(status=401, body=f'{{"code": {code}, "message": "no"}}'.encode())


async def test_its_claims_are_the_references():
    before = int(time.time())
    with CASE.recorder() as recorder:
        async with CASE.provider(recorder) as provider:
            await provider.create(made_job(), ID)
        (sent,) = recorder.sent
    after = int(time.time())
    assert jwt.get_unverified_header(token_of(sent)) == {"alg": "HS256", "typ": "JWT"}
    claims = claims_of(sent)
    assert claims.keys() == {"iss", "exp", "nbf"}
    assert claims["iss"] == ACCESS
    assert before + 1800 <= claims["exp"] <= after + 1800
    assert before - 5 <= claims["nbf"] <= after - 5


async def test_a_token_that_has_expired_is_made_anew_once_and_the_request_is_sent_again():
    with CASE.recorder() as recorder:
        recorder.answers["create"] = lambda sent: refused(1004) if sent.number == 1 else None
        async with CASE.provider(recorder) as provider:
            assert (await provider.create(made_job(), ID)).id
        assert len(recorder.of("create")) == 2
        assert recorder.usage()["creates_accepted"] == 1


@pytest.mark.parametrize("kind", ["create", "query", "list"])
async def test_a_second_refusal_is_final(kind):
    with CASE.recorder() as recorder:
        recorder.answers[kind] = lambda _: refused(1004)
        async with CASE.provider(recorder) as provider:
            ask = {"create": lambda: provider.create(made_job(), ID), "query": lambda: provider.query("T")}
            with pytest.raises(AccountStopped, match="clock"):
                await ask.get(kind, lambda: provider.page(1, 500))()
        assert len(recorder.sent) == 2


@pytest.mark.parametrize("seconds", [-86400.0, -3600.0, -1790.0, -4.0, 4.0, 90.0, 7200.0])
async def test_a_clock_that_is_not_the_gateways_stops_no_run(clock, seconds):
    """The gateway is the sandbox, which checks `exp` and `nbf` without leeway."""
    clock.ahead = seconds
    with CASE.recorder() as recorder:
        async with CASE.provider(recorder) as provider:
            provider.wall = clock.wall
            task = await provider.create(made_job(), ID)
            for _ in range(3):
                await provider.query(task.id)
        assert recorder.usage()["creates_accepted"] == 1
        assert len(recorder.sent) <= 5  # one refusal teaches the gateway's time


async def test_a_wrong_secret_is_a_sentence_about_the_key():
    with CASE.recorder() as recorder:
        async with CASE.provider(recorder) as provider:
            recorder.answers["create"] = lambda _: refused(1000)
            with pytest.raises(AccountStopped, match="Check the account's key"):
                await provider.create(made_job(), ID)


async def test_an_api_key_is_not_tried_twice():
    case = CASES["kapon"]
    with case.recorder() as recorder:
        recorder.answers["create"] = lambda _: refused(1002)
        async with case.provider(recorder) as provider:
            with pytest.raises(AccountStopped):
                await provider.create(made_job(), ID)
        assert len(recorder.sent) == 1


async def test_where_the_second_request_is_not_sent_the_first_answer_stands():
    """It may be the answer to a proxy's second copy of a create that was accepted: the engine then asks for it."""
    outcomes = [Answer(status=401, headers={}, body=b'{"code": 1000, "message": "no"}'), NotSent("refused")]

    async def send(*_sent, **_options):
        outcome = outcomes.pop(0)
        if isinstance(outcome, NotSent):
            raise outcome
        return outcome

    account = CASE.account(SimpleNamespace(origin="http://127.0.0.1:9"))
    keys = {"KLING_ACCESS_KEY": ACCESS, "KLING_SECRET_KEY": SECRET}
    with pytest.raises(AccountStopped):
        await kling.KlingProvider(account, SimpleNamespace(send=send), keys).create(made_job(), ID)
    assert not outcomes
