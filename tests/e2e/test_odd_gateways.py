"""No doubt is taken for a refusal: what gateways do that no page describes, and runs that end at the wrong moment.

Each test is a fault that a review of the money path once found. The witness is the gateway: it counts.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from aiohttp import web
from command import KEY, batchgen, prompts, started, wait_for
from output_checks import check_invariant, rows_of
from scripted_gateway import ScriptedGateway

SECRET = KEY["SANDBOX_KEY"]
TRIES = {"lookup_by_external_id": "try", "lists_tasks": "yes"}
FOR_EVER = 3600.0  # a latency


@pytest.fixture
def gateway():
    with ScriptedGateway() as running:
        yield running


def account(gateway, **more):
    """An account at this gateway that is asked at once what became of a create, and has only the single query."""
    own = {"use": "kapon", "base_url": gateway.base_url, "api_key_env": "SANDBOX_KEY", "visibility_delay": 0}
    return own | {"lists_tasks": "no", "limits": {"concurrency": 9}} | more


def write(folder, text, **accounts):
    """The first account is the manifest's."""
    path = folder / "manifest.yaml"
    path.write_text(
        f"version: 1\nname: tried\nprovider: {next(iter(accounts))}\nproviders: {json.dumps(accounts)}\n{text}",
        encoding="utf-8",
    )
    return path


def output_of(folder):
    return folder / "outputs" / "tried"


