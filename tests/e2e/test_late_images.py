"""What a gateway does not have at one moment is asked for again, free, before anything is paid a second time."""

from __future__ import annotations

import pytest
from aiohttp import web
from output_checks import check_invariant, rows_of
from scripted_gateway import ScriptedGateway
from scripted_output import files_of, finished, make_older, output_of, run, statuses, write


@pytest.fixture
def gateway():
    with ScriptedGateway(latency=0) as running:
        yield running


def not_found(call):
    return call.gateway.no(404, 1203, "no such task")


def refused(_call):
    return web.Response(status=403)


# --- a retry remakes only what was gone before it -----------------------------------------------------------


@pytest.mark.parametrize("kind", ["query", "image"])
def test_a_retry_of_failed_jobs_does_not_remake_its_own_fresh_tasks(tmp_path, gateway, kind):
    gateway.answers[kind] = not_found if kind == "query" else refused
    path = write(tmp_path, gateway, 3)
    assert run(path, "--retry-failed").returncode == 1
    assert gateway.count("create") == 3
    gateway.answers.clear()
    assert len(finished(path, "--retry-failed")) == 3
    assert gateway.count("create") == 3


def gone(path, gateway):
    """An old output one of whose images is lost here and, by the gateway's own word, there."""
    finished(path)
    make_older(path)
    files_of(path)[0].unlink()
    gateway.answers["query"] = not_found
    gateway.answers["image"] = refused
    assert run(path).returncode == 1
    assert statuses(path) == ["gone"]


def test_a_retry_remakes_what_was_gone_before_it_and_nothing_else(tmp_path, gateway):
    path = write(tmp_path, gateway, 2)
    gone(path, gateway)
    before = gateway.count("create")
    gateway.answers["query"] = lambda call: not_found(call) if call.task and call.task.id in {"T1", "T2"} else None
    gateway.answers["image"] = lambda call: refused(call) if call.task.id in {"T1", "T2"} else None
    assert len(finished(path, "--retry-failed")) == 2
    assert gateway.count("create") == before + 1


# --- gone is never the last word -----------------------------------------------------------------------------


def test_what_is_gone_is_asked_for_in_every_later_run_and_taken_when_it_is_there(tmp_path, gateway):
    path = write(tmp_path, gateway, 2)
    gone(path, gateway)
    asked = gateway.count("query")
    assert run(path).returncode == 1
    assert gateway.count("query") == asked + 1
    gateway.answers.clear()
    assert len(finished(path)) == 2
    assert gateway.count("create") == 2


def test_a_task_that_was_never_seen_again_is_finished_when_the_gateway_remembers_it(tmp_path, gateway):
    gateway.answers["query"] = not_found
    path = write(tmp_path, gateway)
    assert run(path).returncode == 1
    make_older(path)
    assert run(path).returncode == 1
    assert statuses(path) == ["gone"]
    gateway.answers.clear()
    assert len(finished(path)) == 1
    assert gateway.count("create") == 1


@pytest.mark.parametrize("status", [403, 404, 410, 500, 503])
def test_an_image_host_that_refuses_for_a_while_makes_nothing_gone_however_old_it_is(tmp_path, gateway, status):
    path = write(tmp_path, gateway, 2)
    finished(path)
    make_older(path)
    for file in files_of(path):
        file.unlink()
    gateway.answers["image"] = lambda _: web.Response(status=status)
    assert run(path, "--retry-failed").returncode == 1
    assert statuses(path) == []
    gateway.answers.clear()
    assert len(finished(path)) == 2
    assert gateway.count("create") == 2


def test_a_host_that_refuses_for_a_day_makes_it_gone_and_only_then_a_retry_pays(tmp_path, gateway):
    path = write(tmp_path, gateway)
    finished(path)
    make_older(path)
    files_of(path)[0].unlink()
    gateway.answers["image"] = lambda call: web.Response(status=410) if call.task.id == "T1" else None
    assert run(path, "--retry-failed").returncode == 1
    make_older(path)
    assert run(path, "--retry-failed").returncode == 1
    assert statuses(path) == ["gone"]
    assert gateway.count("create") == 1
    assert len(finished(path, "--retry-failed")) == 1
    assert gateway.count("create") == 2


# --- fewer links than were asked for --------------------------------------------------------------------------


def fewer(call, most=1):
    data = call.gateway.view(call.task)
    images = data["task_result"]["images"][:most]
    return data | {"task_result": {"images": images}}


def test_a_list_that_names_too_few_images_is_not_believed_before_the_task_itself(tmp_path, gateway):
    def short_list(call):
        page = [fewer(type(call)(**{**vars_of(call), "task": task})) for task in call.gateway.tasks.values()]
        return call.gateway.yes(page)

    gateway.answers["list"] = short_list
    path = write(tmp_path, gateway, 6, n=3, lists_tasks="yes", limits={"concurrency": 27})
    assert len(finished(path)) == 18
    assert gateway.count("create") == 6


def vars_of(call):
    return {name: getattr(call, name) for name in call.__slots__}


