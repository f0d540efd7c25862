"""The meaning of a manifest: templates, rules of models and accounts, settings that clash, paths that meet.

Works on combinations, not on jobs: prompts that set nothing of their own are one kind, however many they
are, so that a matrix of a million jobs is checked by its few hundred combinations.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from batchgen.jobs import Parameters
from batchgen.manifest import product, rules, sample, templates
from batchgen.manifest.diagnostics import cut, written_path
from batchgen.manifest.model import OnIllegal, Skipped, build
from batchgen.manifest.rendering import BlockTemplates, check_inclusion
from batchgen.storage import paths

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from batchgen.manifest.diagnostics import Faults
    from batchgen.manifest.model import (
        Block,
        Exclusion,
        Manifest,
        NodePath,
        Settings,
    )
    from batchgen.manifest.rules import Breach

MOST_OF_A_KIND = 20  # problems of one kind that are listed one by one
_MOST_PATHS = 2_000_000
_MOST_REASONS = 30  # for which combinations are left out

_Key: TypeAlias = tuple[tuple[tuple[str, object], ...], ...]


@dataclass(slots=True)
class _Group:
    """Prompts (with vars) that set the same and that the same exclusions match."""

    sources: tuple[Settings, ...]
    rules: frozenset[int]  # exclusions whose part about prompt and vars matches
    count: int = 0


@dataclass(slots=True)
class _Found:
    """One rule broken from one pair of places."""

    breach: Breach
    origins: tuple[NodePath | None, ...]
    values: dict[str, str]
    where: NodePath
    count: int = 0


@dataclass(slots=True, kw_only=True)
class Check:
    """One pass over a manifest. `quiet`: without warnings that another fault may be the cause of."""

    manifest: Manifest
    faults: Faults
    quiet: bool = False
    _used_rules: set[int] = field(default_factory=set)
    _found: dict[tuple[str, tuple[NodePath | None, ...]], _Found] = field(default_factory=dict)
    _clashes: Counter[tuple[str, NodePath, NodePath]] = field(default_factory=Counter)
    _most_images: int = 1
    _many_at: NodePath | None = None
    _left_out: dict[str, Skipped] = field(default_factory=dict)

    @property
    def left_out(self) -> tuple[Skipped, ...]:
        """What `on_illegal: skip` leaves out, the most first."""
        return tuple(sorted(self._left_out.values(), key=lambda found: -found.jobs))

    def run(self) -> None:
        """Everything, into the faults; samples are chosen before the paths of their jobs are looked at."""
        if not self._is_countable():
            return
        for block in self.manifest.blocks:
            BlockTemplates(self.manifest, block, self.faults, quiet=self.quiet).run()
        for job in self.manifest.include:
            check_inclusion(job, self.faults)
        if self.faults.errors and any(self._has_templates(block) for block in self.manifest.blocks):
            self.quiet = True
        for block in self.manifest.blocks:
            self._block(block)
        for job in self.manifest.include:
            self._examine(job.settings, job.path, self.manifest.repeat)
        self._report()
        if not self.faults.errors:
            self.manifest = replace(self.manifest, blocks=tuple(map(self._sampled, self.manifest.blocks)))
        self._paths()

    def _sampled(self, block: Block) -> Block:
        """The block with the rank up to which its sample goes."""
        chosen = block.sample
        if chosen is None or chosen.count >= math.prod(size for _, size in block.factors()):
            return block
        ids = product.ids_of_block(self.manifest, block)
        bound = sample.bound(ids, chosen.count, chosen.seed)
        return replace(block, sample=replace(chosen, bound=bound))

    def _is_countable(self) -> bool:
        """The number of jobs by arithmetic, before any is made."""
        manifest = self.manifest
        sums, total = [], 0
        for block in manifest.blocks:
            count, came_so = _counted(block)
            sums.append(came_so)
            total += count
        if manifest.include:
            sums.append(f"{len(manifest.include):,} of include")
            total += len(manifest.include)
        total *= manifest.repeat
        if total <= manifest.max_jobs:
            return self._is_sampleable()
        came = " + ".join(sums)
        if manifest.repeat > 1:
            came = (
                f"({came}) x {manifest.repeat:,} repeats" if len(sums) > 1 else f"{came} x {manifest.repeat:,} repeats"
            )
        message = f"The manifest asks for {came} = {total:,} jobs; max_jobs is {manifest.max_jobs:,}."
        raw = self.faults.document.value
        where: NodePath = ("max_jobs",) if "max_jobs" in raw else ("matrix",)
        hint = f"Shorten an axis, or write `max_jobs: {total}` if that many are meant."
        self.faults.add(where, message, hint, key=where == ("matrix",))
        return False

    def _is_sampleable(self) -> bool:
        """Whether what samples choose from can be looked through."""
        good = True
        for block in self.manifest.blocks:
            size = math.prod(size for _, size in block.factors())
            if block.sample is not None and size > sample.MOST_LOOKED_THROUGH:
                most = f"{sample.MOST_LOOKED_THROUGH:,}"
                message = f"The sample would be chosen from {_product(block)} = {size:,} jobs; {most} is the most."
                self.faults.add((*block.path, "sample"), message, "Shorten an axis.", key=True)
                good = False
        return good

    # --- combinations

    def _block(self, block: Block) -> None:
        whole = {number: rule for number, rule in enumerate(self.manifest.exclude) if not rule.is_of_parameters_only}
        groups = _groups(block, whole)
        if not groups and self.faults.errors:  # the prompts are faulty: look at the other axes all the same
            groups = [_Group((), frozenset(), 1)]
        for group in groups:
            for entries in itertools.product(*(axis.entries for axis in block.axes)):
                sources = [*group.sources, *(entry.settings for entry in entries if entry.settings)]
                self._combination(block, group, sources)

    def _combination(self, block: Block, group: _Group, sources: Sequence[Settings]) -> None:
        settings = dict(self.manifest.defaults)
        for source in sources:
            settings.update(source)
        clashing = _clashing(sources)
        if self._is_left_out(group, settings):
            return
        if clashing:
            other = dict(self.manifest.defaults)
            for source in reversed(sources):
                other.update(source)
            if self._is_left_out(group, other):
                return
            self._clashes.update((name, first, second) for name, first, second in clashing)
            return
        self._examine(settings, block.path, group.count * self.manifest.repeat)

    def _is_left_out(self, group: _Group, settings: Settings) -> bool:
        parameters = build(settings)
        left_out = False
        for number, rule in enumerate(self.manifest.exclude):
            of_group = rule.is_of_parameters_only or number in group.rules
            if of_group and product.matches_parameters(rule, parameters):
                self._used_rules.add(number)
                left_out = True
        return left_out

    def _examine(self, settings: Settings, where: NodePath, count: int) -> None:
        parameters = build(settings)
        account, units = self.manifest.rule_account, self.manifest.account.concurrency
        broken = list(rules.breaches(parameters, settings, account, units))
        if broken and self.manifest.on_illegal is OnIllegal.SKIP:
            self._leave_out(broken[0], settings, parameters, count)
            return
        if parameters.n > self._most_images:
            self._most_images = parameters.n
            self._many_at = settings["n"].path
        for breach in broken or rules.doubts(parameters):
            self._note(breach, settings, parameters, where, count)

    def _leave_out(self, breach: Breach, settings: Settings, parameters: Parameters, count: int) -> None:
        """Count what `on_illegal: skip` leaves out: under the first rule it breaks, so that the counts add up."""
        reason = breach.message if breach.message in self._left_out or len(self._left_out) < _MOST_REASONS else "others"
        if reason not in self._left_out:
            example = {name: _written(getattr(parameters, name)) for name in breach.of}
            paths_of = [settings[name].path for name in breach.of if name in settings]
            places = tuple(self.faults.document.place(path) for path in paths_of)
            self._left_out[reason] = Skipped(reason=reason, jobs=0, example=example, places=places)
        found = self._left_out[reason]
        self._left_out[reason] = replace(found, jobs=found.jobs + count)

    def _note(self, breach: Breach, settings: Settings, parameters: Parameters, where: NodePath, count: int) -> None:
        origins = tuple(settings[name].path if name in settings else None for name in breach.of)
        key = (breach.rule, origins)
        if key not in self._found:
            values = {n: _written(getattr(parameters, n)) for n in breach.of if getattr(parameters, n) is not None}
            self._found[key] = _Found(breach, origins, values, where)
        self._found[key].count += count

    # --- what is said of them

    def _report(self) -> None:
        for found in self._found.values():
            self._report_breach(found)
        for name, *both in list(self._clashes)[:MOST_OF_A_KIND]:
            first, second = sorted(both, key=self._order)
            message = f"`{name}` is set twice for one job: by {written_path(first)} and by {written_path(second)}."
            self.faults.add(second, message, "Keep one, or leave the combination out with `exclude`.", also=[first])
        if self.quiet or self._clashes or self.faults.errors:
            return
        for number, rule in enumerate(self.manifest.exclude):
            if number not in self._used_rules:
                hint = "Look at its spelling, or take it out."
                self.faults.add(rule.path, "This exclusion matches no job.", hint, warning=True)

    def _order(self, path: NodePath) -> tuple[int, int]:
        place = self.faults.document.place(path)
        return place.line, place.column

    def _report_breach(self, found: _Found) -> None:
        breach = found.breach
        known = [path for path in found.origins if path is not None]
        place = known[0] if known else found.where
        jobs = f" ({found.count:,} jobs)" if found.count > 1 else ""
        hint = breach.hint
        if not breach.soft and len(breach.of) > 1 and any(path[0] == "matrix" for path in known):
            hint = f"{hint} {self._cure(found)}".strip()
        also = [path for path in known[1:] if path != place]
        self.faults.add(place, breach.message + jobs, hint, also=also, warning=breach.soft)

    def _cure(self, found: _Found) -> str:
        """The exclusion that would leave the combination out."""
        keys = []
        for name, path in zip(found.breach.of, found.origins, strict=True):
            if name in found.values and (path is None or path[0] == "matrix"):
                keys.append(f"{name}: {self._value_text(name, path, found.values[name])}")
        return f"Or leave it out: exclude: [{{{', '.join(keys)}}}], or on_illegal: skip."

    def _value_text(self, name: str, path: NodePath | None, value: str) -> str:
        """As written, which for an image and a prompt is what an exclusion compares."""
        text = value
        if path is not None and name in {"image", "negative_prompt"}:
            text = self.faults.document.written(path) or value
        plain = text.replace(":", "").replace("-", "").replace(".", "").replace("/", "").replace("_", "")
        return text if plain.isalnum() else f'"{cut(text)}"'

    def _has_templates(self, block: Block) -> bool:
        return any(templates.is_template(text) for group in block.prompts for text in group.texts)

    # --- paths

    def _paths(self) -> None:
        template = self.manifest.output_path
        at: NodePath = ("output", "path")
        if self._most_images > 1 and "index" not in template.fields:
            message = f"The path cannot tell the {self._most_images} images of one task apart."
            also = [self._many_at] if self._many_at else []
            self.faults.add(at, message, "Put {index} into it.", also=also)
        if "job_id" in template.fields or self.faults.errors:
            return
        seen: dict[str, tuple[str, str, str]] = {}
        for job in itertools.islice(product.expand(self.manifest), _MOST_PATHS):
            path = template.render(job, 0, ".png")
            name = paths.folded(path)
            other = seen.setdefault(name, (job.id, job.prompt, _written(job.parameters)))
            if other[0] != job.id:
                first = f'"{cut(other[1], 40)}" ({other[2]})'
                second = f'"{cut(job.prompt, 40)}" ({_written(job.parameters)})'
                message = f"Two jobs would write {path}: {first} and {second}."
                self.faults.add(at, message, "Put {job_id} into the path, or what tells them apart.")
                return


def _product(block: Block) -> str:
    """How the number of a block's jobs comes about: `2 prompt x 3 model`."""
    shown = [f"{size:,} {name}" for name, size in block.factors() if size != 1] or ["1 job"]
    return " x ".join(shown)


