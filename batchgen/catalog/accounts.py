"""One account at one gateway: where it is, how to speak to it and what it can do.

Differences between gateways are data here, never an `if` in a client.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from batchgen.money import micros

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchgen.jobs import Job, Parameters

ANY = "default"  # in place of a model or a resolution: the price of every other one

# The protocols that the sandbox speaks, and the built-in account that it then emulates; a declared one is played from
# its own definition.
REHEARSED = {"kling": "sandbox", "openai": "openai", "declared": ""}

# The header by which a sandbox says, in each of its answers, that nothing here is paid for.
SANDBOX_HEADER = "X-Batchgen-Sandbox"

# What an account starts from that names a protocol and no built-in account, besides what its protocol has.
UNLISTED: Mapping[str, Any] = {"fields": ["model", "prompt", "n", "aspect_ratio", "resolution"], "defaults": {}}


class Auth(StrEnum):
    """How a request shows whose account it is."""

    NONE = "none"
    API_KEY = "api_key"  # a bearer key from the environment
    JWT = "jwt"  # a bearer token made from an access key and a secret key
    COMMAND = "command"  # a token that a command prints
    SIGN = "sign"  # a signature that a package makes with keys from the environment


class Capability(StrEnum):
    """Whether an account can do a thing; `TRY` where its documents differ: ask, and believe a refusal."""

    YES = "yes"
    NO = "no"
    TRY = "try"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Money for one image, by model and resolution; what is not listed is unknown, not free."""

    unit: str = ""
    as_of: str = ""
    deducted: bool = False  # whether the gateway's own `final_unit_deduction` is in this unit
    by_model: Mapping[str, Mapping[str, Decimal]] = field(default_factory=dict)

    def of_image(self, model: str, resolution: str) -> Decimal | None:
        """The price of one image, or None where it is not known."""
        for name in (model, ANY):
            table = self.by_model.get(name, {})
            if (price := table.get(resolution, table.get(ANY))) is not None:
                return price
        return None

    def of_task(self, parameters: Parameters) -> Decimal | None:
        """The price of a whole task, or None where it is not known."""
        price = self.of_image(parameters.model, parameters.resolution)
        return None if price is None else price * parameters.n


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One account at one gateway."""

    name: str
    protocol: str  # the provider that speaks to it, by entry point
    about: str = ""
    base_url: str = ""  # empty for the sandbox, which is started on loopback when it is needed
    auth: Auth = Auth.API_KEY
    api_key_env: str = ""
    access_key_env: str = ""
    secret_key_env: str = ""
    model_field: str = "model_name"
    headers: Mapping[str, str] = field(default_factory=dict)  # sent with every request
    header_variables: Mapping[str, str] = field(default_factory=dict)  # the same, from variables of the environment
    quality: str = ""  # this and the next two: as given, where the protocol is openai; empty: not sent
    style: str = ""
    background: str = ""
    response_format: str = ""  # requested by that field; empty: the field is not sent
    sizes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # `1024x1024`, by resolution and ratio
    defaults: Mapping[str, str] = field(default_factory=dict)  # of parameters that a manifest does not give
    models: tuple[str, ...] = ()
    aspect_ratios: tuple[str, ...] = ()  # that it makes; empty: those of `sizes`, or not known here
    resolutions: tuple[str, ...] = ()  # the same
    parameters: Mapping[str, Any] = field(default_factory=dict)  # that it takes besides, each with its JSON Schema
    max_n: int | None = None  # images that one task may make; None: not known here
    required: frozenset[str] = frozenset({"prompt"})  # fields that are always sent
    fields: frozenset[str] = frozenset()  # that the account knows; no other is sent
    lookup_by_external_id: Capability = Capability.NO
    lists_tasks: Capability = Capability.NO
    concurrency: int = 9  # units; a task holds `n` of them
    adaptive_concurrency: bool = False  # nobody has said the limit: a run begins with `concurrency` and finds it out
    creates_per_minute: float | None = None  # None: no pacing
    visibility_delay: float = 15.0  # seconds after a lost exchange in which its create may still turn up
    request_timeout: float = 60.0  # seconds to wait for an answer, which may hold the whole generation
    prices: Prices = field(default_factory=Prices)
    remembers: float | None = None  # seconds; of older tasks "not found" proves nothing; None: for ever
    free: bool = False  # its images cost nothing
    definition: Mapping[str, Any] = field(default_factory=dict)  # of the protocol `declared`: how to speak to it
    weight: float = 1.0  # its share of a pool
    max_cost: Decimal | None = None  # of its own budget, over all runs of an output; in the unit of its prices
    max_images: int | None = None  # the same
    shares_limits_with: str = ""  # another key of the same account: they have one set of slots and one rate
    model_names: Mapping[str, str] = field(default_factory=dict)  # what it calls the models of a manifest

    @property
    def secret_variables(self) -> tuple[str, ...]:
        """Every environment variable whose value goes with a request, and is shown nowhere."""
        return (*self.key_variables, *self.header_variables.values())

    @property
    def key_variables(self) -> tuple[str, ...]:
        """The environment variables that must be set before a request can be sent."""
        if self.auth is Auth.SIGN:
            return tuple(self.definition["auth"].get("env", {}).values())
        return tuple(getattr(self, name) for name in self.key_settings)

    @property
    def key_settings(self) -> tuple[str, ...]:
        """The settings that name those variables."""
        if self.auth is Auth.API_KEY:
            return ("api_key_env",)
        return ("access_key_env", "secret_key_env") if self.auth is Auth.JWT else ()

    def own_model(self, model: str) -> str:
        """What the account calls a model of the manifest."""
        return self.model_names.get(model, model)

    def size_of(self, parameters: Parameters) -> str | None:
        """The size in pixels that a ratio means here, as in `1536x1024`; None where the account has none."""
        return self.sizes.get(parameters.resolution, {}).get(parameters.aspect_ratio)

    def allowed(self, parameter: str) -> tuple[str, ...]:
        """The values that the account takes for a parameter; empty where it gives no list."""
        lists = {"aspect_ratio": self.aspect_ratios, "resolution": self.resolutions}
        return () if self.sizes else lists.get(parameter, ())  # with `sizes`, a ratio goes with its resolution

    @property
    def is_local_sandbox(self) -> bool:
        """Whether its gateway is to be started in this process."""
        return not self.base_url


def parse_account(name: str, settings: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> Account:
    """An `Account` from settings in the catalogue's shape; `changes` are applied to them, mappings key by key."""
    changes = changes or {}
    merged = {**settings, **changes}
    for key in merged.keys() & {"limits", "prices", "defaults", "sizes"}:
        merged[key] = merge(settings.get(key, {}), changes.get(key, {}))
    if "parameters" in changes:  # each as a whole: half a schema of another account means nothing
        merged["parameters"] = {**settings.get("parameters", {}), **changes["parameters"]}
    if "unit" in changes.get("prices", {}):  # prices in another unit say nothing about those of the built-in account
        merged["prices"] = changes["prices"]
    if "concurrency" in changes.get("limits", {}):
        merged["adaptive_concurrency"] = False
    merged |= merged.pop("limits", {})
    merged |= {key: value for key, value in merged.pop("budget", {}).items() if value is not None}
    merged["prices"] = _named_prices(merged.get("prices", {}), merged.get("model_names", {}))
    merged.pop("use", None)
    headers = merged.pop("headers", {})
    merged["headers"] = {header: value for header, value in headers.items() if isinstance(value, str)}
    merged["header_variables"] = {
        header: value["env"] for header, value in headers.items() if isinstance(value, dict) and "env" in value
    }
    if "defaults" in merged:
        merged["defaults"] = _defaults(merged["defaults"], merged["models"])
    return Account(
        name=name, **{key: _PARSERS[key](value) if key in _PARSERS else value for key, value in merged.items()}
    )


