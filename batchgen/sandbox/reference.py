"""The reference image of a create: a link, or bare base64 of a file that keeps the API's bounds."""

from __future__ import annotations

import base64
import binascii
import hashlib
import warnings
from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image

from batchgen.sandbox.api_error import Refusal

if TYPE_CHECKING:
    from batchgen.catalog.load import RequestLimits


def identify(value: str, limits: RequestLimits) -> str:
    """What the sandbox remembers of a reference: the link as it came, or `sha256:…` of the file's content.

    Raises Refusal (1201). Links are believed: a gateway that never leaves the machine cannot follow them.
    """
    if value.startswith(("http://", "https://")):
        return value
    if value.startswith("data:"):
        raise Refusal(1201, "image must be bare base64, without the prefix data:…;base64,")
    content = _decode(value)
    if len(content) > limits.image_bytes:
        raise Refusal(1201, f"image has {len(content):,} bytes; at most {limits.image_bytes:,} are allowed")
    _check_picture(content, limits)
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _decode(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(1201, "image is neither a URL nor valid base64") from None


def _check_picture(content: bytes, limits: RequestLimits) -> None:
    """Read only the header: type and size are all that the rules are about."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a huge size is refused by its bytes, not by Pillow's alarm
            with Image.open(BytesIO(content), formats=("JPEG", "PNG")) as picture:
                width, height = picture.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise Refusal(1201, "image is not a jpg, jpeg or png") from None
    least, widest = limits.image_side_pixels, limits.image_ratio
    if min(width, height) < least:
        raise Refusal(1201, f"image is {width}x{height} pixels; each side must have {least} or more")
    if max(width, height) > widest * min(width, height):
        raise Refusal(1201, f"image is {width}x{height} pixels; its ratio must be 1:{widest:g} to {widest:g}:1")
