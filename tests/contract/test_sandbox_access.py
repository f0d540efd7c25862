"""Keys and tokens: each way to be wrong has its code, and none of them can create."""

from __future__ import annotations

import time

import jwt
import pytest
from sandbox_caller import gateway

from batchgen.errors import CommandError
from batchgen.sandbox.settings import Settings

ACCESS, SECRET = "an access key", "a secret key that is long enough for sha-256"


def token(**changes):
    """A token as the official reference makes it; None leaves a claim out."""
    now = time.time()
    claims = {"iss": ACCESS, "exp": int(now) + 1800, "nbf": int(now) - 5} | changes
    secret = claims.pop("secret", SECRET)
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, secret, "HS256")


@pytest.mark.parametrize(
    ("header", "code"),
    [("", 1001), ("Bearer", 1002), ("Basic abc", 1002), ("Bearer wrong", 1000), ("Bearer right", 0)],
)
async def test_an_api_key_is_checked(header, code):
    async with gateway(key="", api_key="right") as caller:
        caller.session.headers["Authorization"] = header
        answer = await caller.create(prompt="a fox")
        assert (answer.status, answer.code) == (401 if code else 200, code)


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (token(), 0),
        (token(exp=int(time.time()) - 1), 1004),
        (token(nbf=int(time.time()) + 86400, exp=int(time.time()) + 90000), 1003),
        (token(iss="somebody else"), 1002),
        (token(exp=None), 1002),
        (token(secret="another secret key, as long as the other one"), 1000),
        ("no-token", 1002),
    ],
    ids=["good", "expired", "early", "unknown", "endless", "forged", "garbage"],
)
async def test_a_token_is_checked_for_creates_queries_and_lists(key, code):
    async with gateway(key=key, access_key=ACCESS, secret_key=SECRET) as caller:
        answers = [await caller.create(prompt="a fox"), await caller.listed(), await caller.query("1")]
        expected = [(401, code)] * 3 if code else [(200, 0), (200, 0), (404, 1203)]
        assert [(answer.status, answer.code) for answer in answers] == expected


async def test_any_key_will_do_where_none_is_set_but_none_will_not():
    async with gateway(key="") as caller:
        assert (await caller.create(prompt="a fox")).code == 1001
    async with gateway(key="anything") as caller:
        await caller.made(prompt="a fox")
    async with gateway(key="", emulate="sandbox") as caller:
        await caller.made(prompt="a fox")


async def test_images_and_the_usage_need_no_key():
    async with gateway(blank_images=True) as caller:
        links = await caller.links(await caller.made(prompt="a fox"))
        del caller.session.headers["Authorization"]
        assert await caller.fetch(links[0]["url"])
        assert (await caller.usage())["images_billed"] == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"host": "0.0.0.0"},  # noqa: S104 - what is refused here
        {"host": "example.org"},
        {"emulate": "midjourney"},
        {"access_key": "without its secret"},
        {"concurrency": 0},
        {"latency": -1.0},
        {"creates_per_minute": 0},
        {"latency": float("nan")},
    ],
)
def test_settings_that_cannot_be_served_are_refused_with_a_sentence(settings):
    with pytest.raises(CommandError, match=r"\.$"):
        Settings(**settings)
