"""What the sandbox paints: the right size, the same again, and never a crash whatever the words."""

from __future__ import annotations

from io import BytesIO

import pytest
from PIL import Image

from batchgen.catalog.load import builtin
from batchgen.sandbox import painter
from batchgen.sandbox.tasks import CreateRequest

EXPECTED = {
    "16:9": (1360, 768),
    "9:16": (768, 1360),
    "1:1": (1024, 1024),
    "4:3": (1184, 888),
    "3:4": (888, 1184),
    "3:2": (1248, 832),
    "2:3": (832, 1248),
    "21:9": (1568, 672),
}
TEXTS = {
    "one word": "Fox",
    "a paragraph": "A lighthouse at dusk, waves breaking over black rocks; " * 7,
    "the longest": "many words of a story " * 113,
    "no spaces": "x" * 2500,
    "Chinese": "一只红色的狐狸在雪地里奔跑" * 50,
    "emoji with joiners": "👩‍🚀 🏳️‍🌈 👍🏽 " * 40,
    "Arabic and Devanagari": "ثعلب أحمر लाल लोमड़ी",
    "combining marks": "Z̷̡̛a̴l̵g̶o̷" * 20,
    "control characters": "a\x00b\x07\tc\r\nd\u200b\ufffc\ufeff",
    "half a character": "a \ud800 b",
    "beyond every font": "\U0010ffff\ue000 \U000e0041",
    "a digit": "0",
}


def request(**fields):
    return CreateRequest(**{"body": {}, "prompt": "a fox", "model": "kling-v1", "aspect_ratio": "1:1", **fields})


def opened(content):
    with Image.open(BytesIO(content)) as image:
        image.load()
        return image.convert("RGB")


def test_every_ratio_of_the_catalogue_has_a_size():
    assert painter.SIZES == EXPECTED
    assert set(EXPECTED) == set(builtin().aspect_ratios)


@pytest.mark.parametrize("ratio", EXPECTED)
@pytest.mark.parametrize(("resolution", "scale"), [("1k", 1), ("2k", 2)])
def test_a_picture_has_the_exact_size_of_its_ratio_and_resolution(ratio, resolution, scale):
    asked = request(aspect_ratio=ratio, resolution=resolution)
    width, height = EXPECTED[ratio]
    for content in (painter.paint(asked, "1", 0), painter.blank(painter.size_of(asked))):
        assert content.startswith(b"\x89PNG")
        assert opened(content).size == (width * scale, height * scale)


def test_the_same_order_and_task_paint_the_same_bytes_and_others_do_not():
    variants = [
        painter.paint(request(prompt=prompt, n=2), task, index, watermark=watermark)
        for prompt in ("a fox", "a hare")
        for task in ("1", "2")
        for index in (0, 1)
        for watermark in (False, True)
    ]
    assert len(set(variants)) == len(variants)
    assert painter.paint(request(prompt="a fox", n=2), "1", 0) == variants[0]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("ratio", ["21:9", "9:16"])
def test_any_text_is_painted_and_leaves_a_picture_that_is_not_flat(text, ratio):
    image = opened(painter.paint(request(prompt=text, aspect_ratio=ratio), "1", 0))
    assert len(image.getcolors(1 << 20)) > 16


@pytest.mark.parametrize("size", ["10x10", "16x4000", "4000x16", "9999x10"])
def test_any_size_that_the_openai_api_takes_is_painted(size):
    image = opened(painter.paint(request(prompt="a long prompt " * 30, size=size), "1", 0))
    assert "{}x{}".format(*image.size) == size


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("width", [200, 640, 1400])
def test_no_line_is_wider_than_its_box_and_no_text_higher(text, width):
    fitted = painter.fit(text, width, 500, largest=80, smallest=12)
    assert fitted.height <= 500
    ellipsis = painter.font(fitted.size).getlength("…")
    assert all(painter.font(fitted.size).getlength(line) <= width + ellipsis for line in fitted.lines)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("Café — “naïve”", "Cafe - “naive”"), ("żółw", "zolw"), ("狐", "狐"), ("e\u0301", "e"), ("a\nb", "a b")],
)
def test_a_letter_that_the_font_lacks_loses_its_accent(text, shown):
    assert painter.drawable(text) == shown


def test_a_short_text_is_larger_than_a_long_one_and_what_does_not_fit_ends_in_an_ellipsis():
    short, long = (painter.fit(text, 600, 300, largest=80, smallest=12) for text in ("Fox", "word " * 60))
    assert short.size > long.size
    cut = painter.fit("word " * 2000, 600, 300, largest=80, smallest=12)
    assert cut.size == 12
    assert cut.lines[-1].endswith("…")
