"""Tokens that a command prints, and signatures by a package."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest
from installed_plugin import PACKAGE

from batchgen.errors import AccountStopped
from batchgen.providers import credentials
from batchgen.providers.credentials import Request, TokenCommand
from batchgen.redaction import redact


def printing(code):
    return [sys.executable, "-c", code]


def test_a_signature_is_that_of_the_vendors_own_example(monkeypatch):
    """The worked example of Tencent's documentation (tencentcloud.com/document/product/213/33224)."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    from batchgen_tencent import sign

    signed = sign(
        Request(
            method="POST",
            url="https://cvm.tencentcloudapi.com",
            headers={"Content-Type": "application/json; charset=utf-8"},
            body=rb'{"Limit": 1, "Filters": [{"Values": ["\u672a\u547d\u540d"], "Name": "instance-name"}]}',
            keys={
                "secret_id": "AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE",
                "secret_key": "Gu5t9xGARNpq86cd98joQYCN3EXAMPLE",
            },
            time=1551113065.7,
        )
    )
    assert signed == {
        "Authorization": "TC3-HMAC-SHA256"
        " Credential=AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE/2019-02-25/cvm/tc3_request,"
        " SignedHeaders=content-type;host,"
        " Signature=72e494ea809ad7a8c8f7a4507b9bddcbaa8e581f516e8da2f66e2c5a96525168",
        "X-TC-Timestamp": "1551113065",
    }


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("", "printed no token"),
        ("print('two\\nlines of it')", "printed no token"),
        ("print('t\\u00f6ken-of-a-vendor')", "printed no token"),
        ("while True: print('x' * 1000)", "printed no token"),
        ("print('a-good-token'); raise SystemExit(3)", "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9"),
    ],
)
async def test_what_is_no_token_stops_the_account_and_is_not_shown(code, said):
    with pytest.raises(AccountStopped) as stopped:
        await TokenCommand(printing(code), 60).token()
    assert said in str(stopped.value)
    assert "lines of it" not in str(stopped.value)


async def test_a_command_that_does_not_end_is_ended_with_what_it_started(monkeypatch, tmp_path):
    monkeypatch.setattr(credentials, "_SECONDS", 0.3)
    began, late = time.monotonic(), tmp_path / "late"
    with pytest.raises(AccountStopped, match=r"did not end within 0\.3 s"):
        await TokenCommand(["sh", "-c", f"(sleep 2; touch {late}) & sleep 60"], 60).token()
    assert time.monotonic() - began < 2


async def test_it_is_run_once_for_many_and_again_after_its_time_or_a_refusal(tmp_path):
    count = tmp_path / "count"
    code = (
        f"import os; f = open({str(count)!r}, 'a'); f.write('x'); f.flush(); print('token-number', f.tell(), sep='-')"
    )
    now = [0.0]
    command = TokenCommand(printing(code), 60, clock=lambda: now[0])
    assert set(await asyncio.gather(*(command.token() for _ in range(20)))) == {"token-number-1"}
    assert redact("an answer with token-number-1 in it") == "an answer with *** in it"
    again = await asyncio.gather(*(command.token(refused="token-number-1") for _ in range(20)))
    assert set(again) == {"token-number-2"}
    now[0] = 61.0
    assert await command.token() == "token-number-3"


async def test_a_token_stays_while_the_command_fails_for_a_while(tmp_path):
    fails, now = tmp_path / "fails", [0.0]
    code = f"import pathlib; pathlib.Path({str(fails)!r}).exists() and exit(1); print('a-token-of-theirs')"
    command = TokenCommand(printing(code), 60, clock=lambda: now[0])
    assert await command.token() == "a-token-of-theirs"
    fails.touch()
    now[0] = 61.0
    assert await command.token() == "a-token-of-theirs"
    with pytest.raises(AccountStopped):
        await command.token(refused="a-token-of-theirs")


@pytest.mark.parametrize("what", [None, 3, {"A": 3}, {"A": "b\r\nC: d"}, [("A",)]])
def test_what_a_signer_makes_that_is_no_headers_stops_the_account(what):
    request = Request(method="GET", url="u", headers={}, body=b"", keys={}, time=0.0)
    with pytest.raises(AccountStopped, match="signer"):
        credentials._signed(lambda _: what, request)
    assert credentials._signed(lambda _: {"A": "b"}, request) == {"A": "b"}
