"""A model's rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


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


def parse_model(name: str, rules: Mapping[str, Any]) -> Model:
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