def run(path, *words):
    done = batchgen("run", path, *words, cwd=path.parent)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def finished(path, *words):
    """Run to the end, and give the rows of the index."""
    done = run(path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return check_invariant(output_of(path.parent))


def killed_when(path, claim):
    """A run that is ended with SIGKILL as soon as a claim holds."""
    going = started("run", path, cwd=path.parent)
    wait_for(lambda: claim() or going.poll() is not None)
    going.kill()
    going.communicate()


def interrupted_when(path, claim):
    """A run that hears Ctrl-C as soon as a claim holds; gives it, its messages, and how long it still took (s)."""
    going = started("run", path, cwd=path.parent)
    wait_for(lambda: claim() or going.poll() is not None)
    going.send_signal(signal.SIGINT)
    since = time.monotonic()
    _, errors = going.communicate(timeout=30)
    assert going.returncode == 130, errors
    return errors, time.monotonic() - since


def stored_and_cut(call):
    call.store()
    return call.cut()


def succeeded_without_links(call):
    return call.gateway.yes(call.gateway.view(call.task, links=False))


# --- answers that say less than they seem to ---------------------------------------------------------------


def test_a_task_that_has_succeeded_before_its_links_are_there_is_asked_for_again(tmp_path, gateway):
    gateway.latency = 0
    gateway.answers["query"] = lambda call: succeeded_without_links(call) if call.number == 1 else None
    assert len(finished(write(tmp_path, prompts(1), local=account(gateway)))) == 1
    assert gateway.count("create") == 1


def test_a_list_that_never_gives_links_ends_no_task(tmp_path, gateway):
    gateway.answers["list"] = lambda call: gateway.page(call, links=False)
    assert len(finished(write(tmp_path, prompts(4), local=account(gateway, lists_tasks="yes")))) == 4
    assert gateway.count("list") > 0
    assert set(gateway.creates_by_job().values()) == {1}


def test_a_query_that_answers_not_found_for_a_moment_is_no_loss(tmp_path, gateway):
    gateway.answers["query"] = lambda call: gateway.no(404, 1203) if call.number <= 2 else None
    assert len(finished(write(tmp_path, prompts(1), local=account(gateway)))) == 1
    assert gateway.count("create") == 1


def test_a_refused_query_does_not_end_the_run_for_the_others(tmp_path, gateway):
    def refused(call):
        return gateway.no(400, 1201, "odd") if call.task and call.task.prompt.endswith(" 1") else None

    gateway.answers["query"] = refused
    path = write(tmp_path, prompts(4, "run: {give_up_after: 1s, grace: 0s}\n"), local=account(gateway))
    done = run(path)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "odd" in done.stderr
    assert len(check_invariant(output_of(tmp_path))) == 3
    del gateway.answers["query"]
    assert len(finished(path)) == 4
    assert gateway.count("create") == 4


@pytest.mark.parametrize(
    "answer",
    [
        lambda call: call.gateway.no(400, 1201, "pageSize is invalid"),
        lambda _: web.Response(status=403, text="forbidden"),
        lambda _: web.Response(status=500, text="oops"),
    ],
    ids=["400", "403", "500"],
)
def test_a_list_that_is_refused_is_left_for_single_queries(tmp_path, gateway, answer):
    gateway.answers["list"] = answer
    assert len(finished(write(tmp_path, prompts(4), local=account(gateway, lists_tasks="yes")))) == 4
    assert 1 <= gateway.count("list") <= 3
    assert gateway.count("create") == 4


# --- creates whose answer was lost -------------------------------------------------------------------------


def test_a_create_that_turns_up_late_is_adopted(tmp_path, gateway):
    def late(call):
        call.store_after(1.5)
        return call.cut()

    gateway.answers["create"] = late
    assert len(finished(write(tmp_path, prompts(1), local=account(gateway, visibility_delay=3)))) == 1
    assert gateway.count("create") == 1
    asked = [call.at - gateway.of("create")[0].at for call in gateway.of("query") if call.by_own_id]
    assert any(seconds >= 2.5 for seconds in asked), asked  # "not found" is not believed before visibility_delay


def test_a_list_that_caps_its_pages_is_read_on(tmp_path, gateway):
    gateway.answers["create"] = stored_and_cut
    gateway.answers["query"] = lambda call: gateway.no(404, 1203) if call.by_own_id else None
    gateway.answers["list"] = lambda call: gateway.page(call, at_most=30)
    path = write(tmp_path, prompts(40), local=account(gateway, **TRIES, limits={"concurrency": 40}))
    assert len(finished(path)) == 40
    assert len(gateway.creates_by_job()) == 40
    assert set(gateway.creates_by_job().values()) == {1}


def test_a_refusal_to_be_asked_by_our_own_id_falls_back_to_the_list(tmp_path, gateway):
    gateway.answers["create"] = stored_and_cut
    gateway.answers["query"] = lambda call: gateway.no(400, 1201, "task id invalid") if call.by_own_id else None
    assert len(finished(write(tmp_path, prompts(2), local=account(gateway, **TRIES)))) == 2
    assert set(gateway.creates_by_job().values()) == {1}


# --- images -------------------------------------------------------------------------------------------------


def test_an_image_that_is_not_there_for_a_while_does_not_give_up_its_siblings(tmp_path, gateway):
    """Nor is it gone: the next run finds it."""

    async def one_is_not_there(call):
        if call.index == 1:
            return web.Response(status=404)
        await asyncio.sleep(1.0)  # so that its siblings are under way when it is given up
        return None

    gateway.answers["image"] = one_is_not_there
    gateway.answers["query"] = lambda _: gateway.no(404, 1203) if gateway.count("image") else None
    path = write(tmp_path, prompts(1, "defaults: {n: 3}\n"), local=account(gateway))
    done = run(path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert [row["image_index"] for row in check_invariant(output_of(tmp_path))] == ["0", "2"]
    assert rows_of(output_of(tmp_path), "failures.csv") == []
    gateway.answers.clear()
    assert [row["image_index"] for row in finished(path)] == ["0", "1", "2"]
    assert gateway.count("create") == 1


def test_an_image_that_comes_with_its_second_link_is_no_loss(tmp_path, gateway):
    gateway.answers["image"] = lambda call: web.Response(status=404) if call.number <= 2 else None
    assert len(finished(write(tmp_path, prompts(1, "defaults: {n: 2}\n"), local=account(gateway)))) == 2
    assert gateway.count("create") == 1


ODD_LINKS = ("http://[bad/x.png", "http://127.0.0.1:99999/x.png", "http:///x.png", "//x.png", "x", "ftp://x/y.png")


def test_a_link_that_is_no_address_is_no_crash(tmp_path, gateway):
    def odd_at_first(call):
        data = gateway.view(call.task)
        if "task_result" in data and not gateway.odd_was_told:
            gateway.odd_was_told = True
            data["task_result"] = {"images": [{"index": i, "url": url} for i, url in enumerate(ODD_LINKS)]}
        return gateway.yes(data)

    gateway.odd_was_told = False
    gateway.answers["query"] = odd_at_first
    path = write(tmp_path, prompts(1, f"defaults: {{n: {len(ODD_LINKS)}}}\n"), local=account(gateway))
    assert len(finished(path)) == len(ODD_LINKS)
    assert gateway.odd_was_told
    assert gateway.count("create") == 1


# --- accounts that move, or were left ----------------------------------------------------------------------


def test_another_base_url_loses_nothing_that_is_in_flight_and_sends_nothing_again(tmp_path, gateway):
    gateway.latency = FOR_EVER
    path = write(tmp_path, prompts(2), local=account(gateway))
    killed_when(path, lambda: len(gateway.tasks) == 2)
    with ScriptedGateway() as elsewhere:
        write(tmp_path, prompts(2), local=account(elsewhere))
        assert run(path).returncode == 1
        assert elsewhere.count("query") >= 2
        assert elsewhere.count("create") == 0
    assert rows_of(output_of(tmp_path), "failures.csv") == []
    gateway.latency = 0
    write(tmp_path, prompts(2), local=account(gateway))
    assert len(finished(path)) == 2
    assert gateway.count("create") == 2


def test_an_attempt_that_made_nothing_at_an_old_account_is_not_sent_there_again(tmp_path, gateway):
    async def never_answers(call):
        if call.number == 2:
            await asyncio.sleep(FOR_EVER)

    with ScriptedGateway() as old:
        old.answers["create"] = never_answers
        path = write(tmp_path, prompts(2), old=account(old))
        killed_when(path, lambda: old.count("create") == 2 and old.count("image") == 1)
        write(tmp_path, prompts(2), new=account(gateway), old=account(old))
        assert run(path).returncode in {0, 1}
        assert len(finished(path)) == 2
        assert any(call.by_own_id for call in old.of("query"))
        assert old.count("create") == 2
    assert gateway.count("create") == 1


def in_flight_at_two(folder, old, new):
    """A manifest whose first prompt is under way at an account that has since been left for a new one."""
    old.latency = FOR_EVER
    path = write(folder, prompts(1), old=account(old))
    killed_when(path, lambda: len(old.tasks) == 1)
    return write(folder, prompts(3, "run: {grace: 0.5s}\n"), new=account(new), old=account(old))


def test_both_accounts_end_after_ctrl_c(tmp_path, gateway):
    gateway.latency = FOR_EVER
    with ScriptedGateway() as old:
        path = in_flight_at_two(tmp_path, old, gateway)
        before = old.count("query")
        _, seconds = interrupted_when(path, lambda: len(gateway.tasks) == 2 and old.count("query") > before)
        assert seconds < 5


def test_an_old_account_whose_key_is_refused_does_not_stop_the_new_one(tmp_path, gateway):
    with ScriptedGateway() as old:
        path = in_flight_at_two(tmp_path, old, gateway)
        old.answers["query"] = lambda _: old.no(401, 1002, "key revoked")
        gateway.latency = 1.0  # so that the old account is refused while the new one works
        done = run(path)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "key revoked" in done.stdout + done.stderr
        assert len(check_invariant(output_of(tmp_path))) == 2
        old.answers.clear()
        old.latency = 0
        assert len(finished(path)) == 3
        assert (old.count("create"), gateway.count("create")) == (1, 2)


# --- secrets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "code"), [(400, 1201), (401, 1002), (500, 5000)])
def test_a_key_that_a_refusal_echoes_is_in_no_file_and_no_message(tmp_path, gateway, status, code):
    gateway.answers["create"] = lambda call: gateway.no(status, code, f"not {call.request.headers['Authorization']}")
    done = run(write(tmp_path, prompts(1), local=account(gateway, lookup_by_external_id="no")))
    assert done.returncode in {1, 6}
    assert "not Bearer ***" in done.stderr + all_text(output_of(tmp_path))
    assert_kept(SECRET, output_of(tmp_path), done)


def test_a_key_that_a_failed_task_echoes_is_in_no_file_and_no_message(tmp_path, gateway):
    def echoed(call):
        data = gateway.view(call.task) | {"task_status": "failed", "task_status_msg": f"upstream refused {SECRET}"}
        return gateway.yes(data)

    gateway.answers["query"] = echoed
    done = run(write(tmp_path, prompts(1, "run: {max_attempts: 1}\n"), local=account(gateway)))
    assert done.returncode == 1
    assert "upstream refused ***" in all_text(output_of(tmp_path))
    assert_kept(SECRET, output_of(tmp_path), done)


def test_a_key_that_is_echoed_with_escapes_is_in_no_file_and_no_message(tmp_path, gateway, monkeypatch):
    """Some JSON encoders write `\\/` for a slash; read back, that is the key again."""
    monkeypatch.setenv("SLASHED_KEY", 'key/with"odd/signs')
    body = r'{"code": 1201, "message": "not key\/with\"odd\/signs"}'
    gateway.answers["create"] = lambda _: web.Response(status=400, text=body, content_type="application/json")
    profile = {"lookup_by_external_id": "no", "api_key_env": "SLASHED_KEY"}
    done = run(write(tmp_path, prompts(1), local=account(gateway, **profile)))
    assert done.returncode == 1
    assert "not ***" in all_text(output_of(tmp_path))
    assert_kept("signs", output_of(tmp_path), done)


def all_text(folder):
    return "".join(file.read_text("utf-8", "replace") for file in folder.rglob("*") if file.is_file())


def assert_kept(secret, folder, done):
    assert secret not in done.stdout + done.stderr
    assert secret not in all_text(folder)


def test_a_netrc_changes_nothing_and_is_sent_nowhere(tmp_path, gateway, monkeypatch):
    netrc = tmp_path / ".netrc"
    netrc.write_text("default login someone password something\n", encoding="utf-8")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    assert len(finished(write(tmp_path, prompts(1), local=account(gateway)))) == 1
    sent = {call.kind: call.request.headers.get("Authorization") for call in gateway.calls}
    assert sent == {"create": f"Bearer {SECRET}", "query": f"Bearer {SECRET}", "image": None}


@pytest.mark.parametrize("status", [302, 307])
def test_a_redirected_create_is_not_followed(tmp_path, gateway, status):
    with ScriptedGateway() as other:
        there = f"{other.base_url}/v1/images/generations"
        gateway.answers["create"] = lambda _: web.Response(status=status, headers={"Location": there})
        done = run(write(tmp_path, prompts(1), local=account(gateway)))
        assert done.returncode == 6
        assert "base_url" in done.stderr
        assert other.calls == []


def test_a_redirected_image_is_followed_without_the_key(tmp_path, gateway):
    with ScriptedGateway() as other:
        there = f"{other.host}/images/T1/0"
        other.accept({"external_task_id": "x", "prompt": "x"})
        gateway.answers["image"] = lambda _: web.Response(status=302, headers={"Location": there})
        assert len(finished(write(tmp_path, prompts(1), local=account(gateway)))) == 1
        (call,) = other.calls
        assert "Authorization" not in call.request.headers


# --- odd numbers ---------------------------------------------------------------------------------------------


def test_a_retry_after_of_years_ends_the_run_at_once(tmp_path, gateway):
    gateway.answers["create"] = lambda _: gateway.no(429, 1302, "slow down", Retry_After="1790000000")
    since = time.monotonic()
    done = run(write(tmp_path, prompts(1), local=account(gateway)))
    assert done.returncode == 3
    assert "1790000000 s" in done.stderr
    assert "Run again later" in done.stderr
    assert time.monotonic() - since < 10


HUGE = "1" + "0" * 400
ODD_NUMBERS = (
    '"created_at": Infinity, "final_unit_deduction": Infinity',
    '"created_at": -Infinity, "final_unit_deduction": NaN',
    f'"created_at": {HUGE}, "final_unit_deduction": {HUGE}',
    '"created_at": 1e308, "final_unit_deduction": "1e308"',
    '"created_at": null, "final_unit_deduction": "1e999999999"',
    '"created_at": "soon", "final_unit_deduction": {}',
)


def test_a_number_that_is_none_is_no_crash(tmp_path, gateway):
    def odd(call):
        data = gateway.view(call.task)
        del data["created_at"]
        rest = json.dumps(data).removeprefix("{")
        text = f'{{"code": 0, "data": {{{ODD_NUMBERS[int(call.task.prompt[-1])]}, {rest}}}'
        return web.Response(text=text, content_type="application/json")

    gateway.answers["query"] = odd
    path = write(tmp_path, prompts(len(ODD_NUMBERS)), local=account(gateway))
    assert len(finished(path)) == len(ODD_NUMBERS)
    assert gateway.count("create") == len(ODD_NUMBERS)


def test_half_a_character_is_no_crash(tmp_path, gateway):
    """A lone surrogate is a text to JSON, but can be written to no file and no ledger."""

    def halved(call):
        data = gateway.view(call.task)
        if call.task.prompt.endswith("0"):
            data |= {"task_status": "failed", "task_status_msg": "half of \ud83d"}
        elif "task_result" in data and call.task.id not in gateway.halved:
            gateway.halved.add(call.task.id)
            data["task_result"]["images"][0]["url"] += "\ud83d"
        return gateway.yes(data)

    gateway.halved = set()
    gateway.answers["query"] = halved
    done = run(write(tmp_path, prompts(2, "run: {max_attempts: 1}\n"), local=account(gateway)))
    assert done.returncode == 1, done.stderr
    assert len(check_invariant(output_of(tmp_path))) == 1
    (row,) = rows_of(output_of(tmp_path), "failures.csv")
    assert "half of" in row["message"]


def test_an_answer_of_absurd_nesting_is_no_crash(tmp_path, gateway):
    def nested(call):
        if call.number > 1:
            return None
        if call.kind == "create":
            call.store()
        return web.Response(text='{"code": 0, "data": ' + "[" * 100_000, content_type="application/json")

    gateway.answers |= {"create": nested, "query": nested}
    assert len(finished(write(tmp_path, prompts(1), local=account(gateway)))) == 1
    assert gateway.count("create") == 1


# --- ends at the wrong moment ---------------------------------------------------------------------------------


def test_ctrl_c_does_not_wait_for_the_rate(tmp_path, gateway):
    paced = account(gateway, limits={"concurrency": 9, "creates_per_minute": 3})
    path = write(tmp_path, prompts(5, "run: {grace: 1s}\n"), local=paced)
    errors, seconds = interrupted_when(path, lambda: gateway.count("image") == 1)
    assert "Run again to go on" in errors
    assert seconds < 5  # the next create would be due in half a minute
    assert gateway.count("create") == 1


@pytest.mark.parametrize("images", [7, 19])
def test_an_interrupted_run_leaves_no_row_without_a_file_and_no_file_without_a_row(tmp_path, gateway, images):
    gateway.latency = 0
    path = write(tmp_path, prompts(60, "run: {grace: 0s}\n"), local=account(gateway, limits={"concurrency": 27}))
    interrupted_when(path, lambda: gateway.count("image") >= images)
    check_invariant(output_of(tmp_path))
    assert len(finished(path)) == 60
    assert set(gateway.billed_by_job().values()) == {1}


ENDS_BEFORE = """
import os, signal, sys
from batchgen.cli.main import main
from batchgen.reconcile import reconcile
reconcile.{step} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
main(sys.argv[1:])
"""


@pytest.mark.parametrize("step", ["retire", "rename"])
def test_a_run_killed_before_it_retires_or_renames_does_so_the_next_time(tmp_path, gateway, step):
    path = write(tmp_path, prompts(3), local=account(gateway))
    finished(path)
    write(tmp_path, prompts(1, 'output: {path: "flat/{job_id}-{index}{ext}"}\n'), local=account(gateway))
    words = [sys.executable, "-c", ENDS_BEFORE.format(step=step), "run", str(path)]
    killed = subprocess.run(words, cwd=tmp_path, env=os.environ | KEY, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    (row,) = finished(path)
    assert row["file_name"].startswith("images/flat/")
    assert len(list((output_of(tmp_path) / "retired").rglob("*.png"))) == 2
    assert gateway.count("create") == 3


def test_a_job_in_flight_that_is_no_longer_wanted_does_not_overwrite_anothers_file(tmp_path, gateway):
    def hero(prompt):
        named = 'output: {path: "{prompt_id}-{index}{ext}"}\n'
        return write(tmp_path, f"matrix: {{prompt: [{{prompt: {prompt}, id: hero}}]}}\n{named}", local=account(gateway))

    gateway.latency = FOR_EVER
    killed_when(hero("an old one"), lambda: len(gateway.tasks) == 1)
    gateway.latency = 0
    (row,) = finished(hero("a new one"))
    by_prompt = {task.prompt: task.image(0) for task in gateway.tasks.values()}
    assert row["prompt"] == "a new one"
    assert (output_of(tmp_path) / row["file_name"]).read_bytes() == by_prompt["a new one"]
    (kept,) = (output_of(tmp_path) / "retired").rglob("*.png")
    assert kept.read_bytes() == by_prompt["an old one"]
    assert gateway.count("create") == 2


# --- runs with nothing to do ------------------------------------------------------------------------------------


def test_a_limit_of_zero_does_not_say_that_there_is_nothing_to_do(tmp_path, gateway):
    done = run(write(tmp_path, prompts(2), local=account(gateway)), "--limit", 0)
    assert "Nothing to do" not in done.stdout
    assert "Not started yet: 2 jobs." in done.stdout
    assert gateway.calls == []


def test_a_second_run_rewrites_nothing(tmp_path, gateway):
    path = write(tmp_path, prompts(2), local=account(gateway))
    finished(path)
    index = output_of(tmp_path) / "index.csv"
    before = index.stat()
    assert "Nothing to do" in run(path).stdout
    after = index.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
