"""What was paid for is kept, odd as it may be; what is no image never is; and no image takes minutes to check."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from contextlib import suppress
from time import process_time

import pytest
from aiohttp import web
from PIL import Image
from scripted_gateway import ScriptedGateway
from scripted_output import files_of, finished, run, statuses, write

from batchgen.errors import ImageBroken
from batchgen.storage.formats import MAX_PARTS
from batchgen.storage.images import inspect


@pytest.fixture
def gateway():
    with ScriptedGateway(latency=0) as running:
        yield running


def encoded(kind, size=(40, 30), **options):
    body = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(body, kind, **options)
    return body.getvalue()


def box(kind, body=b""):
    return struct.pack(">I", 8 + len(body)) + kind + body


def boxed(brand, *, pixels=b"\1" * 50):
    extent = box(b"ispe", struct.pack(">III", 0, 40, 30))
    return box(b"ftyp", brand + bytes(4) + b"mif1miaf") + box(b"meta", bytes(4) + extent) + box(b"mdat", pixels)


def with_second_picture():
    """As phones and gain maps have it: the first picture announces the second in a segment `MPF`."""
    first = encoded("JPEG")
    segment = b"\xff\xe2" + struct.pack(">H", 2 + 8) + b"MPF\0II*\0"
    return first[:2] + segment + first[2:] + encoded("JPEG", (20, 15))


JP2 = (
    b"\0\0\0\x0cjP  \r\n\x87\n" + box(b"jp2h", box(b"ihdr", struct.pack(">II", 30, 40) + bytes(6))) + box(b"jp2c", b"x")
)
JXL = b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"jxlc", b"\xff\x0a" + bytes(40))
ODD = {  # name: body, ending, width and height, whether it cannot be checked
    "jpeg with a second picture": (with_second_picture(), "jpg", ("40", "30"), False),
    "jpeg with a trailer": (encoded("JPEG") + b"SEFT\1\2\3", "jpg", ("40", "30"), True),
    "jpeg with a second picture that nothing announces": (encoded("JPEG") * 2, "jpg", ("40", "30"), True),
    "png with a trailer": (encoded("PNG") + b"\1\2\3", "png", ("40", "30"), True),
    "webp with a trailer": (encoded("WEBP") + b"\1\2\3", "webp", ("40", "30"), True),
    "avif": (boxed(b"avif"), "avif", ("40", "30"), True),
    "heic": (boxed(b"heic"), "heic", ("40", "30"), True),
    "gif": (encoded("GIF"), "gif", ("40", "30"), True),
    "bmp": (encoded("BMP"), "bmp", ("40", "30"), True),
    "tiff": (encoded("TIFF"), "tif", ("40", "30"), True),
    "jpeg 2000": (JP2, "jp2", ("40", "30"), True),
    "jpeg xl": (JXL, "jxl", ("", ""), True),
}


def test_odd_but_whole_images_are_kept_with_their_ending_and_a_warning(tmp_path, gateway):
    bodies = {f"prompt number {i}": ODD[name] for i, name in enumerate(ODD)}
    gateway.answers["image"] = lambda call: web.Response(body=bodies[call.task.prompt][0], content_type="image/png")
    path = write(tmp_path, gateway, len(ODD))
    done = run(path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 images are unusual" in done.stdout
    rows = finished(path)
    for row, file in zip(rows, files_of(path), strict=True):
        body, ending, size, is_odd = bodies[row["prompt"]]
        assert file.read_bytes() == body
        assert (file.suffix[1:], (row["width"], row["height"])) == (ending, size), row
        assert bool(row["warning"]) == is_odd, row
    assert gateway.count("create") == len(ODD)
    assert gateway.count("image") == 2 * len(ODD) - 1


def test_an_odd_image_that_comes_whole_the_second_time_has_no_warning(tmp_path, gateway):
    body = encoded("PNG")
    gateway.answers["image"] = lambda call: web.Response(body=body + b"torn" * (call.number == 1))
    (row,) = finished(write(tmp_path, gateway))
    assert row["warning"] == ""


def test_an_odd_image_that_is_another_one_each_time_is_left_for_the_next_run(tmp_path, gateway):
    body = encoded("PNG")
    gateway.answers["image"] = lambda call: web.Response(body=body + str(call.number).encode())
    path = write(tmp_path, gateway)
    done = run(path)
    assert done.returncode == 1
    assert "each download brings another one" in done.stdout
    gateway.answers.clear()
    assert len(finished(path)) == 1


PAGES = (
    b"<html><title>Sorry</title></html>",
    b'{"code": 1203, "message": "gone"}',
    b"BM is not found here, please try again later, with another name",
    b"GIF89 is what you asked for, and it is not here",
    b"II* not here",
    b"not here\n" * 20,
    b"<svg xmlns='http://www.w3.org/2000/svg'/>",
)


def test_pages_and_texts_are_never_images_however_often_they_come(tmp_path, gateway):
    gateway.answers["image"] = lambda call: web.Response(body=PAGES[int(call.task.prompt.split()[-1])])
    path = write(tmp_path, gateway, len(PAGES))
    done = run(path)
    assert done.returncode == 1
    assert f"Left for the next run: {len(PAGES)}" in done.stdout
    assert statuses(path) == []
    gateway.answers.clear()
    assert len(finished(path)) == len(PAGES)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_image_that_is_cut_short_is_broken(name):
    body, *_ = ODD[name]
    if "trailer" in name or "nothing announces" in name:
        body = body[: len(body) // 3]
    elif name == "tiff":
        body = body[:4] + b"\xff\xff\xff\0" + body[8:]  # its directory would be behind its end
    else:
        body = body[:-2]
    with pytest.raises(ImageBroken):
        inspect(body)


# --- bombs ----------------------------------------------------------------------------------------------------------

MEGABYTES = 24


def many_chunks():
    chunks = b"\0" * 8 * (MEGABYTES * 131_072)
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def many_canvases():
    chunk = b"VP8X" + struct.pack("<I", 10) + bytes(10)
    chunks = chunk * (MEGABYTES * 1024 * 1024 // len(chunk))
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def many_segments():
    return b"\xff\xd8" + b"\xff\xfe\0\2" * (MEGABYTES * 262_144) + encoded("JPEG")[2:]


def many_scans():
    return encoded("JPEG")[:-2] + b"\xff\xda\0\2" * (MEGABYTES * 262_144) + b"\xff\xd9"


def many_pictures():
    second = encoded("JPEG", (8, 8))
    return with_second_picture() + second * (MEGABYTES * 1024 * 1024 // len(second))


def many_png_chunks():
    body = struct.pack(">I", 0) + b"tEXt" + struct.pack(">I", zlib.crc32(b"tEXt"))
    png = encoded("PNG")
    return png[:33] + body * (MEGABYTES * 1024 * 1024 // len(body)) + png[33:]


def many_boxes():
    return boxed(b"avif") + box(b"free") * (MEGABYTES * 131_072)


def fill_bytes():
    return b"\xff\xd8" + b"\xff" * (MEGABYTES * 1024 * 1024)


BOMBS = (many_chunks, many_canvases, many_segments, many_scans, many_pictures, many_png_chunks, many_boxes, fill_bytes)


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.__name__)
def test_an_image_of_millions_of_parts_costs_a_second_and_no_memory(bomb):
    body = bomb()
    tracemalloc.start()
    began = process_time()
    with suppress(ImageBroken):
        assert inspect(body).warning
    seconds = process_time() - began
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2 * len(body) + 1_000_000
    assert seconds < 10  # with every allocation traced; without, it takes under a second


def test_as_many_parts_as_an_honest_image_has_are_read_to_the_end():
    body = struct.pack(">I", 0) + b"tEXt" + struct.pack(">I", zlib.crc32(b"tEXt"))
    png = encoded("PNG")
    assert not inspect(png[:33] + body * (MAX_PARTS - 10) + png[33:]).warning
    assert "parts" in inspect(png[:33] + body * MAX_PARTS + png[33:]).warning


def test_an_image_that_says_it_has_billions_of_pixels_has_a_warning():
    body = encoded("WEBP", lossless=True)
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\xff\xff\xff\xff\xff"
    huge = body[:12] + canvas + body[12:]
    huge = huge[:4] + struct.pack("<I", len(huge) - 8) + huge[8:]
    assert "16777216 × 16777216 pixels" in inspect(huge).warning
