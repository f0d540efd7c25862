"""The built-in checks: what they reject of real files, and what they let pass."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw

from batchgen.image_checks.builtin import blank, size


@pytest.fixture
def image(tmp_path):
    def facts(picture, name="a.png", aspect_ratio="1:1"):
        picture.save(tmp_path / name)
        return {"path": str(tmp_path / name), "parameters": {"aspect_ratio": aspect_ratio}}

    return facts


def gradient(mode="RGB"):
    return Image.linear_gradient("L").resize((512, 512)).convert(mode)


def dotted(color, dot):
    """One colour, with a small square of another one: 0.2 % of it."""
    picture = Image.new("RGB", (512, 512), color)
    ImageDraw.Draw(picture).rectangle((0, 0, 22, 22), dot)
    return picture


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("RGB", (600, 400), "black"),
        Image.new("RGB", (600, 400), "white"),
        Image.new("L", (16, 16), 7),
        Image.new("RGBA", (300, 300), (200, 10, 10, 0)),
        Image.new("P", (300, 300)),
        dotted("black", "white"),
        dotted((40, 40, 40), (41, 41, 42)),
    ],
    ids=["black", "white", "grey", "transparent", "palette", "a dot", "noise"],
)
def test_an_image_of_one_colour_is_blank(image, picture):
    answer = blank()(image(picture))
    assert answer["verdict"] == "reject"
    assert answer["why"]
    assert 0 <= answer["scores"]["contrast"] <= 1


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_a_picture_is_not_blank(image, name):
    answer = blank()(image(gradient(), name))
    assert answer["verdict"] == ""
    assert answer["scores"]["contrast"] > 0.2


def test_the_thresholds_of_blank_can_be_changed(image):
    facts = image(dotted("black", "white"))
    assert blank(max_share=1.0, min_contrast=0.0)(facts)["verdict"] == ""
    assert blank(min_contrast=0.99)(image(gradient()))["why"].startswith("almost no contrast")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, ""),
        ({"min_side": 100}, ""),
        ({"min_side": 101}, "its shorter side is 100, not at least 101"),
        ({"min_width": 201}, "width is 200, not at least 201"),
        ({"max_height": 99}, "height is 100, not at most 99"),
        ({"max_bytes": 1}, "bytes is"),
        ({"ratio": 0.0}, ""),
    ],
)
def test_size_compares_with_its_bounds(image, settings, why):
    answer = size(**settings)(image(Image.new("RGB", (200, 100)), aspect_ratio="2:1"))
    assert answer["verdict"] == ("reject" if why else "")
    assert answer["why"].startswith(why)


def test_without_settings_size_compares_with_the_ratio_that_was_asked_for(image):
    assert size()(image(Image.new("RGB", (1344, 768)), aspect_ratio="7:4"))["verdict"] == ""
    assert size()(image(Image.new("RGB", (1344, 768)), aspect_ratio="16:9"))["verdict"] == ""
    assert size()(image(Image.new("RGB", (1024, 1024)), aspect_ratio="16:9"))["why"] == "1024 × 1024 is not 16:9"
    assert size(min_side=1)(image(Image.new("RGB", (1024, 1024)), aspect_ratio="16:9"))["verdict"] == ""
    assert size()(image(Image.new("RGB", (10, 20)), aspect_ratio=""))["verdict"] == ""


def test_a_setting_that_size_does_not_have_is_refused():
    with pytest.raises(TypeError, match="min_size"):
        size(min_size=3)