def _counted(block: Block) -> tuple[int, str]:
    """How many jobs a block asks for at most, and how that came about."""
    count, shown = math.prod(size for _, size in block.factors()), _product(block)
    if block.sample is not None and block.sample.count < count:
        count = block.sample.count
        shown = f"a sample of {count:,} from ({shown})"
    return count, shown if block.name is None else f"{shown} ({cut(block.name, 30)})"


def _written(value: object) -> str:
    if isinstance(value, Parameters):
        return f"{value.model}, {value.aspect_ratio}, {value.resolution}"
    return str(getattr(value, "url", None) or getattr(value, "path", None) or value)


def _clashing(sources: Sequence[Settings]) -> list[tuple[str, NodePath, NodePath]]:
    """Parameters that two sources set."""
    seen: dict[str, NodePath] = {}
    found = []
    for source in sources:
        for name, setting in source.items():
            if name in seen:
                found.append((name, seen[name], setting.path))
            else:
                seen[name] = setting.path
    return found


def _groups(block: Block, whole: Mapping[int, Exclusion]) -> list[_Group]:
    groups: dict[tuple[_Key, frozenset[int]], _Group] = {}
    for sources, matched, count in _outers(block, whole):
        key = (tuple(product.settings_key(source) for source in sources), matched)
        group = groups.setdefault(key, _Group(sources, matched))
        group.count += count
    return list(groups.values())


