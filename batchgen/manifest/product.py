"""The product of a manifest's axes: every job, one after the other, none held.

Prompts vary slowest, then vars, then the other axes in the order written, then repeats. What does not
depend on the prompt (parameters, their digest, what is left out) is computed once a combination.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from batchgen.jobs import Job, Parameters, job_id
from batchgen.manifest import rules, templates, wildcards
from batchgen.manifest.model import OnIllegal, build
from batchgen.manifest.sample import rank

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from batchgen.manifest.model import (
        Block,
        Entry,
        Exclusion,
        Manifest,
        Match,
        Prompts,
        Setting,
        Settings,
    )
    from batchgen.source.document import Value

_MOST_KEPT = 50_000  # combinations kept for the prompts that share them
_SLUG_CHARACTERS = 40
_WORDS = re.compile(r"[a-z0-9]+")


@lru_cache(maxsize=4096)
def slug(prompt: str) -> str:
    """A name from a prompt's first 40 characters: lower-case ASCII words joined by `-`."""
    text = prompt[:_SLUG_CHARACTERS]
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    text = text.lower()
    return "-".join(_WORDS.findall(text)) or "prompt"


@dataclass(frozen=True, slots=True)
class PromptVariant:
    """One prompt with one combination of vars: what the other axes are combined with."""

    text: str  # as written, a template or not
    prompt: str  # rendered
    prompt_id: str
    settings: Settings
    labels: Mapping[str, str]  # as paths name them
    values: Mapping[str, str]  # of vars, as prompts have them


@dataclass(frozen=True, slots=True)
class Combination:
    """One combination of the other axes."""

    parameters: Parameters
    digest: bytes
    labels: Mapping[str, str]
    templated: bool  # whether the negative prompt is to be rendered


def expand(manifest: Manifest) -> Iterator[Job]:
    """Every job of a manifest in its order; equal ones come as often as they are written."""
    for block in manifest.blocks:
        yield from of_block(manifest, block)
    for job in manifest.include:
        outer = included_outer(job.prompt, job.id, job.vars)
        combination = _combination(job.settings, {})
        if not _is_illegal(manifest, combination.parameters, job.settings):
            yield from _repeated(manifest.repeat, outer, combination)


def included_outer(prompt: str, name: str | None, values: Mapping[str, str]) -> PromptVariant:
    """The prompt of a job of its own."""
    rendered = render(prompt, values)
    return PromptVariant(prompt, rendered, slug(rendered) if name is None else name, {}, values, values)


def of_block(manifest: Manifest, block: Block) -> Iterator[Job]:
    """Every job of one block, or of its sample."""
    sample = block.sample
    for outer, combination in _pairs(manifest, block):
        if sample is not None and sample.bound is not None:
            first = next(_repeated(1, outer, combination))
            if rank(first.id, sample.seed) > sample.bound:
                continue
        yield from _repeated(manifest.repeat, outer, combination)


def ids_of_block(manifest: Manifest, block: Block) -> Iterator[str]:
    """The id of the first repeat of every job of a block, whatever its sample."""
    for outer, combination in _pairs(manifest, block):
        yield next(_repeated(1, outer, combination)).id


def _pairs(manifest: Manifest, block: Block) -> Iterator[tuple[PromptVariant, Combination]]:
    """Every combination of a block that is not left out, in two halves."""
    whole = [rule for rule in manifest.exclude if not rule.is_of_parameters_only]
    size = len(list(itertools.islice(itertools.product(*(a.entries for a in block.axes)), _MOST_KEPT + 1)))
    kept: dict[tuple[tuple[str, object], ...], list[Combination]] = {}
    for outer in outers(block):
        active = [rule for rule in whole if matches_outer(rule, outer)]
        key = settings_key(outer.settings)
        combinations: Iterator[Combination] | list[Combination]
        if size > _MOST_KEPT:
            combinations = _combinations(manifest, block, outer.settings)
        else:
            if key not in kept:
                if len(kept) * size > _MOST_KEPT:
                    kept.clear()
                kept[key] = list(_combinations(manifest, block, outer.settings))
            combinations = kept[key]
        for combination in combinations:
            if active and any(matches_parameters(rule, combination.parameters) for rule in active):
                continue
            yield outer, combination


def _repeated(repeat: int, outer: PromptVariant, combination: Combination) -> Iterator[Job]:
    parameters, digest = combination.parameters, combination.digest
    if combination.templated:
        negative = render(parameters.negative_prompt or "", outer.values)
        parameters = replace(parameters, negative_prompt=negative if negative.strip() else None)
        digest = parameters.digest()
    labels = {**outer.labels, **combination.labels} if combination.labels else outer.labels
    for number in range(repeat):
        yield Job(
            id=job_id(outer.prompt, digest, number),
            prompt=outer.prompt,
            parameters=parameters,
            prompt_id=outer.prompt_id,
            repeat=number,
            labels=labels,
        )


