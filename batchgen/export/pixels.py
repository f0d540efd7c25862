"""Decoding, resizing and encoding images, and how alike two of them look."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

from batchgen.storage.images import MAX_PIXELS

if TYPE_CHECKING:
    from PIL import Image

ENCODINGS = {"webp": ".webp", "jpeg": ".jpg", "png": ".png"}
_BANDS, _BAND_BITS = 12, 16
_MAX_DISTANCE = _BANDS - 1  # two fingerprints that differ in so many bits are equal in one band at least
_NOISE = 3  # a difference of two neighbours that says something, of 255
_MAX_COLOR = 12  # how far the mean of a colour may be away, of 255


class CannotChange(Exception):
    """An image cannot be re-encoded, or its metadata cannot be changed; the message says why."""


def new_size(size: tuple[int, int], longest: int | None) -> tuple[int, int]:
    """The size of an image whose longest side is to have at most so many pixels; no image is enlarged."""
    if longest is None or max(size) <= longest:
        return size
    ratio = longest / max(size)
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))


def encode(data: bytes, *, resize: int | None, encoding: str | None, quality: int | None, strip: bool) -> bytes:
    """The image, smaller or in another format; with the colours' profile and, without `strip`, EXIF and XMP.

    Raises CannotChange.
    """
    try:
        with _opened(data) as image:
            known = (image.format or "").lower()
            kind = encoding or (known if known in ENCODINGS else None)
            if kind is None:
                raise CannotChange(f"its format {known.upper()} cannot be written; add --encode")
            kept = _kept(image, strip=strip)
            size = new_size(image.size, resize)
            if kind == known == "jpeg" and size != image.size:
                image.draft("RGB", (size[0] * 2, size[1] * 2))
            return _saved(_resized(_in_mode(image, kind), size), kind, quality, kept)
    except (OSError, ValueError, SyntaxError, ArithmeticError) as error:
        raise CannotChange(f"it cannot be decoded or encoded: {error}") from error


def _opened(data: bytes) -> Image.Image:
    from PIL import Image  # noqa: PLC0415 - only what changes pixels needs it

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # of the largest image that a run keeps without a warning
    try:
        return Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise CannotChange(str(error)) from error


def _kept(image: Image.Image, *, strip: bool) -> dict[str, object]:
    info = image.info
    kept = {"icc_profile": info.get("icc_profile")}
    if not strip:
        kept |= {"exif": info.get("exif"), "xmp": info.get("xmp") or info.get("XML:com.adobe.xmp")}
    return {name: value.encode() if isinstance(value, str) else value for name, value in kept.items() if value}


def _in_mode(image: Image.Image, kind: str) -> Image.Image:
    """The image in a mode that the format has; JPEG has no transparency, which becomes white."""
    from PIL import Image  # noqa: PLC0415

    has_alpha = "A" in image.getbands() or "transparency" in image.info
    if kind == "jpeg" and has_alpha:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    if image.mode in {"RGB", "RGBA", "L"} or (kind == "png" and image.mode in {"LA", "I;16", "1"}):
        return image
    return image.convert("RGBA" if has_alpha else "RGB")


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    from PIL import Image  # noqa: PLC0415

    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _saved(image: Image.Image, kind: str, quality: int | None, kept: dict[str, object]) -> bytes:
    settings = dict(kept)
    if kind == "png":
        if xmp := settings.pop("xmp", None):
            from PIL.PngImagePlugin import PngInfo  # noqa: PLC0415

            settings["pnginfo"] = chunks = PngInfo()
            chunks.add_itxt("XML:com.adobe.xmp", bytes(xmp).decode(errors="replace"))  # type: ignore[call-overload]
    else:
        settings["quality"] = quality or 90
    target = io.BytesIO()
    image.save(target, kind, **settings)
    return target.getvalue()


# --- images that look alike --------------------------------------------------------------------------------


class Fingerprint(NamedTuple):
    """How an image looks: where its colours rise from left to right (dHash, for each colour), and their means."""

    bits: int
    means: tuple[int, ...]

    def is_like(self, other: Fingerprint) -> bool:
        return (self.bits ^ other.bits).bit_count() <= _MAX_DISTANCE and all(
            abs(one - two) <= _MAX_COLOR for one, two in zip(self.means, other.means, strict=True)
        )

    @property
    def bands(self) -> list[tuple[int, int]]:
        """The parts of which one is equal where two fingerprints are alike; of plain areas nearly all have one, 0."""
        parts = [(band, self.bits >> band * _BAND_BITS & (1 << _BAND_BITS) - 1) for band in range(_BANDS)]
        return [part for part in parts if part[1]] or [(-1, 0)]


def fingerprint(data: bytes) -> Fingerprint:
    """How the image looks. Raises CannotChange where it cannot be decoded."""
    from PIL import Image  # noqa: PLC0415

    try:
        with _opened(data) as image:
            image.draft("RGB", (64, 64))
            small = image.convert("RGB").resize((9, 8), Image.Resampling.BOX, reducing_gap=3.0)
    except (OSError, ValueError, SyntaxError, ArithmeticError) as error:
        raise CannotChange(str(error)) from error
    bits, means = 0, []
    for channel in small.split():
        values = channel.tobytes()
        for at in (row * 9 + column for row in range(8) for column in range(8)):
            bits = bits << 1 | (values[at + 1] - values[at] >= _NOISE)
        means.append(sum(values) // len(values))
    return Fingerprint(bits, tuple(means))


class AlikeImages:
    """Remembers fingerprints and finds one that is like another, without comparing all."""

    def __init__(self) -> None:
        self._by_band: dict[tuple[int, int], list[Fingerprint]] = {}

    def has(self, image: Fingerprint) -> bool:
        """Whether an image that was asked for before looks like this one; else it is remembered."""
        if any(image.is_like(other) for band in image.bands for other in self._by_band.get(band, ())):
            return True
        for band in image.bands:
            self._by_band.setdefault(band, []).append(image)
        return False
