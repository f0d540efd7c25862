"""What the sandbox's image host serves: formats, sizes, links that expire; and runs that meet them."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from urllib.parse import urlsplit

import pytest
from command import batchgen, manifest, prompts
from output_checks import check_invariant
from PIL import Image
from sandbox_caller import Clock, gateway
from sandbox_process import ROOT, SandboxProcess

from batchgen.sandbox.formats import Format, padded, with_comment
from batchgen.sandbox.painter import blank
from batchgen.storage.images import inspect

EVERY = pytest.mark.parametrize("kind", list(Format))
SIZES = (0, 1, 11, 12, 13, 4096, 65_533, 65_534, 65_535, 65_536, 131_080, 2_000_000)


# --- formats and sizes ------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("more", SIZES)
def test_a_padded_image_is_whole_and_hardly_larger_than_asked_for(kind, more):
    content = with_comment(blank((1024, 1024), kind), kind, "1/0")
    filled = padded(content, kind, len(content) + more)
    assert len(content) + more <= len(filled) <= len(content) + more + 16 + 4 * (more // 65_533)
    assert (inspect(filled).format, inspect(filled).width) == (kind, 1024)
    with Image.open(BytesIO(filled)) as image, Image.open(BytesIO(content)) as before:
        assert image.tobytes() == before.tobytes()


@EVERY
@pytest.mark.parametrize("blank_images", [True, False])
async def test_images_are_served_in_the_format_and_size_that_was_asked_for(kind, blank_images):
    async with gateway(image_format=kind, image_bytes=400_000, blank_images=blank_images) as caller:
        task = await caller.made(prompt="a fox", n=2, watermark_info={"enabled": True})
        bodies = []
        for link in await caller.links(task):
            for url in (link["url"], link["watermark_url"]):
                async with caller.session.get(url) as response:
                    assert response.content_type == f"image/{kind.value}"
                    bodies.append(await response.read())
        assert len(set(bodies)) == 4
        for body in bodies:
            assert 400_000 <= len(body) < 800_000
            assert (inspect(body).format, inspect(body).width) == (kind, 1360)


async def test_blank_images_are_small_and_differ_from_each_other():
    async with gateway(blank_images=True) as caller:
        links = [await caller.links(await caller.made(prompt="a fox", n=2)) for _ in range(2)]
        contents = {await caller.fetch(link["url"]) for pair in links for link in pair}
    assert len(contents) == 4
    for content in contents:
        assert len(content) < 1500
        assert inspect(content).width == 1360


@pytest.mark.parametrize(
    "options",
    [["--image-format", "gif"], ["--image-bytes", "-1"], ["--image-bytes", "999999999"], ["--link-ttl", "-1"]],
)
def test_images_that_cannot_be_are_refused_with_a_sentence(options):
    command = [sys.executable, "-m", "batchgen", "sandbox", "--port", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert done.stderr
    assert "Traceback" not in done.stderr


# --- links ------------------------------------------------------------------------------------------------------


async def status_of(caller, url):
    async with caller.session.get(url) as response:
        return response.status


async def test_a_link_expires_when_it_says_and_a_query_gives_a_new_one():
    clock = Clock()
    async with gateway(clock, link_ttl=60, blank_images=True) as caller:
        task = await caller.made(prompt="a fox")
        clock.now += 1
        (link,) = await caller.links(task)
        clock.now += 59.9
        assert await status_of(caller, link["url"]) == 200
        clock.now += 0.1
        assert await status_of(caller, link["url"]) == 403
        (fresh,) = await caller.links(task)
        assert fresh["url"] != link["url"]
        assert await status_of(caller, fresh["url"]) == 200
        for forged in ("", "?expires=", "?expires=soon", "?expires=-1", "?x=1"):
            assert await status_of(caller, fresh["url"].partition("?")[0] + forged) == 403
        assert (await caller.usage())["requests"]["image"] == {"0": 2, "403": 6}


async def test_images_are_gone_after_a_while_and_the_query_still_names_them():
    clock = Clock()
    async with gateway(clock, image_ttl=3600, blank_images=True) as caller:
        task = await caller.made(prompt="a fox")
        clock.now += 3600.9
        (link,) = await caller.links(task)
        assert await status_of(caller, link["url"]) == 200
        clock.now += 0.1
        assert await caller.links(task) == [link]
        assert (await caller.ask("GET", link["url"])).code == 1203


@pytest.mark.parametrize("expire", [None, 60])
async def test_a_link_may_lead_to_its_image_by_way_of_others(expire):
    async with gateway(image_redirects=3, link_ttl=expire, blank_images=True) as caller:
        (link,) = await caller.links(await caller.made(prompt="a fox"))
        async with caller.session.get(link["url"]) as response:
            assert (response.status, len(response.history)) == (200, 3)
            assert (await response.read()).startswith(b"\x89PNG")


# --- runs that meet them ----------------------------------------------------------------------------------------


def creates(sandbox):
    return sandbox.usage(tasks=False)["creates_accepted"]


@pytest.mark.parametrize(
    ("gone", "answer"), [(("--link-ttl", "0"), "403"), (("--image-ttl", "0"), "1203")], ids=["links", "images"]
)
def test_images_that_cannot_be_had_now_are_fetched_by_a_later_run_and_never_made_again(tmp_path, gone, answer):
    options = ("--emulate", "kapon", "--latency", "0.1", "--blank-images", "--state", str(tmp_path / "state.jsonl"))
    with SandboxProcess(*options, *gone) as sandbox:
        path = manifest(tmp_path, sandbox, prompts(3, "defaults: {n: 2}\n"))
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Left for the next run: 3" in done.stdout
        assert sandbox.usage(tasks=False)["requests"]["image"].keys() == {answer}
        port = urlsplit(sandbox.base_url).port
    with SandboxProcess(*options, "--link-ttl", "60", "--port", str(port)) as sandbox:
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(check_invariant(tmp_path / "outputs" / "tried")) == 6
        assert creates(sandbox) == 3
        assert sandbox.usage(tasks=False)["requests"]["image"]["0"] == 6


@EVERY
def test_a_run_takes_large_images_of_every_format_through_redirects(tmp_path, kind):
    options = ("--emulate", "kapon", "--latency", "0.1", "--blank-images", "--image-redirects", "5", "--link-ttl", "60")
    with SandboxProcess(*options, "--image-format", kind.value, "--image-bytes", "9000000") as sandbox:
        path = manifest(tmp_path, sandbox, prompts(2))
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        rows = check_invariant(tmp_path / "outputs" / "tried")
        assert {row["file_name"].rpartition(".")[2] for row in rows} == {kind.ext[1:]}
        assert all(int(row["bytes"]) >= 9_000_000 for row in rows)
        assert creates(sandbox) == 2
