"""The rules of a create's fields: each check raises an ApiError with its code."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import warnings
from io import BytesIO
from typing import TYPE_CHECKING, Any

from batchgen.sandbox.api_error import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import UnionType

    from batchgen.catalog.load import RequestLimits

    Check = Callable[[str, Any], None]

# Words in a prompt that produce an outcome; `fail-this-task` is the task store's.
_SAFETY_WORD, _POLICY_WORD = "forbidden-word", "policy-word"


def json_body(raw: bytes) -> dict[str, Any]:
    """The JSON object in a request's body. Raises ApiError (1200)."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise ApiError(1200, "the body is not valid JSON") from None
    if not isinstance(body, dict):
        raise ApiError(1200, "the body is not a JSON object")
    return body


def check_words(prompt: str) -> None:
    """Raise ApiError (1300, 1301) for a prompt with a word that asks for it."""
    if _SAFETY_WORD in prompt:
        raise ApiError(1301)
    if _POLICY_WORD in prompt:
        raise ApiError(1300)


def check_text(name: str, value: object) -> None:
    """Raise ApiError (1201) for what is not a string."""
    if not isinstance(value, str):
        raise ApiError(1201, f"{name} must be a string")


def text(least: int = 0, most: int | None = None) -> Check:
    """A string of at most so many characters, which are not all blank where `least` is 1."""

    def check(name: str, value: Any) -> None:  # noqa: ANN401 - of a body
        check_text(name, value)
        if least and not value.strip():
            raise ApiError(1201, f"{name} is empty")
        if most is not None and len(value) > most:
            raise ApiError(1201, f"{name} has {len(value):,} characters; at most {most:,} are allowed")

    return check


def number(kind: type[int] | UnionType, least: int, most: int) -> Check:
    """A number of this kind within these bounds."""

    def check(name: str, value: Any) -> None:  # noqa: ANN401 - of a body
        if isinstance(value, bool) or not isinstance(value, kind):
            raise ApiError(1201, f"{name} must be {'an integer' if kind is int else 'a number'}")
        if not least <= value <= most:
            raise ApiError(1201, f"{name} must be from {least} to {most}")

    return check


def one_of(allowed: Iterable[str]) -> Check:
    known = tuple(allowed)

    def check(name: str, value: object) -> None:
        if value not in known:
            raise ApiError(1201, f"{name} must be one of {', '.join(known)}")

    return check


def check_link(name: str, value: object) -> None:
    """Raise ApiError (1201) for what is no URL."""
    check_text(name, value)
    if not str(value).startswith(("http://", "https://")):
        raise ApiError(1201, f"{name} must be a URL")


def check_watermark(name: str, value: object) -> None:
    """Raise ApiError (1201) for what does not switch the watermark."""
    if not isinstance(value, dict) or not isinstance(value.get("enabled"), bool) or len(value) != 1:
        raise ApiError(1201, f'{name} must be {{"enabled": true}} or {{"enabled": false}}')


def identify(value: str, limits: RequestLimits) -> str:
    """What stands for a reference image: its URL as it was sent, or `sha256:…` of its base64 content.

    Raises ApiError (1201). The sandbox opens no connection, so it does not check what a URL leads to.
    """
    if value.startswith(("http://", "https://")):
        return value
    if value.startswith("data:"):
        raise ApiError(1201, "image must be bare base64, without the prefix data:…;base64,")
    try:
        content = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(1201, "image is neither a URL nor valid base64") from None
    if len(content) > limits.image_bytes:
        raise ApiError(1201, f"image has {len(content):,} bytes; at most {limits.image_bytes:,} are allowed")
    _check_image(content, limits)
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _check_image(content: bytes, limits: RequestLimits) -> None:
    """Check format and size, which need only the file's header."""
    from PIL import Image  # noqa: PLC0415 - Pillow is loaded only where a create has a reference image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a huge size is refused by its bytes, not by Pillow's warning
            with Image.open(BytesIO(content), formats=("JPEG", "PNG")) as image:
                width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise ApiError(1201, "image is not a jpg, jpeg or png") from None
    min_side, max_ratio = limits.image_side_pixels, limits.image_ratio
    if min(width, height) < min_side:
        raise ApiError(1201, f"image is {width}x{height} pixels; each side must have {min_side} or more")
    if max(width, height) > max_ratio * min(width, height):
        raise ApiError(1201, f"image is {width}x{height} pixels; its ratio must be 1:{max_ratio:g} to {max_ratio:g}:1")
