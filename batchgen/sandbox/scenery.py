"""Backgrounds: compositions in 256 tones, drawn at twice the size and reduced, so that edges are smooth.

A tone is no colour yet: `colours` gives each tone one. That keeps a picture at one byte a pixel, which is
what makes it quick to paint and small to send.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

# Tones of a scene; below and above are for the card and its words.
DARK, LIGHT = 40, 225
_TABLE_SIZE = 256


def paint(size: tuple[int, int], chance: Random) -> Image.Image:
    """A scene in tones (`L`) of this size; which one follows from `chance`."""
    width, height = size
    scene = chance.choice(_SCENES)(width * 2, height * 2, chance)
    return scene.reduce(2)


def _gradient(width: int, height: int, top: int, bottom: int) -> Image.Image:
    """Tones from top to bottom, constant in a row: they compress to nearly nothing."""
    column = Image.new("L", (1, _TABLE_SIZE))
    column.putdata([top + (bottom - top) * row // (_TABLE_SIZE - 1) for row in range(_TABLE_SIZE)])
    return column.resize((width, height), Image.Resampling.BILINEAR)


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, tone: int) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tone)


def _hills(width: int, height: int, chance: Random) -> Image.Image:
    """A sun over ranges of hills, darker towards the viewer."""
    scene = _gradient(width, height, chance.randint(135, 165), LIGHT)
    draw = ImageDraw.Draw(scene)
    side = min(width, height)
    x, y = width * chance.uniform(0.2, 0.8), height * chance.uniform(0.22, 0.4)
    radius = side * chance.uniform(0.11, 0.2)
    _disc(draw, x, y, radius * 1.35, 212)
    _disc(draw, x, y, radius, 244)
    ranges = chance.randint(4, 6)
    for layer in range(ranges):
        part = layer / (ranges - 1)
        base = height * (0.42 + 0.46 * part)
        _ridge(draw, width, height, base, side * (0.12 - 0.05 * part), round(150 - 115 * part), chance)
    return scene


def _ridge(
    draw: ImageDraw.ImageDraw, width: int, height: int, base: float, swing: float, tone: int, chance: Random
) -> None:
    """A line of three waves, filled down to the ground."""
    waves = [(chance.uniform(0.6, 1.4) * 2**k, chance.uniform(0, math.tau), 0.55**k) for k in range(3)]
    points: list[tuple[float, float]] = []
    for step in range(97):
        x = step / 96
        lift = sum(part * math.sin(math.tau * pace * x + phase) for pace, phase, part in waves)
        points.append((x * width, base - swing * lift))
    draw.polygon([*points, (width, height), (0, height)], fill=tone)


def _waves(width: int, height: int, chance: Random) -> Image.Image:
    """Bands that flow across in parallel."""
    scene = Image.new("L", (width, height), LIGHT)
    draw = ImageDraw.Draw(scene)
    bands = chance.randint(7, 11)
    swing = min(width, height) * chance.uniform(0.05, 0.11)
    pace, phase, drift = chance.uniform(0.6, 1.3), chance.uniform(0, math.tau), chance.uniform(0.25, 0.7)
    for band in range(bands):
        base = height * (band + 0.6) / bands
        points = [
            (step / 96 * width, base + swing * math.sin(math.tau * pace * step / 96 + phase + drift * band))
            for step in range(97)
        ]
        tone = round(LIGHT - (LIGHT - DARK) * (band + 1) / bands)
        draw.polygon([*points, (width, height), (0, height)], fill=tone)
    return scene


def _tiles(width: int, height: int, chance: Random) -> Image.Image:
    """A grid of quarter discs, circles and plain squares."""
    scene = Image.new("L", (width, height), 120)
    draw = ImageDraw.Draw(scene)
    side = max(width, height) / chance.randint(6, 8)
    tones = (DARK, 75, 110, 150, 190, LIGHT)
    for row in range(math.ceil(height / side)):
        for column in range(math.ceil(width / side)):
            _tile(draw, column * side, row * side, side, tones, chance)
    return scene


def _tile(draw: ImageDraw.ImageDraw, x: float, y: float, side: float, tones: tuple[int, ...], chance: Random) -> None:
    ground, figure, dot = chance.sample(tones, 3)
    draw.rectangle((x, y, x + side, y + side), fill=ground)
    kind = chance.randrange(8)
    if kind < 4:  # a quarter disc round one of the corners, and a smaller one inside
        corner_x, corner_y = x + side * (kind % 2), y + side * (kind // 2)
        for part, tone in ((1.0, figure), (0.5, dot)):
            radius = side * part
            start = {0: 0, 1: 90, 2: 270, 3: 180}[kind]
            box = (corner_x - radius, corner_y - radius, corner_x + radius, corner_y + radius)
            draw.pieslice(box, start, start + 90, fill=tone)
    elif kind < 6:
        _disc(draw, x + side / 2, y + side / 2, side * 0.36, figure)
    elif kind == 6:
        draw.polygon([(x, y + side), (x + side, y), (x + side, y + side)], fill=figure)


def _rings(width: int, height: int, chance: Random) -> Image.Image:
    """Rings round one point, as of a tree or of sound."""
    scene = Image.new("L", (width, height), DARK)
    draw = ImageDraw.Draw(scene)
    x, y = width * chance.uniform(0.1, 0.9), height * chance.uniform(0.0, 0.5)
    reach = math.hypot(max(x, width - x), max(y, height - y))
    rings = chance.randint(9, 14)
    for ring in range(rings):
        part = 1 - ring / rings
        shift = reach * 0.05 * math.sin(ring * 1.7)
        _disc(draw, x + shift, y + shift / 2, reach * part, round(LIGHT - (LIGHT - DARK) * part))
    return scene


def _beams(width: int, height: int, chance: Random) -> Image.Image:
    """Rays of a low sun, fanning out over the whole picture."""
    scene = _gradient(width, height, 90, 60)
    draw = ImageDraw.Draw(scene)
    x, y = width * chance.uniform(0.25, 0.75), height * chance.uniform(0.3, 0.55)
    reach, rays = math.hypot(width, height), chance.randint(12, 20)
    turn = chance.uniform(0, math.tau)
    for ray in range(rays):
        start = turn + math.tau * ray / rays
        ends = [(x + reach * math.cos(a), y + reach * math.sin(a)) for a in (start, start + math.pi / rays)]
        draw.polygon([(x, y), *ends], fill=130 + 30 * (ray % 2))
    for part, tone in ((0.3, 175), (0.22, 205), (0.14, 240)):
        _disc(draw, x, y, min(width, height) * part, tone)
    return scene


_SCENES: tuple[Callable[[int, int, Random], Image.Image], ...] = (_hills, _hills, _waves, _tiles, _rings, _beams)
