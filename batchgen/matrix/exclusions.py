"""Which jobs an exclusion matches: one part looks at the prompt and its vars, the other at the parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.jobs import JsonValue, Reference
from batchgen.manifest import wildcards

if TYPE_CHECKING:
    from collections.abc import Collection

    from batchgen.jobs import Parameters
    from batchgen.manifest.model import Exclusion, Labels, Match
    from batchgen.matrix.expand import PromptVariant
    from batchgen.source.document import Value


def matches_variant(rule: Exclusion, variant: PromptVariant, axis_labels: Collection[str]) -> bool:
    """Whether the part of a rule that is about prompt, vars and their labels matches."""
    labels, values = variant.labels, variant.values
    known = {"prompt": (variant.text, variant.prompt), "prompt_id": (variant.prompt_id,)}
    known |= {name: (label, values.get(name, label)) for name, label in labels.items()}
    return all(
        any(wildcards.matches(match.text, text) for match in matches for text in known.get(name, ()))
        for name, matches in rule.texts.items()
        if name not in axis_labels
    )


def matches_parameters(
    rule: Exclusion, parameters: Parameters, labels: Labels, axis_labels: Collection[str] = ()
) -> bool:
    """Whether the part of a rule that is about parameters, and the labels that go with them, matches."""
    return all(
        any(_is_match(match, parameters.named(name)) for match in matches) for name, matches in rule.parameters.items()
    ) and all(
        any(name in labels and wildcards.matches(match.text, labels[name]) for match in matches)
        for name, matches in rule.texts.items()
        if name in axis_labels
    )


def _is_match(match: Match, value: Value) -> bool:
    if isinstance(value, JsonValue):
        found = value.value
        value = str(value) if isinstance(found, list | dict) else found
    if isinstance(value, (str, Reference)) and match.value is not None:
        return wildcards.matches(match.text, str(value))
    return isinstance(value, bool) is isinstance(match.value, bool) and bool(value == match.value)