def _outers(block: Block, whole: Mapping[int, Exclusion]) -> Iterator[tuple[tuple[Settings, ...], frozenset[int], int]]:
    """What prompts and vars set; one by one only where exclusions look at them."""
    if not whole:
        kinds = [_kinds(entry.settings for entry in axis.entries) for axis in block.vars]
        for group in block.prompts:
            rows = len(group.texts) - len(group.row_settings)
            prompts = [(group.settings, rows)] if rows else []
            prompts += [(group.settings_of(number), 1) for number in group.row_settings]
            for combination in itertools.product(prompts, *kinds):
                sources = tuple(settings for settings, _ in combination if settings)
                yield sources, frozenset(), math.prod(count for _, count in combination)
        return
    for group in block.prompts:
        for number in range(len(group.texts)):
            for entries in itertools.product(*(axis.entries for axis in block.vars)):
                try:
                    outer = product.outer_of(block, group, number, entries)
                except (templates.TemplateFault, KeyError):
                    continue  # said already
                matched = frozenset(n for n, rule in whole.items() if product.matches_outer(rule, outer))
                own = (group.settings_of(number), *(entry.settings for entry in entries))
                yield tuple(settings for settings in own if settings), matched, 1


def _kinds(all_settings: Iterable[Settings]) -> list[tuple[Settings, int]]:
    kinds: dict[object, tuple[Settings, int]] = {}
    for settings in all_settings:
        key = product.settings_key(settings)
        first, count = kinds.get(key, (settings, 0))
        kinds[key] = (first, count + 1)
    return list(kinds.values())
