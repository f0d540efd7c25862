"""What a declared API's answer holds: its images, its words, its cost and its times; and the marks of an attempt."""

from __future__ import annotations

import base64
import hashlib
import uuid
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from batchgen.apis.values import quoted
from batchgen.jobs import INLINE, ImageLink
from batchgen.providers import responses

if TYPE_CHECKING:
    from batchgen.apis.definition import Images, Step
    from batchgen.apis.values import Values
    from batchgen.http.client import Answer

_MOST_IMAGES = 100
_LATEST = 2**53  # what a time in ms can be; a larger number is none
_LATEST_SECONDS = 10**11  # a larger number is a time in ms
_LARGEST_CHARGE = 10**9


def links(step: Step, answer: Answer, body: Any, root_url: str) -> tuple[ImageLink, ...]:  # noqa: ANN401 - any JSON
    """The images of an answer, in its order; a link that begins with / is at `root_url`."""
    images = step.images
    if images is None:
        return ()
    if images.kind == "body":
        media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        is_image = bool(answer.body) and fnmatchcase(media_type, images.media_type.lower())
        urls = [f"{INLINE};base64,{base64.b64encode(answer.body).decode('ascii')}"] if is_image else []
    else:
        found = images.selector.of(body) if images.selector is not None else None
        items = found if isinstance(found, list) else [found]
        urls = [url for item in items[:_MOST_IMAGES] if (url := _url_of(images, item, root_url))]
    return tuple(ImageLink(index=index, url=url) for index, url in enumerate(urls))


def _url_of(images: Images, item: Any, root_url: str) -> str:  # noqa: ANN401 - any JSON
    if images.link is not None:
        if not isinstance(item, dict) or not images.link.names <= set(item):
            return ""
        item = images.link.text(quoted({name: item[name] for name in images.link.names}))
    if not isinstance(item, str) or not item:
        return ""
    if images.kind == "b64":
        return item if item.startswith(INLINE) else f"{INLINE};base64,{item}"
    return root_url + item if item.startswith("/") and not item.startswith("//") else item


def message(step: Step, body: Any, name: str) -> str:  # noqa: ANN401 - any JSON
    """The words for people that a selector of the step finds; empty where it has none."""
    found = step.selectors[name].of(body) if name in step.selectors else None
    return responses.message_of({"message": str(found)} if isinstance(found, str | int | float) else found)


@lru_cache(maxsize=1024)
def marks_of(external_id: str) -> Values:
    """The marks of an attempt: they follow from its external id, so that no crash loses them."""
    digest = hashlib.sha256(b"batchgen mark 1\0" + external_id.encode()).digest()
    return {
        "attempt_id": external_id,
        "attempt_uuid": str(uuid.UUID(bytes=digest[:16], version=4)),
        "attempt_seed": int.from_bytes(digest[16:20]) >> 1,  # 31 bits: what every API takes
    }


def cost(step: Step, body: Any) -> Decimal | None:  # noqa: ANN401 - any JSON
    """What the task cost, in the account's unit; None where the answer does not say."""
    if "cost" not in step.selectors:
        return None
    found = step.selectors["cost"].of(body)
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        return None
    try:
        charge = Decimal(str(found)[:40])
    except InvalidOperation:
        return None
    return charge if charge.is_finite() and 0 <= charge < _LARGEST_CHARGE else None


def milliseconds(value: object) -> int | None:
    """A time as Unix ms: ISO 8601, or a number of seconds or milliseconds."""
    if isinstance(value, str):
        try:
            time = datetime.fromisoformat(value)
            return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
        except (ValueError, OverflowError):
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LATEST:
        return None
    return int(value if value > _LATEST_SECONDS else value * 1000)
