"""What models and accounts can do, read from `catalog.yaml`: rules, limits and prices as data.

Differences between gateways are data here, never an `if` in a client.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from batchgen.money import micros
from batchgen.source import document

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchgen.jobs import Job, Parameters


# The wire protocols that the sandbox speaks, and whose account it then plays.
REHEARSED = {"kling": "sandbox", "openai": "openai"}

# The header by which a sandbox says, in each of its answers, that nothing here is paid for.
SANDBOX_HEADER = "X-Batchgen-Sandbox"

# What an account knows that names a wire protocol and no built-in account to start from.
OF_A_WIRE: Mapping[str, Any] = {
    "required": ["prompt"],
    "fields": ["model", "prompt", "n", "aspect_ratio", "resolution"],
    "defaults": {},
}


class Auth(StrEnum):
    """How a request shows whose account it is."""

    NONE = "none"
    API_KEY = "api_key"  # a bearer key from the environment
    JWT = "jwt"  # a bearer token made from an access key and a secret key


class Capability(StrEnum):
    """Whether an account can do a thing; `TRY` where its documents differ: ask, and believe a refusal."""

    YES = "yes"
    NO = "no"
    TRY = "try"


@dataclass(frozen=True, slots=True, kw_only=True)
class Oddity:
    """A combination that upstream is known not to make, though a gateway may: a warning."""

    parameter: str
    value: Any  # None: the parameter is absent
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model's rules."""

    name: str
    about: str = ""
    image_reference: bool = False  # takes `image_reference`, and wants it with every `image`
    unlikely: tuple[Oddity, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Money for one image, by model and resolution; what is not listed is unknown, not free."""

    unit: str = ""
    as_of: str = ""
    deducted: bool = False  # whether the gateway's own `final_unit_deduction` is in this unit
    by_model: Mapping[str, Mapping[str, Decimal]] = field(default_factory=dict)  # `default` serves every model

    def of_image(self, model: str, resolution: str) -> Decimal | None:
        """The price of one image, or None where it is not known."""
        for name in (model, "default"):
            price = self.by_model.get(name, {}).get(resolution)
            if price is not None:
                return price
        return None

    def of_task(self, parameters: Parameters) -> Decimal | None:
        """The price of a whole task, or None where it is not known."""
        price = self.of_image(parameters.model, parameters.resolution)
        return None if price is None else price * parameters.n


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One account at one gateway: where it is, how it speaks and what it can do."""

    name: str
    protocol: str  # the provider that speaks to it, by entry point
    about: str = ""
    base_url: str = ""  # empty for the sandbox, which is started on loopback when it is needed
    auth: Auth = Auth.API_KEY
    api_key_env: str = ""
    access_key_env: str = ""
    secret_key_env: str = ""
    model_field: str = "model_name"
    headers: Mapping[str, str] = field(default_factory=dict)  # that go with every request
    header_variables: Mapping[str, str] = field(default_factory=dict)  # the same, from variables of the environment
    quality: str = ""  # this and the next two: as given, where the protocol is openai; empty: not sent
    style: str = ""
    background: str = ""
    response_format: str = ""  # what is asked for by that field; empty: the field is not sent
    sizes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # `1024x1024`, by resolution and ratio
    defaults: Mapping[str, str] = field(default_factory=dict)  # of parameters that a manifest does not give
    models: tuple[str, ...] = ()
    required: frozenset[str] = frozenset()
    fields: frozenset[str] = frozenset()
    lookup_by_external_id: Capability = Capability.NO
    lists_tasks: Capability = Capability.NO
    concurrency: int = 9  # units; a task holds `n` of them
    adaptive_concurrency: bool = False  # nobody has said the limit: a run begins with `concurrency` and finds it out
    creates_per_minute: float | None = None  # None: no pacing
    keeps_images_days: float | None = None
    visibility_delay: float = 15.0  # seconds after a lost exchange in which its create may still turn up
    request_timeout: float = 60.0  # seconds for which an answer is waited for; it may hold the whole generation
    prices: Prices = field(default_factory=Prices)

    @property
    def secret_variables(self) -> tuple[str, ...]:
        """Every environment variable whose value goes with a request, and is shown nowhere."""
        return (*self.key_variables, *self.header_variables.values())

    @property
    def key_variables(self) -> tuple[str, ...]:
        """The environment variables that must be set before a request can be sent."""
        if self.auth is Auth.API_KEY:
            return (self.api_key_env,)
        if self.auth is Auth.JWT:
            return (self.access_key_env, self.secret_key_env)
        return ()

    def size_of(self, parameters: Parameters) -> str | None:
        """The size in pixels that a ratio means here, as in `1536x1024`; None where the account has none."""
        return self.sizes.get(parameters.resolution, {}).get(parameters.aspect_ratio)

    @property
    def is_local_sandbox(self) -> bool:
        """Whether its gateway is to be started in this process."""
        return not self.base_url


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The API's own bounds on a request."""

    prompt_characters: int
    n: int
    image_bytes: int
    image_side_pixels: int
    image_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The whole catalogue. `raw_accounts` is what a manifest's `providers` are merged over."""

    as_of: str
    limits: Limits
    aspect_ratios: tuple[str, ...]
    resolutions: tuple[str, ...]
    image_references: tuple[str, ...]
    models: Mapping[str, Model]
    accounts: Mapping[str, Account]
    raw_accounts: Mapping[str, Mapping[str, Any]]


@cache
def builtin() -> Catalog:
    """The catalogue that batchgen brings."""
    text = resources.files("batchgen.catalog").joinpath("catalog.yaml").read_text(encoding="utf-8")
    raw = document.parse(text, "catalog.yaml").value
    return Catalog(
        as_of=str(raw["as_of"]),
        limits=Limits(**raw["limits"]),
        aspect_ratios=tuple(raw["aspect_ratios"]),
        resolutions=tuple(raw["resolutions"]),
        image_references=tuple(raw["image_references"]),
        models={name: _model(name, rules) for name, rules in raw["models"].items()},
        accounts={name: account(name, settings) for name, settings in raw["accounts"].items()},
        raw_accounts=raw["accounts"],
    )


def account(name: str, settings: Mapping[str, Any], over: Mapping[str, Any] | None = None) -> Account:
    """An `Account` from settings in the catalogue's shape; `over` changes them, mappings key by key."""
    merged = dict(settings)
    for key, value in (over or {}).items():
        if key == "sizes":
            merged[key] = _sizes(merged.get(key, {}), value)
        elif key in {"limits", "prices", "defaults"}:
            merged[key] = {**merged.get(key, {}), **value}
            if key == "prices" and "unit" in value:  # another unit than the built-in prices' has nothing of them
                merged[key] = dict(value)
        else:
            merged[key] = value
    limits = merged.pop("limits", {})
    if "concurrency" in (over or {}).get("limits", {}):
        merged["adaptive_concurrency"] = False
    prices = _prices(merged.pop("prices", {}))
    merged.pop("use", None)
    for key, read in _READ_AS.items():
        if key in merged:
            merged[key] = read(merged[key])
    headers = merged.pop("headers", {})
    merged["headers"] = {name: value for name, value in headers.items() if isinstance(value, str)}
    merged["header_variables"] = {
        name: value["env"] for name, value in headers.items() if isinstance(value, dict) and "env" in value
    }
    if "defaults" in merged:
        merged["defaults"] = _defaults(merged["defaults"], merged["models"])
    return Account(name=name, prices=prices, **limits, **merged)


_READ_AS: Mapping[str, Callable[[Any], Any]] = {
    "required": frozenset,
    "fields": frozenset,
    "models": tuple,
    "auth": Auth,
    "lookup_by_external_id": Capability,
    "lists_tasks": Capability,
    "base_url": lambda text: text.rstrip("/"),
}


def _sizes(known: Mapping[str, Mapping[str, str]], over: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    return {**known, **{resolution: {**known.get(resolution, {}), **table} for resolution, table in over.items()}}


def _defaults(raw: Mapping[str, str], models: tuple[str, ...]) -> dict[str, str]:
    """The account's own defaults. A model that it has not gives way to its only one; of several none is guessed."""
    found = dict(raw)
    if found.get("model") not in models:
        found.pop("model", None)
        if len(models) == 1:
            found["model"] = models[0]
    return found


def _model(name: str, rules: Mapping[str, Any]) -> Model:
    unlikely = tuple(
        Oddity(parameter=parameter, value=value, why=rule["why"])
        for rule in rules.get("unlikely", ())
        for parameter, value in rule.items()
        if parameter != "why"
    )
    return Model(
        name=name,
        about=rules.get("about", ""),
        image_reference=rules.get("image_reference", False),
        unlikely=unlikely,
    )


def _prices(raw: Mapping[str, Any]) -> Prices:
    """Read `{unit, as_of, MODEL: price}` or `{…, MODEL: {RESOLUTION: price}}`."""
    resolutions = ("1k", "2k")
    by_model: dict[str, dict[str, Decimal]] = {}
    for name, price in raw.items():
        if name in {"unit", "as_of", "deducted"}:
            continue
        table = price if isinstance(price, dict) else dict.fromkeys(resolutions, price)
        by_model[name] = {resolution: Decimal(str(value)) for resolution, value in table.items()}
    return Prices(
        unit=str(raw.get("unit", "")),
        as_of=str(raw.get("as_of", "")),
        deducted=raw.get("deducted", False),
        by_model=by_model,
    )


def price_at(accounts: Mapping[str, Account], name: str, job: Job) -> int | None:
    """Today's price of a job's task at an account, in millionths; None where it is not known."""
    account = accounts.get(name)
    return None if account is None else micros(account.prices.of_task(job.parameters))
