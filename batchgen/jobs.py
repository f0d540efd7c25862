"""What is asked for: `Job`, its parameters, its id and its states.

The id is a **versioned** hash of the canonical request: the rendered prompt, the parameters with the API's defaults
filled in, a reference image by its content, and the number of the repeat. Provider, order, names and spelling of the
manifest are not part of it, so that an edit which asks for the same image again finds it. Changing what this module
hashes makes every user pay again: do not, without a new `ID_VERSION` and a way to compute the old one.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b32encode
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from batchgen.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping

ID_VERSION = "1"
ID_LENGTH = 26  # the version's character and 125 bits in base32


class Status(StrEnum):
    """The state of a job. Only the ledger changes it."""

    PENDING = "pending"  # nothing was sent, or every attempt so far certainly made nothing
    INTENT = "intent"  # an attempt is about to be sent, or was sent and no answer is recorded
    SUBMITTED = "submitted"  # the gateway accepted it: there is a task id
    MADE = "made"  # the task succeeded: there are links
    DONE = "done"  # every image is in its place
    PARTIAL = "partial"  # the gateway delivered fewer images than asked for; those are in place
    FAILED = "failed"  # parameters refused, or every attempt failed
    REJECTED = "rejected"  # refused by policy
    UNKNOWN = "unknown"  # sent without a clear answer, and the gateway cannot be asked
    GONE = "gone"  # made, but the gateway no longer has the images


LIVE = frozenset({Status.INTENT, Status.SUBMITTED, Status.MADE})
INCOMPLETE = frozenset({Status.PARTIAL, Status.FAILED, Status.REJECTED, Status.UNKNOWN, Status.GONE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A reference image: a link the gateway can reach, or a file that is sent with the request."""

    url: str | None = None
    path: str | None = None  # absolute; None for a link
    sha256: str | None = None  # of the file's content; None for a link

    @property
    def identity(self) -> str:
        """What goes into the job's id: the link, or the content."""
        return f"sha256:{self.sha256}" if self.sha256 else f"url:{self.url}"

    def __str__(self) -> str:
        """The link or the file, as exclusions, `--only` and messages have it."""
        return self.url or self.path or ""


@dataclass(frozen=True, slots=True)
class JsonValue:
    """A value of JSON as its canonical text: hashable, `1.0` is 1, true is not, and the order of keys is nothing."""

    text: str

    @classmethod
    def of(cls, value: Any) -> JsonValue:  # noqa: ANN401 - any value of JSON
        """The value of what `json` reads. Raises ValueError for a number that JSON cannot hold."""
        return cls(_canonical(_whole(value), allow_nan=False))

    @property
    def value(self) -> Any:  # noqa: ANN401 - any value of JSON
        """What `json` reads."""
        return json.loads(self.text)

    def __str__(self) -> str:
        """A text as it is, anything else as JSON: as exclusions, `--only` and columns have it."""
        value = self.value
        return value if isinstance(value, str) else self.text


def _whole(value: Any) -> Any:  # noqa: ANN401 - any value of JSON
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(child) for name, child in value.items()}
    return [_whole(child) for child in value] if isinstance(value, list) else value


def _canonical(value: object, *, allow_nan: bool = True) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=allow_nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What is asked for besides the prompt. `None` means: not asked for.

    The defaults are those of the API's own reference; they are defined here only.
    """

    model: str = "kling-v1"
    aspect_ratio: str = "16:9"
    resolution: str = "1k"
    n: int = 1
    negative_prompt: str | None = None
    image: Reference | None = None
    image_reference: str | None = None
    image_fidelity: float | None = None
    human_fidelity: float | None = None
    watermark_info: bool | None = None  # whether a watermarked copy is wanted too
    further: tuple[tuple[str, JsonValue], ...] = ()  # beyond these, as the account declares them; in order of names

    def named(self, name: str) -> Any:  # noqa: ANN401 - of one of the types above
        """The value of a parameter by its name, one of `further` too; None where it is not asked for."""
        return getattr(self, name) if name in PARAMETER_NAMES else dict(self.further).get(name)

    def canonical(self) -> dict[str, Any]:
        """The parameters as the id sees them: what is absent is left out, `1.0` is `1`."""
        values: dict[str, Any] = {}
        for name in PARAMETER_NAMES:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, Reference):
                value = value.identity
            elif isinstance(value, float) and value.is_integer():
                value = int(value)
            values[name] = value
        for name, given in self.further:  # no name is one of those above
            values[name] = given.value
        return values

    def digest(self) -> bytes:
        """Hash of the canonical parameters; many jobs share one, so that a job's id costs a microsecond."""
        return hashlib.sha256(_canonical(self.canonical()).encode()).digest()


