"""The checks `blank` and `size`. Each takes its settings and gives a function from an image to a verdict.

An image is a mapping: path, job_id, index, prompt, parameters, labels, sha256. Unknown settings raise TypeError.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from PIL import Image, ImageStat

if TYPE_CHECKING:
    from collections.abc import Callable

_LOOKED_AT = (256, 256)  # pixels: an average of the image tells as much
_SHADES = 0xF8  # colours that differ in the last three bits are one
_TOLERANCE = 0.02

ImageFacts: TypeAlias = "dict[str, Any]"
Verdict: TypeAlias = "dict[str, Any]"
Check: TypeAlias = "Callable[[ImageFacts], Verdict]"


def blank(*, max_share: float = 0.995, min_contrast: float = 0.01) -> Check:
    """Reject an image of one colour, or without contrast.

    Scores: `share` of the commonest colour, and `contrast`, the standard deviation of the brightness, both from 0 to 1.
    """

    def check(image: ImageFacts) -> Verdict:
        with Image.open(image["path"]) as file:
            file.draft("RGB", _LOOKED_AT)
            rgba = file.convert("RGBA")
        rgba.thumbnail(_LOOKED_AT, Image.Resampling.BOX)
        seen = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        colors = seen.point([value & _SHADES for value in range(256)] * 3).getcolors(seen.width * seen.height) or []
        share = max(number for number, _ in colors) / (seen.width * seen.height)
        contrast = ImageStat.Stat(seen.convert("L")).stddev[0] / 255
        why = ""
        if share > max_share:
            why = f"one colour covers {share:.1%}"
        elif contrast < min_contrast:
            why = f"almost no contrast ({contrast:.3f})"
        scores = {"share": round(share, 4), "contrast": round(contrast, 4)}
        return {"verdict": "reject" if why else "", "why": why, "scores": scores}

    return check


def size(*, ratio: float | None = None, min_side: int = 0, **bounds: int) -> Check:
    """Reject an image outside these bounds, or whose ratio is off by more than the part `ratio`.

    The bounds are min_ and max_ with width, height (pixels) and bytes. Without any setting, the ratio is compared with
    the one that was asked for.
    """
    if unknown := bounds.keys() - {f"{end}_{name}" for end in ("min", "max") for name in ("width", "height", "bytes")}:
        raise TypeError(f"unknown setting {min(unknown)}")
    tolerance = ratio if bounds or min_side or ratio is not None else _TOLERANCE

    def check(image: ImageFacts) -> Verdict:
        path = Path(image["path"])
        with Image.open(path) as file:
            width, height = file.size
        faults: list[str] = []
        values = {"width": width, "height": height, "bytes": path.stat().st_size}
        if min(width, height) < min_side:
            faults.append(f"its shorter side is {min(width, height):,}, not at least {min_side:,}")
        for name, value in values.items():
            if value < (low := bounds.get(f"min_{name}", 0)):
                faults.append(f"{name} is {value:,}, not at least {low:,}")
            if value > (high := bounds.get(f"max_{name}", value)):
                faults.append(f"{name} is {value:,}, not at most {high:,}")
        asked = _ratio(str(image["parameters"].get("aspect_ratio", "")))
        if tolerance is not None and asked and abs(width / height / asked - 1) > tolerance:
            faults.append(f"{width} × {height} is not {image['parameters']['aspect_ratio']}")
        return {"verdict": "reject" if faults else "", "why": "; ".join(faults), "scores": {}}

    return check


def _ratio(text: str) -> float | None:
    width, _, height = text.partition(":")
    return int(width) / int(height) if width.isdecimal() and height.isdecimal() and int(height) else None


BUILT_IN: dict[str, Callable[..., Check]] = {"blank": blank, "size": size}
