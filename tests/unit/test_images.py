"""Whole images are recognised by their content, and whatever is not one is named for what it is."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from batchgen.errors import ImageBroken
from batchgen.storage.images import ImageFormat, inspect
from batchgen.storage.tree import read_image

WIDTH, HEIGHT = 61, 37


def a_picture(mode="RGB", size=(WIDTH, HEIGHT)):
    noise = Image.effect_noise(size, 80)
    return Image.merge("RGB", [noise, noise.rotate(90), noise.rotate(180)]).convert(mode)


def written(kind, mode="RGB", size=(WIDTH, HEIGHT), **options):
    body = io.BytesIO()
    a_picture(mode, size).save(body, kind, **options)
    return body.getvalue()


def with_exif_thumbnail():
    """An EXIF segment that holds a whole JPEG, end marker included."""
    return written("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + written("JPEG", size=(16, 16)))


def animated_webp():
    frames = [a_picture("RGBA") for _ in range(3)]
    body = io.BytesIO()
    frames[0].save(body, "WEBP", save_all=True, append_images=frames[1:], duration=50)
    return body.getvalue()


def sixteen_bit_png():
    body = io.BytesIO()
    Image.new("I;16", (WIDTH, HEIGHT), 40000).save(body, "PNG")
    return body.getvalue()


IMAGES = {
    "png": written("PNG"),
    "png with palette": written("PNG", "P"),
    "png with alpha": written("PNG", "RGBA", optimize=True),
    "png of one bit": written("PNG", "1"),
    "png of 16 bits": sixteen_bit_png(),
    "jpeg": written("JPEG"),
    "jpeg progressive": written("JPEG", progressive=True),
    "jpeg grey": written("JPEG", "L"),
    "jpeg cmyk": written("JPEG", "CMYK"),
    "jpeg with restarts": written("JPEG", restart_marker_blocks=1),
    "jpeg with comment and profile": written("JPEG", comment=b"\xff\xd9 no end", icc_profile=b"\xff\xd9" * 40_000),
    "jpeg with a thumbnail in its exif": with_exif_thumbnail(),
    "webp lossy": written("WEBP", quality=60),
    "webp lossless": written("WEBP", lossless=True),
    "webp lossy with alpha": written("WEBP", "RGBA"),
    "webp with exif": written("WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"),
    "webp animated": animated_webp(),
}
every_image = pytest.mark.parametrize("name", IMAGES)


def fault(data):
    with pytest.raises(ImageBroken) as caught:
        inspect(data)
    return str(caught.value)


# --- whole images -------------------------------------------------------------------------------------------


@every_image
def test_a_whole_image_tells_its_format_and_size(name):
    info = inspect(IMAGES[name])
    assert info.format == name.split()[0]
    assert (info.width, info.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize(("name", "ext"), [("png", ".png"), ("jpeg", ".jpg"), ("webp lossy", ".webp")])
def test_the_ending_of_a_file_follows_from_its_content(name, ext, tmp_path):
    path = tmp_path / "image.dat"
    path.write_bytes(IMAGES[name])
    assert read_image(path).ext == ext


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (257, 16383)])
def test_sizes_of_every_width_and_height_are_read(kind, lossless, size):
    info = inspect(written(kind, "L", size, lossless=lossless))
    assert (info.width, info.height) == size


def test_zeros_that_pad_a_jpeg_to_a_block_are_taken():
    assert inspect(IMAGES["jpeg"] + bytes(512)).format is ImageFormat.JPEG


def test_a_large_image_is_checked_in_a_moment():
    body = written("PNG", size=(1024, 1024), compress_level=1)
    assert len(body) > 1_500_000
    start = process_time()
    for _ in range(10):
        inspect(body)
    assert (process_time() - start) / 10 < 0.02  # seconds; measured 0.001, decoding takes 0.05


# --- broken images ------------------------------------------------------------------------------------------


@every_image
def test_an_image_cut_anywhere_is_broken(name):
    body = IMAGES[name]
    steps = {*range(0, len(body), max(1, len(body) // 200)), *range(len(body) - 20, len(body))}
    whole = [size for size in sorted(steps) if not is_broken(body[:size])]
    assert whole == []


def is_broken(data):
    try:
        inspect(data)
    except ImageBroken:
        return True
    return False


@pytest.mark.parametrize("name", ["png", "png with palette"])
def test_every_flipped_bit_of_a_png_is_found(name):
    body = bytearray(IMAGES[name])
    for position in range(0, len(body), 7):
        body[position] ^= 1 << position % 8
        assert is_broken(bytes(body)), position
        body[position] ^= 1 << position % 8
    assert not is_broken(bytes(body))


@every_image
def test_what_follows_the_end_of_an_image_is_a_warning(name):
    info = inspect(IMAGES[name] + b"<html>")
    assert info.warning == "6 bytes follow its end."
    assert (info.format, info.width, info.height) == (name.split()[0], WIDTH, HEIGHT)
    assert not inspect(IMAGES[name]).warning


def test_a_png_whose_middle_was_zeroed_is_broken():
    body = IMAGES["png"]
    half = len(body) // 2
    assert "checksum" in fault(body[:half] + bytes(64) + body[half + 64 :])


def test_a_jpeg_whose_thumbnail_alone_came_whole_is_cut_short():
    body = with_exif_thumbnail()
    end_of_thumbnail = body.index(b"\xff\xd9") + 2
    assert "cut short" in fault(body[:end_of_thumbnail])


def chunk(kind, data=b""):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


HEADER = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (PNG + chunk(b"IHDR", HEADER) + chunk(b"IEND"), "no pixels"),
        (PNG + chunk(b"IDAT", b"x") + chunk(b"IEND"), "does not begin with its size"),
        (PNG + chunk(b"IHDR", bytes(13)) + chunk(b"IDAT") + chunk(b"IEND"), "0 × 0"),
        (PNG + b"\xff\xff\xff\xffIHDR" + bytes(20), "cut short"),
        (b"\xff\xd8\xff\xd9", "no pixels"),
        (b"\xff\xd8\xff\xe0\x00\x00\xff\xd9", "structure is lost at byte 4"),
        (b"\xff\xd8\xff\xe0\x00\x02 junk", "structure is lost at byte 6"),
        (b"\xff\xd8\xff\xff\xff\xff", "cut short"),
        (b"RIFF\x04\0\0\0WEBP", "no pixels"),
        (b"RIFF\x10\0\0\0WEBPANMF\xff\0\0\0abcd", "do not fill"),
        (b"RIFF\x16\0\0\0WEBPVP8 \x0a\0\0\0abcdefghij", "do not begin as they must"),
        (b"RIFF\x16\0\0\0WEBPVP8L\x0a\0\0\0abcdefghij", "do not begin as they must"),
    ],
)
def test_a_hollow_container_is_no_image(data, words):
    assert words in fault(data)


@given(st.sampled_from([PNG, b"\xff\xd8\xff", b"RIFF\x16\0\0\0WEBP", b""]), st.binary(max_size=200))
def test_junk_is_broken_and_nothing_worse(magic, junk):
    assert is_broken(magic + junk) or inspect(magic + junk).warning


# --- what is not an image -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "The download is empty: the gateway sent no image."),
        (
            b"<html>\r\n<head><title>502 Bad\n Gateway</title></head></html>",
            "The download is an HTML page, not an image. It says: 502 Bad Gateway",
        ),
        (
            b"\xef\xbb\xbf\n<!DOCTYPE html><p>gone",
            "The download is an HTML page, not an image. It says: <!DOCTYPE html><p>gone",
        ),
        (
            b'{"code":1202,"message":"not found"}',
            'The download is text, not an image. It says: {"code":1202,"message":"not found"}',
        ),
        (
            b"<?xml version='1.0'?><Error/>",
            "The download is text, not an image. It says: <?xml version='1.0'?><Error/>",
        ),
        (b"<svg xmlns='x'/>", "The download is text, not an image. It says: <svg xmlns='x'/>"),
        (
            "Zugriff \x1b[31mverweigert: ü".encode(),
            "The download is text, not an image. It says: Zugriff [31mverweigert: ü",
        ),
        (b"\x00\x01\xfe\xff", "The download is not an image: its 4 bytes begin with 00 01 fe ff."),
        (PNG[:5], "The download is not an image: its 5 bytes begin with 89 50 4e 47 0d."),
        (gzip.compress(IMAGES["png"]), "The download is a gzip file, not an image."),
        (b"\0\0\0 ftypisom" + bytes(20), "The download is a video, not an image."),
    ],
)
def test_what_came_instead_of_an_image_is_named(data, sentence):
    assert fault(data) == sentence


def test_a_page_that_is_cut_inside_a_character_is_still_a_page():
    assert "text, not an image" in fault("ü".encode() * 5000)


def test_only_a_little_of_a_long_answer_is_shown():
    assert len(fault(b'{"message": "' + b"x" * 100_000 + b'"}')) < 160


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.png")