PARAMETER_NAMES = tuple(name for name in Parameters.__dataclass_fields__ if name != "further")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One task to be made, from expansion to the row of the index."""

    id: str
    prompt: str
    parameters: Parameters
    prompt_id: str
    repeat: int = 0  # 0 for the first of `repeat` equal tasks
    labels: Mapping[str, str] = field(default_factory=dict)  # vars, ids of axis entries, `block`, and those given

    def text_of(self, key: str) -> str:
        """What it has under a key of `--only`: a label, a parameter, `prompt`, `prompt_id` or `job_id`; else empty."""
        if key in self.labels:
            return self.labels[key]
        if key == "job_id":
            return self.id
        value = getattr(self, key) if key in {"prompt", "prompt_id"} else self.parameters.named(key)
        return "" if value is None else str(value)

    def to_json(self) -> str:
        """Everything the ledger needs to finish this job without the manifest."""
        given = ((name, getattr(self.parameters, name)) for name in PARAMETER_NAMES)  # asdict would copy each value
        parameters = {name: value for name, value in given if value is not None}
        if self.parameters.image is not None:
            parameters["image"] = asdict(self.parameters.image)
        if self.parameters.further:
            parameters["further"] = {name: given.value for name, given in self.parameters.further}
        return json.dumps(
            {
                "prompt": self.prompt,
                "parameters": parameters,
                "prompt_id": self.prompt_id,
                "repeat": self.repeat,
                "labels": dict(self.labels),
            },
            ensure_ascii=False,
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, job_id: str, text: str) -> Job:
        """Read what `to_json` wrote; fields that a later version may have added are ignored."""
        if not is_id(job_id):
            raise CommandError(f"The ledger has a job {job_id!r}, which is not an id of batchgen. Nothing was changed.")
        record = json.loads(text)
        known = {k: v for k, v in record["parameters"].items() if k in PARAMETER_NAMES}
        if image := known.get("image"):
            known["image"] = Reference(**image)
        known["further"] = further_of(record["parameters"].get("further", {}))
        return cls(
            id=job_id,
            prompt=record["prompt"],
            parameters=Parameters(**known),
            prompt_id=record["prompt_id"],
            repeat=record["repeat"],
            labels=record["labels"],
        )


def further_of(values: Mapping[str, Any]) -> tuple[tuple[str, JsonValue], ...]:
    """Values by name, as `Parameters.further` has them; null is not asked for."""
    return tuple((name, JsonValue.of(values[name])) for name in sorted(values) if values[name] is not None)


def job_id(prompt: str, parameters_digest: bytes, repeat: int = 0) -> str:
    """The id of a request: version, then 125 bits of SHA-256 in lower-case base32.

    Base32, because ids are parts of file names and some file systems ignore case.
    """
    hasher = hashlib.sha256(b"batchgen job 1\0")
    hasher.update(hashlib.sha256(prompt.encode()).digest())
    hasher.update(parameters_digest)
    hasher.update(repeat.to_bytes(4, "big"))
    return ID_VERSION + b32encode(hasher.digest()[:16])[: ID_LENGTH - 1].decode().lower()


_AN_ID = re.compile(r"[0-9][a-z2-7]{25}")


def is_id(text: str) -> bool:
    """Whether this can be a job's id; ids become parts of file names."""
    return _AN_ID.fullmatch(text) is not None


def external_id(job: str, attempt: int) -> str:
    """Our own id of one attempt (from 1): it follows from the job, so that no crash loses it."""
    return f"bg-{job}-{attempt}"


INLINE = "data:"  # the scheme of a link that contains the image itself (RFC 2397)


def is_inline(url: str) -> bool:
    """Whether the link contains the image itself."""
    return url.startswith(INLINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLink:
    """An image at the gateway, to be downloaded."""

    index: int
    url: str
    watermark_url: str | None = None


class ImageKey(NamedTuple):
    """What identifies an image in the ledger."""

    job_id: str
    attempt: int
    image_index: int
    watermarked: int  # 1 for the watermarked copy


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedImage:
    """An image that was downloaded, checked and is on disk, but not yet at its place."""

    sha256: str
    bytes: int
    width: int
    height: int
    ext: str
    mtime_ns: int
    warning: str  # what is unusual about it; empty where nothing is
