"""What is downloaded can be trusted: whose links are followed, how far, and what is made of what comes.

The real command at a gateway that misbehaves on purpose; the witness is the gateway, which counts. A gateway out
in the world is played through a proxy on loopback, so that its name is nobody's here.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib

import pytest
from aiohttp import web
from command import batchgen
from output_checks import check_invariant, rows_of
from PIL import Image
from scripted_gateway import ScriptedGateway


@pytest.fixture
def gateway():
    with ScriptedGateway(latency=0) as running:
        yield running


@pytest.fixture
def world(gateway, monkeypatch):
    """The same gateway as http://gateway.example, behind a proxy; its images are at http://images.example."""
    for name in ("no_proxy", "NO_PROXY", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", gateway.host)
    gateway.inside, gateway.host = gateway.host, "http://images.example"
    return gateway


def write(folder, base_url, more="", n=1):
    path = folder / "manifest.yaml"
    own = {"use": "kapon", "base_url": base_url, "api_key_env": "SANDBOX_KEY", "lists_tasks": "no"}
    path.write_text(
        f"version: 1\nname: tried\nprovider: local\nproviders: {json.dumps({'local': own})}\n"
        f"defaults: {{n: {n}}}\nmatrix: {{prompt: [a fox]}}\n{more}",
        encoding="utf-8",
    )
    return path


def run(path, *words):
    done = batchgen("run", path, *words, cwd=path.parent)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def output_of(path):
    return path.parent / "outputs" / "tried"


def finished(path):
    done = run(path)
    assert done.returncode == 0, done.stdout + done.stderr
    return check_invariant(output_of(path))


def files_of(path):
    return [(output_of(path) / row["file_name"]).read_bytes() for row in rows_of(output_of(path))]


def links_to(*urls, marked=()):
    """A query's answer in which a finished task's images are at these addresses."""

    def answer(call):
        data = call.gateway.view(call.task)
        images = [{"index": i, "url": url} for i, url in enumerate(urls)]
        for image, copy in zip(images, marked, strict=False):
            image["watermark_url"] = copy
        return call.gateway.yes(data | {"task_result": {"images": images}})

    return answer


def moved(there):
    return web.Response(status=302, headers={"Location": there})


# --- links into networks that are not the gateway's -----------------------------------------------------------

INSIDE = ("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.7", "100.64.1.1", "localhost")


def test_a_link_to_a_private_address_is_refused_by_name_and_the_image_is_left_for_the_next_run(tmp_path, world):
    world.answers["query"] = links_to(*(f"http://{host}:{world.inside.rpartition(':')[2]}/x" for host in INSIDE))
    path = write(tmp_path, "http://gateway.example/kling", n=len(INSIDE))
    done = run(path, "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    (reason,) = json.loads(done.stdout)["unfinished"]
    assert "127.0.0.1 is on this machine or in a private network" in reason
    assert world.count("image") == 0
    world.answers.clear()
    assert len(finished(path)) == len(INSIDE)
    assert world.count("create") == 1


@pytest.mark.parametrize("there", ["http://127.0.0.1:9/x", "//[::1]/x", "http://2130706433/x", "http://0177.0.0.1/x"])
def test_a_redirect_to_a_private_address_is_refused(tmp_path, world, there):
    world.answers["image"] = lambda call: moved(there) if call.number == 1 else None
    assert len(finished(write(tmp_path, "http://gateway.example/kling"))) == 1
    assert (world.count("create"), world.count("image")) == (1, 2)


def test_a_gateway_at_a_private_address_may_have_its_images_there(tmp_path, gateway):
    by_name = gateway.host.replace("127.0.0.1", "localhost")
    gateway.answers["query"] = links_to(f"{gateway.host}/images/T1/0", f"{by_name}/images/T1/1")
    path = write(tmp_path, gateway.base_url.replace("127.0.0.1", "localhost"), n=2)
    assert len(finished(path)) == 2


# --- redirects ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hops", "code"), [(5, 0), (6, 1)])
def test_five_redirects_are_followed_and_no_more(tmp_path, gateway, hops, code):
    def hop(call):
        done = int(call.request.query.get("hops", 0))
        return moved(f"0?hops={done + 1}") if done < hops else None

    gateway.answers["image"] = hop
    done = run(write(tmp_path, gateway.base_url))
    assert done.returncode == code, done.stdout + done.stderr
    assert ("redirected more than 5 times" in done.stdout) == bool(code)
    assert gateway.count("create") == 1


def test_a_redirect_to_what_is_no_web_address_is_refused_in_a_sentence(tmp_path, gateway):
    gateway.answers["image"] = lambda _: moved("ftp://127.0.0.1/x.png")
    assert "redirects to a link that is no http or https address" in run(write(tmp_path, gateway.base_url)).stdout


def test_a_signed_link_is_sent_letter_for_letter(tmp_path, gateway):
    signed = "/images/T1/0?sig=a%2fb%2Bc%3d&x=%7e~%E4%BD%A0+%20"
    gateway.answers["query"] = links_to(f"{gateway.host}{signed}")
    gateway.answers["image"] = lambda call: moved(signed + "2") if call.number == 1 else None
    finished(write(tmp_path, gateway.base_url))
    assert [call.request.raw_path for call in gateway.of("image")] == [signed, signed + "2"]


def test_an_image_host_gets_no_key_and_no_cookie_back(tmp_path, gateway):
    def asks_to_remember(call):
        response = web.Response(body=call.task.image(call.index))
        response.set_cookie("who", "you")
        return response

    gateway.answers["image"] = asks_to_remember
    finished(write(tmp_path, gateway.base_url, n=4, more="run: {downloads: 1}\n"))
    for call in gateway.of("image"):
        assert not {"Authorization", "Cookie"} & set(call.request.headers)


# --- what comes -----------------------------------------------------------------------------------------------


def expired(status):
    return lambda _: web.Response(status=status, text="<Error><Code>AccessDenied</Code></Error>")


def page(text, content_type):
    return lambda _: web.Response(text=text, content_type=content_type)


@pytest.mark.parametrize(
    "answer",
    [
        *(expired(status) for status in (400, 401, 403, 404, 410, 500, 503)),
        page("<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "application/xml"),
        page("<!doctype html><title>Not here</title>", "text/html"),
        page('{"error": "expired"}', "image/png"),
        page("", "image/png"),
    ],
)
def test_a_link_that_no_longer_gives_the_image_is_asked_for_anew_and_nothing_is_made_again(tmp_path, gateway, answer):
    gateway.answers["image"] = lambda call: answer(call) if call.number == 1 else None
    finished(write(tmp_path, gateway.base_url))
    assert (gateway.count("create"), gateway.count("image")) == (1, 2)
    assert gateway.count("query") >= 2


def test_a_page_in_place_of_an_image_is_quoted_and_left_for_the_next_run(tmp_path, gateway):
    gateway.answers["image"] = page("<Error><Code>AccessDenied</Code></Error>", "application/xml")
    path = write(tmp_path, gateway.base_url)
    done = run(path)
    assert done.returncode == 1
    assert "The download is text, not an image. It says: <Error><Code>AccessDenied" in done.stdout
    gateway.answers.clear()
    finished(path)
    assert gateway.count("create") == 1


def packed(how):
    return {"gzip": gzip.compress, "deflate": zlib.compress, "x-gzip": gzip.compress}.get(how, lambda body: body)


@pytest.mark.parametrize("how", ["gzip", "x-gzip", "deflate", "GZIP ", "aws-chunked", "identity"])
def test_a_packed_image_is_unpacked_and_one_that_only_claims_to_be_is_taken_as_it_is(tmp_path, gateway, how):
    def answer(call):
        body = packed(how.strip().lower())(call.task.image(call.index))
        return web.Response(body=body, headers={"Content-Encoding": how})

    def claims(call):
        return web.Response(body=call.task.image(call.index), headers={"Content-Encoding": how})

    gateway.answers["image"] = lambda call: claims(call) if call.index else answer(call)
    path = write(tmp_path, gateway.base_url, n=2)
    finished(path)
    assert files_of(path) == [gateway.tasks["T1"].image(0), gateway.tasks["T1"].image(1)]
    assert {call.request.headers["Accept-Encoding"] for call in gateway.of("image")} == {"identity"}


@pytest.mark.parametrize("spoilt", [lambda body: body[:-30], lambda body: body[:20] + bytes(20) + body[40:]])
def test_a_packed_image_that_cannot_be_unpacked_is_asked_for_again(tmp_path, gateway, spoilt):
    def answer(call):
        body = spoilt(gzip.compress(call.task.image(call.index)))
        return web.Response(body=body, headers={"Content-Encoding": "gzip"}) if call.number == 1 else None

    gateway.answers["image"] = answer
    finished(write(tmp_path, gateway.base_url))
    assert (gateway.count("create"), gateway.count("image")) == (1, 2)


def encoded(kind, **options):
    body = io.BytesIO()
    Image.effect_noise((40, 30), 60).convert("RGB").save(body, kind, **options)
    return body.getvalue()


def test_a_format_is_known_by_its_content_whatever_the_host_calls_it(tmp_path, gateway):
    more = [Image.effect_noise((40, 30), 90).convert("RGB")]
    bodies = [
        encoded("PNG"),
        encoded("JPEG"),
        encoded("WEBP"),
        encoded("WEBP", lossless=True),
        encoded("WEBP", save_all=True, append_images=more, duration=50),
    ]
    gateway.answers["image"] = lambda call: web.Response(body=bodies[call.index], content_type="image/gif")
    path = write(tmp_path, gateway.base_url, n=len(bodies))
    rows = finished(path)
    assert [row["file_name"].rpartition(".")[2] for row in rows] == ["png", "jpg", "webp", "webp", "webp"]
    assert [(row["width"], row["height"]) for row in rows] == [("40", "30")] * len(bodies)
    assert files_of(path) == bodies


NONE_OF_THEM = {
    "a video": b"\0\0\0 ftypisom" + bytes(40),
    "a PDF file": b"%PDF-1.7\n",
    "text": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}


def test_what_is_none_of_the_formats_is_named_and_the_task_is_not_made_again(tmp_path, gateway):
    def other(call):
        return web.Response(body=NONE_OF_THEM[call.task.prompt], content_type="image/png")

    gateway.answers["image"] = other
    path = write(tmp_path, gateway.base_url)
    path.write_text(path.read_text("utf-8").replace("[a fox]", f"[{', '.join(NONE_OF_THEM)}]"), "utf-8")
    done = run(path, "--json")
    assert done.returncode == 1
    reasons = json.loads(done.stdout)["unfinished"]
    for named in NONE_OF_THEM:
        assert any(f"The download is {named}" in reason for reason in reasons), reasons
    assert set(gateway.billed_by_job().values()) == {1}


# --- more, or fewer, than was asked for -----------------------------------------------------------------------


def test_fewer_images_than_asked_for_are_kept_and_the_rest_is_said(tmp_path, gateway):
    gateway.answers["query"] = links_to(*(f"{gateway.host}/images/T1/{i}" for i in (0, 1)))
    path = write(tmp_path, gateway.base_url, n=3)
    done = run(path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 partial" in done.stdout
    assert len(check_invariant(output_of(path))) == 2
    (row,) = rows_of(output_of(path), "failures.csv")
    assert (row["status"], row["message"]) == ("partial", "The gateway delivered 2 of 3 images.")
    assert run(path).returncode == 1
    assert gateway.count("create") == 1


def test_more_images_than_asked_for_are_ignored(tmp_path, gateway):
    gateway.answers["query"] = links_to(*(f"{gateway.host}/images/T1/{i}" for i in range(4)))
    path = write(tmp_path, gateway.base_url, n=2)
    assert [row["image_index"] for row in finished(path)] == ["0", "1"]
    assert {call.index for call in gateway.of("image")} == {0, 1}


def test_a_watermarked_copy_that_is_missing_is_said_and_the_image_is_kept(tmp_path, gateway):
    def copies(call):
        urls = [f"{gateway.host}/images/T1/{index}" for index in (0, 1)]
        return links_to(*urls, marked=[f"{gateway.host}/images/T1/7"])(call)

    gateway.answers["query"] = copies
    path = write(tmp_path, gateway.base_url, n=2)
    path.write_text(path.read_text("utf-8").replace("{n: 2}", "{n: 2, watermark_info: {enabled: true}}"), "utf-8")
    done = run(path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The gateway gave no watermarked copy of 1 image" in done.stdout
    first, second = check_invariant(output_of(path))
    marked = list((output_of(path) / "watermarked").rglob("*.png"))
    assert [file.name for file in marked] == [first["file_name"].rpartition("/")[2]]
    assert marked[0].read_bytes() == gateway.tasks["T1"].image(7)
    assert second["image_index"] == "1"
    assert "Nothing to do" in run(path).stdout
