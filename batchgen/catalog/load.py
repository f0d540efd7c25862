"""The built-in catalogue, read from `catalog.yaml`: models, accounts, bounds and prices as data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from batchgen.catalog.accounts import merge, parse_account
from batchgen.source import document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchgen.catalog.accounts import Account


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownLimitation:
    """A value that upstream is known not to support with a model, though a gateway may: a warning."""

    parameter: str
    value: Any  # None: the parameter is absent
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model's rules; one that the catalogue does not list has none."""

    name: str
    about: str = ""
    image_reference: bool = False  # accepts `image_reference`, and requires it with every `image`
    known_limitations: tuple[KnownLimitation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """The API's own bounds on a request."""

    prompt_characters: int
    n: int
    image_bytes: int
    image_side_pixels: int
    image_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The whole catalogue. The mappings of texts say in a few words what each value means.

    `raw_accounts` is what a manifest's `providers` are merged over; `of_protocol`, what an account has by its protocol,
    unless it says otherwise.
    """

    as_of: str
    limits: RequestLimits
    aspect_ratios: Mapping[str, str]
    resolutions: Mapping[str, str]
    image_references: Mapping[str, str]
    fields: Mapping[str, str]
    models: Mapping[str, Model]
    accounts: Mapping[str, Account]
    raw_accounts: Mapping[str, Mapping[str, Any]]
    of_protocol: Mapping[str, Mapping[str, Any]]


def catalog_text() -> str:
    """The file as it is."""
    return resources.files("batchgen.catalog").joinpath("catalog.yaml").read_text(encoding="utf-8")


@cache
def builtin() -> Catalog:
    """The catalogue that batchgen brings."""
    raw = document.parse(catalog_text(), "catalog.yaml").value
    of_protocol = {
        "kling": {
            "aspect_ratios": list(raw["aspect_ratios"]),
            "resolutions": list(raw["resolutions"]),
            "fields": list(raw["fields"]),
            "limits": {"max_n": raw["limits"]["n"]},
        }
    }
    raw_accounts = {
        name: merge(of_protocol.get(settings["protocol"], {}), settings) for name, settings in raw["accounts"].items()
    }
    return Catalog(
        as_of=raw["as_of"],
        limits=RequestLimits(**raw["limits"]),
        aspect_ratios=raw["aspect_ratios"],
        resolutions=raw["resolutions"],
        image_references=raw["image_references"],
        fields=raw["fields"],
        models={name: _parse_model(name, rules) for name, rules in raw["models"].items()},
        accounts={name: parse_account(name, settings) for name, settings in raw_accounts.items()},
        raw_accounts=raw_accounts,
        of_protocol=of_protocol,
    )


def _parse_model(name: str, rules: Mapping[str, Any]) -> Model:
    """A model from the catalogue's entry."""
    limitations = tuple(
        KnownLimitation(parameter=parameter, value=value, why=rule["why"])
        for rule in rules.get("known_limitations", ())
        for parameter, value in rule.items()
        if parameter != "why"
    )
    return Model(
        name=name,
        about=rules.get("about", ""),
        image_reference=rules.get("image_reference", False),
        known_limitations=limitations,
    )
