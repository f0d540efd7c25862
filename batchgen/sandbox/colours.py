"""Colours: a prompt's own range of them, from near black through a hue or two to near white."""

from __future__ import annotations

from colorsys import hls_to_rgb
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

_STEPS = 256


def ramp(chance: Random) -> bytes:
    """A palette of 256 RGB triples, dark to light, whose hues follow from `chance`."""
    hue = chance.random()
    turn = chance.choice((-0.28, -0.16, -0.09, 0.09, 0.16, 0.28, 0.45))
    richness = chance.uniform(0.5, 0.8)
    stops = [  # tone, hue, lightness, saturation
        (0, hue, 0.07, 0.45),
        (40, hue, 0.17, richness * 0.8),
        (110, hue + turn * 0.35, 0.42, richness),
        (180, hue + turn * 0.8, 0.66, richness),
        (225, hue + turn, 0.85, richness),
        (255, hue + turn, 0.98, 0.5),
    ]
    colours = bytearray()
    for (low, *start), (high, *end) in pairwise(stops):
        for tone in range(low, high + (high == _STEPS - 1)):
            part = (tone - low) / (high - low)
            at, lightness, saturation = (a + (b - a) * part for a, b in zip(start, end, strict=True))
            colours += bytes(round(255 * c) for c in hls_to_rgb(at % 1, lightness, saturation))
    return bytes(colours)
