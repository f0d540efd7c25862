"""The settings of a sandbox: which gateway it emulates, its limits, its latency, its images."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from batchgen.errors import CommandError
from batchgen.sandbox.formats import Format

if TYPE_CHECKING:
    from pathlib import Path

    from batchgen.catalog.accounts import Account
    from batchgen.sandbox.faults.schedule import FaultSettings

_MAX_IMAGE_BYTES = 300_000_000  # more than batchgen accepts
PROFILES = ("kling", "kapon", "anyapi", "sandbox", "openai")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One sandbox. Raises CommandError for values that cannot be served."""

    host: str = "127.0.0.1"
    port: int = 0  # 0: a free one
    allow_network: bool = False  # whether `host` may be other than loopback
    emulate: str = "kling"  # an account of the catalogue: its fields, models and capabilities
    account: Account | None = None  # in place of `emulate`: an account with a definition, whose examples are played
    marked: bool = True  # whether answers have the header that tells a sandbox from a real account
    lists_tasks: bool | None = None  # None: as the emulated account
    lookup_by_external_id: bool | None = None  # None: as the emulated account
    concurrency: int = 27  # units; a running task holds `n` of them
    creates_per_minute: int | None = None
    balance: float | None = None  # units that can be spent in all; None: unlimited
    latency: float = 1.0  # seconds from a create to its images, median
    latency_sigma: float = 0.0  # of the log-normal distribution of latencies
    response_format: str = "b64_json"  # of the OpenAI API, where a create does not name one: `url` or `b64_json`
    models: tuple[str, ...] = ()  # empty: those of the emulated account
    further: frozenset[str] = frozenset()  # fields that a create may have besides; they change nothing
    require_key: bool = True  # False: requests need no key, whatever the emulated account wants
    api_key: str | None = None  # the only key accepted; None: any
    access_key: str | None = None  # with secret_key: requests need a JWT made from both
    secret_key: str | None = None
    state: Path | None = None  # journal of accepted tasks, read at the next start
    journal_callbacks: bool = True  # so that they are sent after a restart too
    blank_images: bool = False  # serve small white images instead of painted ones
    image_format: Format = Format.PNG
    image_bytes: int = 0  # minimum size of a file, which is padded
    image_redirects: int = 0  # between a link and its image
    link_ttl: float | None = None  # seconds after which a link gets 403; None: never
    image_ttl: float | None = None  # seconds after a task's end at which its images are deleted; None: never
    faults: FaultSettings | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.account is None and self.emulate not in PROFILES:
            raise CommandError(f"The sandbox cannot emulate {self.emulate!r}. Choose one of {', '.join(PROFILES)}.")
        if not self.allow_network and not _is_loopback(self.host):
            raise CommandError(f"The sandbox serves this machine only, and {self.host} is not a loopback address.")
        if (self.access_key is None) != (self.secret_key is None):
            raise CommandError("To check tokens, the sandbox needs both an access key and a secret key.")
        if not 0 <= self.port <= 65535:
            raise CommandError(
                f"Port {self.port} is out of range. Give a number from 1 to 65535, or 0 for a free port."
            )
        if self.image_bytes > _MAX_IMAGE_BYTES:
            raise CommandError(f"An image can be padded to {_MAX_IMAGE_BYTES:,} bytes at most.")
        for name, minimum in (
            ("concurrency", 1),
            ("latency", 0),
            ("latency_sigma", 0),
            ("creates_per_minute", 1),
            ("balance", 0),
            ("image_bytes", 0),
            ("image_redirects", 0),
            ("link_ttl", 0),
            ("image_ttl", 0),
        ):
            value = getattr(self, name)
            if value is not None and not value >= minimum:
                words = name.replace("_", " ")
                raise CommandError(f"The sandbox's {words} is {value:g}. Give {minimum} or more.")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
