"""A gateway that accepts nothing: one job at a time tries it, nobody's attempts are used up, few become unknown."""

from __future__ import annotations

import asyncio
import time

import pytest
from account_manifest import kapon, statuses, unasked, written
from aiohttp import web
from command import batchgen, prompts, started, wait_for
from output_checks import check_invariant
from recorder import Recorder, Reply
from scripted_gateway import ScriptedGateway

NGINX_502 = b"<html><head><title>502 Bad Gateway</title></head><center><h1>502 Bad Gateway</h1></center></html>"
NGINX_503 = (
    b"<html>\r\n<head><title>503 Service Temporarily Unavailable</title></head>\r\n<body>\r\n"
    b"<center><h1>503 Service Temporarily Unavailable</h1></center>\r\n<hr><center>nginx/1.27.0</center>\r\n"
    b"</body>\r\n</html>\r\n"
)
HAPROXY_503 = (
    b"<html><body><h1>503 Service Unavailable</h1>\nNo server is available to handle this request.\n</body></html>\n"
)
AT_ONCE = "run: {give_up_after: 4s, grace: 0s, max_attempts: 1}\n"


@pytest.fixture
def gateway():
    with ScriptedGateway(latency=0.0) as running:
        yield running


def page(status: int, body: bytes, **headers: str) -> Reply:
    return Reply(status=status, body=body, headers={"Content-Type": "text/html"} | headers)


@pytest.mark.parametrize("asking_works", [True, False])
def test_a_gateway_that_answers_5xx_to_every_create_uses_up_nobodys_attempts(tmp_path, gateway, asking_works):
    gateway.answers["create"] = lambda _: gateway.no(500, 5000)
    if not asking_works:
        gateway.answers["query"] = gateway.answers["create"]
    path = written(tmp_path, prompts(20, AT_ONCE), **kapon(gateway))
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "run.give_up_after" in done.stderr
    assert "failed" not in statuses(tmp_path)
    gateway.answers.clear()
    assert batchgen("run", path, cwd=tmp_path).returncode == 0
    assert len(check_invariant(tmp_path / "outputs" / "tried")) == 20
    assert set(gateway.billed_by_job().values()) == {1}


def test_an_outage_is_said_once_and_its_end_too_and_the_run_goes_on(tmp_path, gateway):
    gateway.answers["create"] = lambda call: gateway.no(500, 5000) if call.number <= 12 else None
    path = written(tmp_path, prompts(20, "run: {max_attempts: 1}\n"), **kapon(gateway))
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("accepts nothing") == done.stderr.count("answers again") == 1
    assert len(check_invariant(tmp_path / "outputs" / "tried")) == 20


def test_it_ends_by_the_clock_though_no_refusal_comes_any_more(tmp_path, gateway):
    async def hangs(call):
        if call.number <= 4:
            return gateway.no(500, 5000)
        while call.request.transport is not None:  # until the caller hangs up
            await asyncio.sleep(0.05)
        return call.cut()

    gateway.answers["create"] = hangs
    path = written(tmp_path, prompts(20, AT_ONCE), **kapon(gateway, limits={"concurrency": 4}, request_timeout=60))
    since = time.monotonic()
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    assert time.monotonic() - since < 40
    assert "run.give_up_after" in done.stderr


def test_a_poisonous_job_fails_while_the_others_are_made(tmp_path, gateway):
    """Its creates fail at the server, each time: that is no outage, for the others are accepted."""

    def poisoned(call):
        return gateway.no(500, 5000) if call.body["prompt"].endswith(" 3") else None

    gateway.answers["create"] = poisoned
    path = written(tmp_path, prompts(12, "run: {max_attempts: 2}\n"), **kapon(gateway, limits={"concurrency": 2}))
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert statuses(tmp_path) == {"done": 11, "failed": 1}
    assert "accepts nothing" not in done.stderr


@pytest.mark.parametrize("profile", ["anyapi", "openai"])
def test_a_gateway_that_is_out_from_the_start_leaves_at_most_a_handful_unknown(tmp_path, profile):
    with Recorder(emulate=profile) as recorder:
        recorder.answers = dict.fromkeys(("create", "query", "list", "other"), lambda _: page(502, NGINX_502))
        path = written(tmp_path, prompts(60, AT_ONCE), **unasked(recorder, profile))
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 3, done.stdout + done.stderr
        assert statuses(tmp_path).get("unknown", 0) <= 5
        assert len(recorder.of("create")) <= 5
        assert "failed" not in statuses(tmp_path)


@pytest.mark.parametrize("profile", ["anyapi", "openai"])
def test_where_only_creates_are_lost_it_stops_before_a_handful_is_unknown(tmp_path, profile):
    with Recorder(emulate=profile) as recorder:
        recorder.answers["create"] = lambda _: page(502, NGINX_502)
        path = written(tmp_path, prompts(60, "run: {give_up_after: 10m}\n"), **unasked(recorder, profile))
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 3, done.stdout + done.stderr
        assert "--retry-unknown" in done.stderr
        assert 0 < statuses(tmp_path)["unknown"] == len(recorder.of("create")) <= 5