def _named_prices(prices: Mapping[str, Any], model_names: Mapping[str, str]) -> dict[str, Any]:
    """The prices also under the names that the manifest has for the account's models."""
    return {**{name: prices[own] for name, own in model_names.items() if own in prices}, **prices}


def merge(known: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with changes, key by key, also one level below."""
    return {
        **known,
        **{
            key: {**known[key], **value} if isinstance(value, dict) and isinstance(known.get(key), dict) else value
            for key, value in changes.items()
        },
    }


def _defaults(raw: Mapping[str, str], models: tuple[str, ...]) -> dict[str, str]:
    """The account's own defaults. A model that it lacks is replaced by its only one; of several none is guessed."""
    found = dict(raw)
    if found.get("model") not in models:
        found.pop("model", None)
        if len(models) == 1:
            found["model"] = models[0]
    return found


def _parse_prices(raw: Mapping[str, Any]) -> Prices:
    """Read `{unit, as_of, MODEL: price}` or `{…, MODEL: {RESOLUTION: price}}`."""
    by_model = {}
    for name, price in raw.items():
        if name not in {"unit", "as_of", "deducted"}:
            table = price if isinstance(price, dict) else {ANY: price}
            by_model[name] = {resolution: Decimal(str(value)) for resolution, value in table.items()}
    return Prices(
        unit=str(raw.get("unit", "")),
        as_of=str(raw.get("as_of", "")),
        deducted=raw.get("deducted", False),
        by_model=by_model,
    )


_PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "required": frozenset,
    "fields": frozenset,
    "models": tuple,
    "aspect_ratios": tuple,
    "resolutions": tuple,
    "auth": Auth,
    "lookup_by_external_id": Capability,
    "lists_tasks": Capability,
    "prices": _parse_prices,
    "base_url": lambda text: text.rstrip("/"),
    "max_cost": lambda value: Decimal(str(value)),
    "max_images": int,
}


def price_at(accounts: Mapping[str, Account], name: str, job: Job) -> int | None:
    """Today's price of a job's task at an account, in millionths; None where it is not known."""
    account = accounts.get(name)
    return None if account is None else micros(account.prices.of_task(job.parameters))