def test_a_single_answer_that_names_too_few_images_is_asked_for_again(tmp_path, gateway):
    gateway.answers["query"] = lambda call: call.gateway.yes(fewer(call)) if call.number == 1 else None
    assert len(finished(write(tmp_path, gateway, n=3))) == 3


def test_links_that_appear_later_complete_a_partial_job_unpaid(tmp_path, gateway):
    gateway.answers["query"] = lambda call: call.gateway.yes(fewer(call))
    path = write(tmp_path, gateway, n=3)
    assert run(path).returncode == 1
    assert statuses(path) == ["partial"]
    assert len(check_invariant(output_of(path))) == 1
    asked = gateway.count("query")
    assert run(path).returncode == 1
    assert gateway.count("query") == asked + 1
    gateway.answers.clear()
    rows = finished(path)
    assert [row["image_index"] for row in rows] == ["0", "1", "2"]
    assert gateway.count("create") == 1
    assert rows_of(output_of(path), "failures.csv") == []


@pytest.mark.parametrize("is_late", [True, False])
def test_a_retry_asks_for_the_rest_of_a_partial_job_before_it_pays(tmp_path, gateway, is_late):
    gateway.answers["query"] = lambda call: call.gateway.yes(fewer(call)) if call.task.id == "T1" else None
    path = write(tmp_path, gateway, n=3)
    assert run(path).returncode == 1
    if is_late:
        gateway.answers.clear()
    assert len(finished(path, "--retry-failed")) == 3
    assert gateway.count("create") == (1 if is_late else 2)


def test_a_retry_does_not_pay_for_the_rest_of_a_partial_job_while_the_gateway_does_not_answer(tmp_path, gateway):
    gateway.answers["query"] = lambda call: call.gateway.yes(fewer(call))
    path = write(tmp_path, gateway, n=3)
    assert run(path).returncode == 1
    gateway.answers["query"] = lambda call: call.gateway.no(500, 5000)
    assert run(path, "--retry-failed").returncode == 1
    assert gateway.count("create") == 1


# --- which image is which --------------------------------------------------------------------------------------


def picture(path, gateway):
    """Which of the task's images stands under which index."""
    task = gateway.tasks["T1"]
    by_body = {task.image(index): index for index in range(task.n)}
    return {
        int(row["image_index"]): by_body[(output_of(path) / row["file_name"]).read_bytes()]
        for row in rows_of(output_of(path))
    }


def renumbered(*, start=0, order=None, only=None, index=True):
    def answer(call):
        data = call.gateway.view(call.task)
        images = data["task_result"]["images"]
        images = [images[i] | {"index": i + start} for i in (order or range(len(images))) if only is None or i in only]
        for at, image in enumerate(images):
            image["url"] += f"?signed={call.number}-{at}"
            if not index:
                del image["index"]
        return call.gateway.yes(data | {"task_result": {"images": images}})

    return answer


@pytest.mark.parametrize("start", [0, 1])
def test_images_keep_the_gateway_s_own_numbers_in_whatever_order_they_are_told(tmp_path, gateway, start):
    gateway.answers["query"] = lambda call: renumbered(start=start, order=[(1, 2, 0), (2, 0, 1)][call.number % 2])(call)
    path = write(tmp_path, gateway, n=3)
    finished(path)
    assert picture(path, gateway) == {0: 0, 1: 1, 2: 2}


@pytest.mark.parametrize("index", [True, False])
def test_an_image_that_is_fetched_again_is_the_one_that_was_lost_though_others_are_no_longer_told(
    tmp_path, gateway, index
):
    gateway.answers["query"] = renumbered(index=index)
    path = write(tmp_path, gateway, n=3)
    finished(path)
    files_of(path)[2].unlink()
    gateway.answers["image"] = lambda call: refused(call) if call.request.query["signed"].startswith("1-") else None
    gateway.answers["query"] = renumbered(only={1, 2}, order=(2, 1, 0), index=index)
    finished(path)
    assert picture(path, gateway) == {0: 0, 1: 1, 2: 2}


def test_an_image_that_is_first_left_out_comes_under_its_own_number(tmp_path, gateway):
    gateway.answers["query"] = renumbered(only={1, 2})
    path = write(tmp_path, gateway, n=3)
    assert run(path).returncode == 1
    assert picture(path, gateway) == {1: 1, 2: 2}
    gateway.answers["query"] = renumbered()
    finished(path)
    assert picture(path, gateway) == {0: 0, 1: 1, 2: 2}


def test_new_links_in_another_task_s_answer_are_not_taken(tmp_path, gateway):
    def of_another(call):
        other = next(task for task in call.gateway.tasks.values() if task is not call.task)
        return call.gateway.yes(call.gateway.view(other) | {"task_id": call.task.id})

    path = write(tmp_path, gateway, 2)
    before = {row["job_id"]: row["sha256"] for row in finished(path)}
    for file in files_of(path):
        file.unlink()
    gateway.answers["image"] = lambda call: refused(call) if call.number <= 4 else None
    gateway.answers["query"] = lambda call: of_another(call) if call.number % 2 else None
    assert {row["job_id"]: row["sha256"] for row in finished(path)} == before
