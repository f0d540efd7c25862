"""The rules of Kling's create: JSON in, a CreateRequest out, or an ApiError with its code."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import warnings
from io import BytesIO
from typing import TYPE_CHECKING, Any

from batchgen.sandbox.api_error import ApiError
from batchgen.sandbox.tasks import CreateRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.catalog.accounts import Account
    from batchgen.catalog.load import Catalog, RequestLimits

# Words in a prompt that produce an outcome; `fail-this-task` is the task store's.
_SAFETY_WORD, _POLICY_WORD = "forbidden-word", "policy-word"
_DEFAULT_MODEL, _DEFAULT_RATIO, _DEFAULT_RESOLUTION = "kling-v1", "16:9", "1k"  # the official service's


class Rules:
    """The rules of one account: its fields, its models, the API's limits."""

    def __init__(self, catalog: Catalog, account: Account) -> None:
        self._catalog = catalog
        self._models = frozenset(account.models)
        self._required = tuple(sorted(_field_of(name) for name in account.required))
        self._checks = {name: check for name, check in self._all_checks().items() if _key_of(name) in account.fields}

    def read(self, raw: bytes) -> CreateRequest:
        """The request in a body. Raises ApiError (1200, 1201, 1203, 1300, 1301)."""
        body = json_body(raw)
        for name in self._required:
            if name not in body:
                raise ApiError(1201, f"{name} is required")
        for name, value in body.items():
            check = self._checks.get(name)
            if check is None:
                raise ApiError(1201, f"{name} is not a field of this interface")
            check(name, value)
        self._check_together(body)
        check_words(body["prompt"])
        if "image" in body:
            body["image"] = _identify(body["image"], self._catalog.limits)
        return self.request_of(body)

    def _all_checks(self) -> dict[str, Callable[[str, Any], None]]:
        catalog = self._catalog
        return {
            "model_name": self._check_model,
            "model": check_text,  # accepted and ignored, as the official service does: the field is model_name
            "prompt": self._check_prompt,
            "negative_prompt": self._check_prompt,
            "image": _check_filled,
            "image_reference": _one_of(tuple(catalog.image_references)),
            "image_fidelity": _check_share,
            "human_fidelity": _check_share,
            "resolution": _one_of(tuple(catalog.resolutions)),
            "n": self._check_count,
            "aspect_ratio": _one_of(tuple(catalog.aspect_ratios)),
            "watermark_info": _check_watermark,
            "callback_url": _check_link,
            "external_task_id": check_text,
        }

    def _check_prompt(self, name: str, value: object) -> None:
        check_text(name, value)
        length, limit = len(str(value)), self._catalog.limits.prompt_characters
        if name == "prompt" and not str(value).strip():
            raise ApiError(1201, "prompt is empty")
        if length > limit:
            raise ApiError(1201, f"{name} has {length:,} characters; at most {limit:,} are allowed")

    def _check_count(self, name: str, value: object) -> None:
        if type(value) is not int:
            raise ApiError(1201, f"{name} must be an integer")
        if not 1 <= value <= self._catalog.limits.n:
            raise ApiError(1201, f"{name} must be from 1 to {self._catalog.limits.n}")

    def _check_model(self, name: str, value: object) -> None:
        check_text(name, value)
        if value not in self._models:
            raise ApiError(1203, f"model {value} does not exist")

    def _check_together(self, body: dict[str, Any]) -> None:
        """The rules about two fields."""
        model = self._catalog.models.get(body.get("model_name", _DEFAULT_MODEL))
        takes_reference = model is not None and model.image_reference
        if "image" in body and "negative_prompt" in body:
            raise ApiError(1201, "negative_prompt cannot be used together with image")
        if "image_reference" in body and not takes_reference:
            raise ApiError(1201, "image_reference is not supported by this model")
        if "image" in body and takes_reference and "image_reference" not in body:
            raise ApiError(1201, "image_reference is required by this model when image is given")

    def request_of(self, body: dict[str, Any]) -> CreateRequest:
        """The request of a valid body: one just received, or one from the journal."""
        return CreateRequest(
            body=body,
            prompt=body["prompt"],
            model=body.get("model_name", _DEFAULT_MODEL),
            aspect_ratio=body.get("aspect_ratio", _DEFAULT_RATIO),
            resolution=body.get("resolution", _DEFAULT_RESOLUTION),
            n=body.get("n", 1),
            external_id=body.get("external_task_id", ""),
            callback_url=body.get("callback_url", ""),
            watermark=body.get("watermark_info", {}).get("enabled", False),
            reference=body.get("image_reference", "image") if "image" in body else "",
        )


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


def _check_filled(name: str, value: object) -> None:
    check_text(name, value)
    if not value:
        raise ApiError(1201, f"{name} is empty")


def _check_link(name: str, value: object) -> None:
    check_text(name, value)
    if not str(value).startswith(("http://", "https://")):
        raise ApiError(1201, f"{name} must be a URL")


def _check_share(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ApiError(1201, f"{name} must be a number")
    if not 0 <= value <= 1:
        raise ApiError(1201, f"{name} must be from 0 to 1")


def _check_watermark(name: str, value: object) -> None:
    if not isinstance(value, dict) or not isinstance(value.get("enabled"), bool) or len(value) != 1:
        raise ApiError(1201, f'{name} must be {{"enabled": true}} or {{"enabled": false}}')


def _one_of(allowed: tuple[str, ...]) -> Callable[[str, Any], None]:
    def check(name: str, value: object) -> None:
        if value not in allowed:
            raise ApiError(1201, f"{name} must be one of {', '.join(allowed)}")

    return check


def _field_of(name: str) -> str:
    return "model_name" if name == "model" else name


def _key_of(name: str) -> str:
    return "model" if name == "model_name" else name


def _identify(value: str, limits: RequestLimits) -> str:
    """What stands for a reference image: its URL as it was sent, or `sha256:…` of its base64 content.

    Raises ApiError (1201). The sandbox opens no connection, so it does not check what a URL leads to.
    """
    if value.startswith(("http://", "https://")):
        return value
    if value.startswith("data:"):
        raise ApiError(1201, "image must be bare base64, without the prefix data:…;base64,")
    content = _decode(value)
    if len(content) > limits.image_bytes:
        raise ApiError(1201, f"image has {len(content):,} bytes; at most {limits.image_bytes:,} are allowed")
    _check_image(content, limits)
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _decode(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(1201, "image is neither a URL nor valid base64") from None


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
