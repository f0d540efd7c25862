"""The matrix walked: every job, one after the other, in flat memory.

Prompts vary slowest, then vars, then the other axes in the order written, then repeats. What does not depend on the
prompt (parameters, their digest, what is left out) is computed once for all prompts that set the same parameters.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

from batchgen import templates
from batchgen.jobs import Job, Parameters, job_id
from batchgen.manifest import rules
from batchgen.manifest.model import OnIllegal, build
from batchgen.matrix.exclusions import matches_parameters, matches_variant
from batchgen.matrix.sample import rank

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from batchgen.manifest.model import Block, Entry, Exclusion, Manifest, NodePath, Prompts, Settings

_MOST_KEPT = 50_000  # requests kept for the prompts that share them
_SLUG_CHARACTERS = 40
_WORDS = re.compile(r"[a-z0-9]+")


@lru_cache(maxsize=4096)
def slug(prompt: str) -> str:
    """A name from a prompt's first 40 characters: lower-case ASCII words joined by `-`."""
    text = prompt[:_SLUG_CHARACTERS]
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return "-".join(_WORDS.findall(text.lower())) or "prompt"


@dataclass(frozen=True, slots=True)
class PromptVariant:
    """One prompt with one combination of vars: what the other axes are combined with."""

    text: str  # as written, a template or not
    prompt: str  # rendered
    prompt_id: str
    sources: tuple[Settings, ...]  # of the prompt, then of each var, as far as they set anything
    labels: Mapping[str, str]  # as paths name them
    values: Mapping[str, str]  # of vars, as prompts have them


@dataclass(slots=True)
class VariantKind:
    """Variants that set the same parameters and match the same exclusions: checked once, and counted."""

    sources: tuple[Settings, ...]
    excluded_by: frozenset[NodePath]  # exclusions whose part about prompt and vars matches
    count: int = 0


@dataclass(frozen=True, slots=True)
class Combination:
    """One entry of each of the other axes, together with what prompt and vars set."""

    sources: tuple[Settings, ...]  # a later one is stronger
    settings: Settings  # all of them, and the defaults
    parameters: Parameters
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Request:
    """All of a job but its prompt and its number."""

    parameters: Parameters
    digest: bytes
    labels: Mapping[str, str]
    templated: bool  # whether the negative prompt is to be rendered


# --- jobs


def expand(manifest: Manifest) -> Iterator[Job]:
    """Every job of a manifest, or of its shard, in its order; equal ones come as often as they are written."""
    shard = manifest.shard
    return expand_all(manifest) if shard is None else (job for job in expand_all(manifest) if shard.has(job.id))


def expand_all(manifest: Manifest) -> Iterator[Job]:
    """The jobs of all shards: the position of a job is the same whichever shard is asked for."""
    for block in (*manifest.blocks, *manifest.include):
        sample = block.sample
        for variant, request in _requested(manifest, block):
            if sample is not None and sample.bounds is not None:
                (first,) = _repeated(1, variant, request)
                if not sample.takes(first, rank(first.id, sample.seed)):
                    continue
            yield from _repeated(manifest.repeat, variant, request)


def _requested(manifest: Manifest, block: Block) -> Iterator[tuple[PromptVariant, _Request]]:
    """Every combination of a block that is not left out, in two halves."""
    own = block.axis_labels
    exclusions = [rule for rule in block.exclude if rule.texts.keys() - own]
    size = math.prod(len(axis.entries) for axis in block.axes)
    kept: dict[object, list[_Request]] = {}
    for variant in variants(block):
        active = [rule for rule in exclusions if matches_variant(rule, variant, own)]
        requests: Iterable[_Request]
        if size > _MOST_KEPT:
            requests = _requests(manifest, block, variant.sources)
        else:
            key = tuple(map(_values, variant.sources))
            if key not in kept:
                if len(kept) * size > _MOST_KEPT:
                    kept.clear()
                kept[key] = list(_requests(manifest, block, variant.sources))
            requests = kept[key]
        for request in requests:
            parameters, labels = request.parameters, request.labels
            if not (active and any(matches_parameters(rule, parameters, labels, own) for rule in active)):
                yield variant, request


def _requests(manifest: Manifest, block: Block, sources: Sequence[Settings]) -> Iterator[_Request]:
    """The combinations of a block's other axes that are neither excluded nor skipped."""
    own = block.axis_labels
    exclusions = [rule for rule in block.exclude if not rule.texts.keys() - own]
    for combination in combinations(manifest, block, *sources):
        parameters = combination.parameters
        if any(matches_parameters(rule, parameters, combination.labels, own) for rule in exclusions):
            continue
        if not _is_skipped(manifest, parameters, combination.settings):
            yield _request(parameters, combination.labels)


def _request(parameters: Parameters, labels: Mapping[str, str]) -> _Request:
    templated = templates.is_template(parameters.negative_prompt or "")
    return _Request(parameters, parameters.digest(), labels, templated)


def _is_skipped(manifest: Manifest, parameters: Parameters, settings: Settings) -> bool:
    """Whether `on_illegal: skip` leaves it out; with `error` it was refused when the manifest was loaded."""
    if manifest.on_illegal is not OnIllegal.SKIP:
        return False
    return bool(rules.broken(manifest, parameters, settings))


