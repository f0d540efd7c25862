"""The rules of a create: what comes in as JSON leaves as an `Order`, or as a `Refusal` with its code."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchgen.sandbox import reference
from batchgen.sandbox.api_error import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.catalog.accounts import Account
    from batchgen.catalog.load import Catalog

# Words by which a user rehearses what cannot be asked for otherwise. The first two refuse, the last fails.
SAFETY_WORD, POLICY_WORD, FAILING_WORD = "forbidden-word", "policy-word", "fail-this-task"

DEFAULT_MODEL, DEFAULT_RATIO, DEFAULT_RESOLUTION = "kling-v1", "16:9", "1k"  # the official ones
_NOT_THE_PICTURE = frozenset({"external_task_id", "callback_url"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A create that keeps the rules. `body` is as it came, but of a file that was sent only its hash."""

    body: dict[str, Any]
    prompt: str
    model: str = DEFAULT_MODEL
    aspect_ratio: str = DEFAULT_RATIO
    resolution: str = DEFAULT_RESOLUTION
    size: str = ""  # as in `1536x1024`, where the create named pixels instead of a ratio
    n: int = 1
    external_id: str = ""
    callback_url: str = ""
    watermark: bool = False
    reference: str = ""  # `subject`, `face`, `image`, or empty without a reference image
    digest: str  # of everything that makes the picture: equal for requests that ask for the same

    @property
    def must_fail(self) -> bool:
        """Whether the prompt asks for a task that fails."""
        return FAILING_WORD in self.prompt


class Rules:
    """The rules for one account: its fields, its models, the API's bounds."""

    def __init__(self, catalog: Catalog, account: Account) -> None:
        self._catalog = catalog
        self._models = frozenset(account.models)
        self._required = tuple(sorted(_on_the_wire(name) for name in account.required))
        self._checks = {
            name: check for name, check in self._every_check().items() if _in_manifest(name) in account.fields
        }

    def read(self, raw: bytes) -> Order:
        """The order in a request's body. Raises Refusal (1200, 1201, 1203, 1300, 1301)."""
        body = body_of(raw)
        for name in self._required:
            if name not in body:
                raise Refusal(1201, f"{name} is required")
        for name, value in body.items():
            check = self._checks.get(name)
            if check is None:
                raise Refusal(1201, f"{name} is not a field of this interface")
            check(name, value)
        self._check_together(body)
        check_words(body["prompt"])
        return self._order(body)

    def _every_check(self) -> dict[str, Callable[[str, Any], None]]:
        catalog = self._catalog
        return {
            "model_name": self._check_model,
            "model": _check_text,  # accepted as upstream does: it is not the field, and means kling-v1
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
            "external_task_id": _check_text,
        }

    def _check_prompt(self, name: str, value: object) -> None:
        _check_text(name, value)
        length, most = len(str(value)), self._catalog.limits.prompt_characters
        if name == "prompt" and not str(value).strip():
            raise Refusal(1201, "prompt is empty")
        if length > most:
            raise Refusal(1201, f"{name} has {length:,} characters; at most {most:,} are allowed")

    def _check_count(self, name: str, value: object) -> None:
        if type(value) is not int:
            raise Refusal(1201, f"{name} must be an integer")
        if not 1 <= value <= self._catalog.limits.n:
            raise Refusal(1201, f"{name} must be from 1 to {self._catalog.limits.n}")

    def _check_model(self, name: str, value: object) -> None:
        _check_text(name, value)
        if value not in self._models:
            raise Refusal(1203, f"model {value} is not known here")

    def _check_together(self, body: dict[str, Any]) -> None:
        """The rules about two fields at once."""
        model = self._catalog.models.get(body.get("model_name", DEFAULT_MODEL))
        takes_reference = model is not None and model.image_reference
        if "image" in body and "negative_prompt" in body:
            raise Refusal(1201, "negative_prompt cannot be used together with image")
        if "image_reference" in body and not takes_reference:
            raise Refusal(1201, "image_reference is not supported by this model")
        if "image" in body and takes_reference and "image_reference" not in body:
            raise Refusal(1201, "image_reference is required by this model when image is given")

    def _order(self, body: dict[str, Any]) -> Order:
        if "image" in body:
            body["image"] = reference.identify(body["image"], self._catalog.limits)
        return self.order_of(body)

    def order_of(self, body: dict[str, Any]) -> Order:
        """An order from a body that was checked: one just received, or one out of the journal."""
        return order_of(body)


def order_of(body: dict[str, Any]) -> Order:
    """An order from a body that was checked: one just received, or one out of the journal."""
    return Order(
        body=body,
        prompt=body["prompt"],
        model=body.get("model_name", DEFAULT_MODEL),
        aspect_ratio=body.get("aspect_ratio", DEFAULT_RATIO),
        resolution=body.get("resolution", DEFAULT_RESOLUTION),
        n=body.get("n", 1),
        external_id=body.get("external_task_id", ""),
        callback_url=body.get("callback_url", ""),
        watermark=body.get("watermark_info", {}).get("enabled", False),
        reference=body.get("image_reference", "image") if "image" in body else "",
        digest=digest_of(body),
    )


def body_of(raw: bytes) -> dict[str, Any]:
    """The JSON object in a request's body. Raises Refusal (1200)."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise Refusal(1200, "the body is not valid JSON") from None
    if not isinstance(body, dict):
        raise Refusal(1200, "the body is not a JSON object")
    return body


def digest_of(body: dict[str, Any]) -> str:
    """Of everything that makes the picture."""
    asked = {name: value for name, value in body.items() if name not in _NOT_THE_PICTURE}
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_words(prompt: str) -> None:
    """Raise Refusal (1300, 1301) for a prompt that rehearses one."""
    if SAFETY_WORD in prompt:
        raise Refusal(1301, "the prompt was refused by the content safety check")
    if POLICY_WORD in prompt:
        raise Refusal(1300, "the prompt breaks the policy of the platform")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise Refusal(1201, f"{name} must be a string")


def _check_filled(name: str, value: object) -> None:
    _check_text(name, value)
    if not value:
        raise Refusal(1201, f"{name} is empty")


def _check_link(name: str, value: object) -> None:
    _check_text(name, value)
    if not str(value).startswith(("http://", "https://")):
        raise Refusal(1201, f"{name} must be a URL")


def _check_share(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refusal(1201, f"{name} must be a number")
    if not 0 <= value <= 1:
        raise Refusal(1201, f"{name} must be from 0 to 1")


def _check_watermark(name: str, value: object) -> None:
    if not isinstance(value, dict) or not isinstance(value.get("enabled"), bool) or len(value) != 1:
        raise Refusal(1201, f'{name} must be {{"enabled": true}} or {{"enabled": false}}')


def _one_of(allowed: tuple[str, ...]) -> Callable[[str, Any], None]:
    def check(name: str, value: object) -> None:
        if value not in allowed:
            raise Refusal(1201, f"{name} must be one of {', '.join(allowed)}")

    return check


def _on_the_wire(name: str) -> str:
    return "model_name" if name == "model" else name


def _in_manifest(name: str) -> str:
    return "model" if name == "model_name" else name
