"""What a sandbox is asked to be: whose gateway it plays, how much it takes at once, how long it takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

from batchgen.errors import CommandError
from batchgen.sandbox.faults.schedule import FaultSettings
from batchgen.sandbox.formats import Format

if TYPE_CHECKING:
    from pathlib import Path

_MOST_BYTES = 300_000_000  # of an image: more than batchgen takes
PROFILES = ("kling", "kapon", "anyapi", "sandbox", "openai")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One sandbox. Raises CommandError for what cannot be served."""

    host: str = "127.0.0.1"
    port: int = 0  # 0: a free one
    beyond_loopback: bool = False  # only a user who names another host may open it to a network
    emulate: str = "kling"  # an account of the catalogue: its fields, models and abilities
    marked: bool = True  # whether its answers say that they are a sandbox's
    lists_tasks: bool | None = None  # None: as the profile does
    lookup_by_external_id: bool | None = None  # None: as the profile does
    concurrency: int = 27  # units; a task holds `n` of them until it ends
    creates_per_minute: int | None = None
    balance: float | None = None  # units that may be spent in all; None: no end
    latency: float = 1.0  # seconds from a create to its images, in the median
    latency_sigma: float = 0.0  # sigma of the log-normal distribution round it
    response_format: str = "b64_json"  # of the profile openai, where a create does not say: `url` or `b64_json`
    models: tuple[str, ...] = ()  # that it has; empty: the profile's
    wants_key: bool = True  # False: anybody may ask, whatever the profile wants
    api_key: str | None = None  # exactly this key; None: any, where the profile wants one
    access_key: str | None = None  # with secret_key: a JWT of theirs is wanted
    secret_key: str | None = None
    state: Path | None = None  # journal of accepted tasks, read again at the next start
    keeps_callbacks: bool = True  # in the journal, so that they are made after a restart too
    paint: bool = True  # False: a small prepared image for each size
    image_format: Format = Format.PNG
    image_bytes: int = 0  # that a file has at least; nobody sees what fills it up
    image_redirects: int = 0  # between a link and its image
    link_ttl: float | None = None  # seconds after which a link is answered with 403; None: never
    image_ttl: float | None = None  # seconds after a task's end from which its images are gone; None: never
    faults: FaultSettings = field(default_factory=FaultSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what would otherwise fail late, or quietly do something else."""
        if self.emulate not in PROFILES:
            raise CommandError(f"The sandbox has no profile {self.emulate!r}; choose {', '.join(PROFILES)}.")
        if not self.beyond_loopback and not _is_loopback(self.host):
            raise CommandError(f"The sandbox serves this machine only, and {self.host} is not its loopback.")
        if (self.access_key is None) != (self.secret_key is None):
            raise CommandError("The sandbox checks tokens with an access key and a secret key: give both.")
        if self.image_bytes > _MOST_BYTES:
            raise CommandError(f"The sandbox's images have {_MOST_BYTES:,} bytes at the most.")
        for name, value, least in (
            ("concurrency", self.concurrency, 1),
            ("latency", self.latency, 0),
            ("latency_sigma", self.latency_sigma, 0),
            ("creates per minute", self.creates_per_minute, 1),
            ("balance", self.balance, 0),
            ("image bytes", self.image_bytes, 0),
            ("image redirects", self.image_redirects, 0),
            ("links' life", self.link_ttl, 0),
            ("images' life", self.image_ttl, 0),
        ):
            if value is not None and not value >= least:
                raise CommandError(f"The sandbox's {name} is {value:g}; it must be {least} or more.")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