def _repeated(repeat: int, variant: PromptVariant, request: _Request) -> Iterator[Job]:
    parameters, digest = request.parameters, request.digest
    if request.templated:
        negative = render(parameters.negative_prompt or "", variant.values)
        parameters = replace(parameters, negative_prompt=negative if negative.strip() else None)
        digest = parameters.digest()
    labels = {**variant.labels, **request.labels} if request.labels else variant.labels
    for number in range(repeat):
        yield Job(
            id=job_id(variant.prompt, digest, number),
            prompt=variant.prompt,
            parameters=parameters,
            prompt_id=variant.prompt_id,
            repeat=number,
            labels=labels,
        )


# --- the two halves of the product


def combinations(manifest: Manifest, block: Block, *outer: Settings) -> Iterator[Combination]:
    """Every combination of a block's other axes, for prompts and vars that set `outer`."""
    for entries in product(*(axis.entries for axis in block.axes)):
        sources = (*outer, *(entry.settings for entry in entries if entry.settings))
        settings = dict(manifest.defaults)
        for source in sources:
            settings.update(source)
        labels = {axis.name: entry.id for axis, entry in zip(block.axes, entries, strict=True) if entry.id is not None}
        for entry in entries:
            labels.update(entry.labels)
        yield Combination(sources, settings, build(settings), labels)


def variants(block: Block) -> Iterator[PromptVariant]:
    """Every prompt with every combination of vars."""
    return (_variant(block, *choice) for choice in _choices(block))


def _choices(block: Block) -> Iterator[tuple[Prompts, int, tuple[Entry, ...]]]:
    for group in block.prompts:
        for number in range(len(group.texts)):
            for entries in product(*(axis.entries for axis in block.vars)):
                yield group, number, entries


def _variant(block: Block, group: Prompts, number: int, entries: tuple[Entry, ...]) -> PromptVariant:
    """One prompt of a group with one entry of each axis of vars."""
    text, name = group.texts[number], group.id_of(number)
    values: dict[str, str] = {}
    for entry in entries:
        values.update(entry.values)
    labels = {**block.labels, **group.labels_of(number), **values}
    for entry in entries:
        labels.update(entry.labels)
    if block.name is not None:
        labels = {"block": block.name, **labels}
    if own := {axis.name: entry.id for axis, entry in zip(block.vars, entries, strict=True) if entry.id is not None}:
        labels = {**labels, **own}
    if group.columns:
        values = {**group.values_of(number), **values}
    prompt = render(text, values)
    sources = tuple(s for s in (group.settings_of(number), *(entry.settings for entry in entries)) if s)
    return PromptVariant(text, prompt, slug(prompt) if name is None else name, sources, labels, values)


def render(text: str, values: Mapping[str, str]) -> str:
    """A prompt as it is sent. Raises TemplateInvalid."""
    return templates.read(text).render(values) if templates.is_template(text) else text


# --- kinds: a million variants are checked by the few that differ


def kinds(block: Block) -> list[VariantKind]:
    """The kinds of a block's variants; one by one only where exclusions look at prompts or vars."""
    rules = [rule for rule in block.exclude if rule.texts.keys() - block.axis_labels]
    found: dict[object, VariantKind] = {}
    for sources, excluded_by, count in _single_variants(block, rules) if rules else _counted_variants(block):
        key = (tuple(map(_values, sources)), excluded_by)
        found.setdefault(key, VariantKind(sources, excluded_by)).count += count
    return list(found.values())


def _counted_variants(block: Block) -> Iterator[tuple[tuple[Settings, ...], frozenset[NodePath], int]]:
    of_vars = [_counted_settings(entry.settings for entry in axis.entries) for axis in block.vars]
    for group in block.prompts:
        plain = len(group.texts) - len(group.row_settings)
        of_prompts = [(group.settings, plain)] if plain else []
        of_prompts += [(group.settings_of(number), 1) for number in group.row_settings]
        for combined in product(of_prompts, *of_vars):
            sources = tuple(settings for settings, _ in combined if settings)
            yield sources, frozenset(), math.prod(count for _, count in combined)


def _single_variants(
    block: Block, rules: Sequence[Exclusion]
) -> Iterator[tuple[tuple[Settings, ...], frozenset[NodePath], int]]:
    own = block.axis_labels
    for choice in _choices(block):
        try:
            variant = _variant(block, *choice)
        except (templates.TemplateInvalid, KeyError):
            continue  # reported already
        yield variant.sources, frozenset(rule.path for rule in rules if matches_variant(rule, variant, own)), 1


def _counted_settings(all_settings: Iterable[Settings]) -> list[tuple[Settings, int]]:
    counted: dict[object, tuple[Settings, int]] = {}
    for settings in all_settings:
        first, count = counted.get(key := _values(settings), (settings, 0))
        counted[key] = (first, count + 1)
    return list(counted.values())


def _values(settings: Settings) -> object:
    """What settings set, whatever set it."""
    return tuple(sorted((name, setting.value) for name, setting in settings.items())) if settings else ()
