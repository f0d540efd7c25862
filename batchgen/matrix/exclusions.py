"""Which jobs an exclusion matches: one part looks at the prompt and its vars, the other at the parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.jobs import Reference
from batchgen.manifest import wildcards

if TYPE_CHECKING:
    from batchgen.jobs import Parameters
    from batchgen.manifest.model import Exclusion, Match
    from batchgen.matrix.expand import PromptVariant
    from batchgen.source.document import Value


def matches_variant(rule: Exclusion, variant: PromptVariant) -> bool:
    """Whether the part of a rule that is about prompt and vars matches."""
    labels, values = variant.labels, variant.values
    known = {"prompt": (variant.text, variant.prompt), "prompt_id": (variant.prompt_id,)}
    known |= {name: (label, values.get(name, label)) for name, label in labels.items()}
    return all(
        any(wildcards.matches(match.text, text) for match in matches for text in known.get(name, ()))
        for name, matches in rule.texts.items()
    )


def matches_parameters(rule: Exclusion, parameters: Parameters) -> bool:
    """Whether the part of a rule that is about parameters matches."""
    return all(
        any(_is_match(match, getattr(parameters, name)) for match in matches)
        for name, matches in rule.parameters.items()
    )


def _is_match(match: Match, value: Value) -> bool:
    if isinstance(value, (str, Reference)) and match.value is not None:
        return wildcards.matches(match.text, str(value))
    return isinstance(value, bool) is isinstance(match.value, bool) and bool(value == match.value)