def _combinations(manifest: Manifest, block: Block, outer: Settings) -> Iterator[Combination]:
    """The combinations of a block's other axes that are neither excluded nor, with `skip`, illegal."""
    simple = [rule for rule in manifest.exclude if rule.is_of_parameters_only]
    for entries in itertools.product(*(axis.entries for axis in block.axes)):
        settings = merged(manifest.defaults, outer, entries)
        labels = {axis.name: entry.id for axis, entry in zip(block.axes, entries, strict=True) if entry.id is not None}
        combination = _combination(settings, labels)
        if any(matches_parameters(rule, combination.parameters) for rule in simple):
            continue
        if not _is_illegal(manifest, combination.parameters, settings):
            yield combination


def _combination(settings: Settings, labels: Mapping[str, str]) -> Combination:
    parameters = build(settings)
    templated = templates.is_template(parameters.negative_prompt or "")
    return Combination(parameters, parameters.digest(), labels, templated)


def _is_illegal(manifest: Manifest, parameters: Parameters, settings: Settings) -> bool:
    if manifest.on_illegal is not OnIllegal.SKIP:
        return False  # it was refused when the manifest was read
    account, units = manifest.rule_account, manifest.account.concurrency
    return next(rules.breaches(parameters, settings, account, units), None) is not None


def merged(defaults: Settings, outer: Settings, entries: Sequence[Entry]) -> dict[str, Setting]:
    """The settings of a combination: entries are stronger than defaults."""
    settings = {**defaults, **outer}
    for entry in entries:
        settings.update(entry.settings)
    return settings


def settings_key(settings: Settings) -> tuple[tuple[str, object], ...]:
    """What settings set, whoever set it."""
    return tuple(sorted((name, setting.value) for name, setting in settings.items())) if settings else ()


def outers(block: Block) -> Iterator[PromptVariant]:
    """Every prompt with every combination of vars."""
    bare = block.name is None and all(e.id is None and not e.settings for axis in block.vars for e in axis.entries)
    for group in block.prompts:
        for number in range(len(group.texts)):
            combined = itertools.product(*(axis.entries for axis in block.vars))
            if bare and not group.columns:
                yield from _bare_outers(group, number, combined)
            else:
                for entries in combined:
                    yield outer_of(block, group, number, entries)


def _bare_outers(group: Prompts, number: int, combined: Iterable[tuple[Entry, ...]]) -> Iterator[PromptVariant]:
    """As `outer_of`, for vars that are texts and nothing else: most are, and may be a million."""
    text, settings, name = group.texts[number], group.settings_of(number), group.id_of(number)
    template = templates.read(text) if templates.is_template(text) else None
    for entries in combined:
        values: dict[str, str] = {}
        for entry in entries:
            values |= entry.values
        prompt = text if template is None else template.render(values)
        yield PromptVariant(text, prompt, slug(prompt) if name is None else name, settings, values, values)


def outer_of(block: Block, group: Prompts, number: int, entries: Sequence[Entry]) -> PromptVariant:
    """One prompt of a group with one entry of each axis of vars."""
    text = group.texts[number]
    settings = group.settings_of(number)
    values: dict[str, str] = {}
    for entry in entries:
        values.update(entry.values)
        if entry.settings:
            settings = {**settings, **entry.settings}
    labels = values
    own = {axis.name: entry.id for axis, entry in zip(block.vars, entries, strict=True) if entry.id is not None}
    if own or block.name is not None:
        labels = {**values, **own} if block.name is None else {"block": block.name, **values, **own}
    if group.columns:
        values = {**group.values_of(number), **values}
    prompt = render(text, values)
    name = group.id_of(number)
    return PromptVariant(text, prompt, slug(prompt) if name is None else name, settings, labels, values)


def render(text: str, values: Mapping[str, str]) -> str:
    """A prompt as it is sent. Raises TemplateFault."""
    return templates.read(text).render(values) if "{{" in text or "{%" in text else text


# --- exclusions ---------------------------------------------------------------------------------------------


def matches_outer(rule: Exclusion, outer: PromptVariant) -> bool:
    """Whether the part of a rule that is about prompt and vars matches."""
    if rule.prompt_id is not None and not _any_text(rule.prompt_id, outer.prompt_id):
        return False
    if rule.prompt is not None and not (_any_text(rule.prompt, outer.text) or _any_text(rule.prompt, outer.prompt)):
        return False
    return all(
        name in outer.labels
        and (_any_text(matches, outer.labels[name]) or _any_text(matches, outer.values.get(name, outer.labels[name])))
        for name, matches in rule.vars.items()
    )


def matches_parameters(rule: Exclusion, parameters: Parameters) -> bool:
    """Whether the part of a rule that is about parameters matches."""
    return all(
        any(_is_match(match, getattr(parameters, name)) for match in matches)
        for name, matches in rule.parameters.items()
    )


def _is_match(match: Match, value: Value) -> bool:
    if value is None or match.value is None:
        return value is None and match.value is None
    if isinstance(value, bool) or isinstance(match.value, bool):
        return value is match.value
    if isinstance(value, (int, float)):
        return isinstance(match.value, (int, float)) and bool(value == match.value)
    if isinstance(value, str):
        return wildcards.matches(match.text, value)
    return wildcards.matches(match.text, value.url or value.path or "")


def _any_text(matches: Sequence[Match], text: str) -> bool:
    return any(wildcards.matches(match.text, text) for match in matches)