def test_a_restart_behind_a_proxy_loses_what_was_under_way_and_no_more(tmp_path):
    """Four answers are lost; the free question tells when the gateway is back."""
    with Recorder(emulate="anyapi") as recorder:

        def restarting(sent):
            return page(502, NGINX_502) if 10 < sent.number <= 14 else None

        def out(_):
            return (
                page(502, NGINX_502)
                if 13 <= len(recorder.of("create")) <= 14 and len(recorder.of("query")) % 2
                else None
            )

        recorder.answers |= {"create": restarting, "query": out}
        more = "run: {give_up_after: 60s}\n"
        path = written(tmp_path, prompts(30, more), **unasked(recorder, "anyapi") | {"limits": {"concurrency": 2}})
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 1, done.stdout + done.stderr
        assert statuses(tmp_path) == {"done": 26, "unknown": 4}


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (503, NGINX_503, {}),
        (503, HAPROXY_503, {}),
        (503, b"no healthy upstream", {}),
        (503, b"upstream connect error or disconnect/reset before headers. reset reason: connection failure", {}),
        (503, b"no available server", {}),
        (503, b'{"message":"failure to get a peer from the ring-balancer"}', {}),
        (521, b"error code: 521", {"Server": "cloudflare"}),
    ],
    ids=["nginx", "haproxy", "envoy-none", "envoy-connect", "traefik", "kong", "cloudflare"],
)
def test_what_a_proxy_answers_before_it_reached_the_gateway_makes_nothing_unknown(tmp_path, status, body, headers):
    with Recorder(emulate="anyapi") as recorder:
        recorder.answers["create"] = lambda sent: page(status, body, **headers) if sent.number <= 2 else None
        path = written(tmp_path, prompts(4), **unasked(recorder, "anyapi") | {"limits": {"concurrency": 1}})
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(check_invariant(tmp_path / "outputs" / "tried")) == 4


@pytest.mark.parametrize(
    "body",
    [
        b"upstream connect error or disconnect/reset before headers. reset reason: connection termination",
        b"upstream connect error or disconnect/reset before headers. retried and the latest reset reason: overflow",
        b"Service Unavailable",
    ],
    ids=["sent", "retried", "plain"],
)
def test_what_may_have_arrived_stays_unknown(tmp_path, body):
    with Recorder(emulate="anyapi") as recorder:
        recorder.answers["create"] = lambda sent: page(503, body) if sent.number == 1 else None
        path = written(tmp_path, prompts(4), **unasked(recorder, "anyapi") | {"limits": {"concurrency": 1}})
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        assert statuses(tmp_path) == {"done": 3, "unknown": 1}


def test_a_rate_limit_of_nginx_is_obeyed_and_is_no_outage(tmp_path, gateway):
    """limit_req lets one create a second through, and answers its 503 page to the others."""
    taken = [float("-inf")]

    def limited(_):
        if time.monotonic() - taken[0] < 0.25:
            return web.Response(status=503, body=NGINX_503, content_type="text/html")
        taken[0] = time.monotonic()
        return None

    gateway.answers["create"] = limited
    path = written(tmp_path, prompts(12), **kapon(gateway))
    done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accepts nothing" not in done.stderr
    assert set(gateway.billed_by_job().values()) == {1}


def test_the_progress_says_why_nothing_is_done(tmp_path, gateway):
    gateway.answers["create"] = lambda _: gateway.no(503, 5001, "down for maintenance")
    path = written(tmp_path, prompts(20, "run: {give_up_after: 60s}\n"), **kapon(gateway))
    going = started("run", path, cwd=tmp_path)
    try:
        wait_for(lambda: gateway.count("create") >= 6 or going.poll() is not None)
    finally:
        going.terminate()
        _, errors = going.communicate(timeout=60)
    assert "down for maintenance" in errors
    assert "accepts nothing" in errors


@pytest.mark.parametrize("profile", ["kapon", "anyapi"])
def test_a_gateway_that_goes_away_in_the_middle_with_one_slot_is_waited_for(tmp_path, profile):
    """The same job meets nobody again and again: that is an outage though others were accepted before."""
    with Recorder(emulate=profile) as recorder:
        down = page(521, b"", Server="cloudflare")
        recorder.answers["create"] = lambda sent: down if 3 < sent.number <= 7 else None
        account = (
            unasked(recorder, "anyapi")
            if profile == "anyapi"
            else {"use": "kapon", "base_url": f"{recorder.origin}/kling"}
        )
        path = written(tmp_path, prompts(6, "run: {max_attempts: 1}\n"), **account | {"limits": {"concurrency": 1}})
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr.count("accepts nothing") == done.stderr.count("answers again") == 1
