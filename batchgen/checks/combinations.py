"""What the combinations of a manifest mean: rules of models and accounts, settings that clash, paths that collide.

Works on combinations, not on jobs: prompts that set nothing of their own are one kind, however many there are, so that
a matrix of a million jobs is checked by its few hundred combinations.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from batchgen.checks.forms import check_forms
from batchgen.checks.templates import MOST_OF_A_KIND, check_block
from batchgen.manifest import pools, rules
from batchgen.manifest.diagnostics import cut, listed, written_path
from batchgen.manifest.model import OnIllegal, Skipped, build
from batchgen.matrix import expand, sample
from batchgen.matrix.exclusions import matches_parameters
from batchgen.storage import paths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchgen.jobs import Parameters
    from batchgen.manifest.diagnostics import Diagnostics
    from batchgen.manifest.model import Block, Manifest, NodePath, Settings
    from batchgen.manifest.rules import Violation
    from batchgen.matrix.expand import Combination, VariantKind

_Rule: TypeAlias = "tuple[str, tuple[NodePath | None, ...]]"

_MOST_PATHS = 2_000_000
_MOST_REASONS = 30  # for which combinations are skipped


def check(manifest: Manifest, diagnostics: Diagnostics) -> Manifest:
    """The manifest with what only its combinations tell: the bounds of samples, and what is skipped.

    Adds every error and warning to `diagnostics`; warnings that an earlier error may have caused are left out.
    """
    found = _Check(manifest=manifest, diagnostics=diagnostics)
    found.run()
    skipped = sorted(found.skipped.values(), key=lambda group: -group.jobs)
    return replace(found.manifest, skipped=tuple(skipped))


@dataclass(slots=True, kw_only=True)
class _Check:
    """One pass over a manifest."""

    manifest: Manifest
    diagnostics: Diagnostics
    skipped: dict[str, Skipped] = field(default_factory=dict)  # by reason
    _used_exclusions: set[NodePath] = field(default_factory=set)
    # Rules broken by values from the same places (None: a default of the API): the first time, and how often.
    _broken: dict[_Rule, tuple[Violation, Parameters, NodePath]] = field(default_factory=dict)
    _times: Counter[_Rule] = field(default_factory=Counter)
    _clashes: Counter[tuple[str, NodePath, NodePath]] = field(default_factory=Counter)
    _able: set[str] = field(default_factory=set)  # accounts of a pool that can make one of the jobs
    _unable: dict[str, tuple[Violation, str]] = field(default_factory=dict)  # others: what the first job breaks, model
    _axis_labels: frozenset[str] = frozenset()  # of the block that is looked at
    _most_images: int = 1
    _many_at: NodePath | None = None

    def run(self) -> None:
        """Everything; samples are chosen before the paths of their jobs are compared."""
        if not self._is_countable():
            return
        quiet = bool(self.diagnostics.errors)
        for block in self.manifest.blocks:
            check_block(self.manifest, block, self.diagnostics, quiet=quiet)
            check_forms(block, self.diagnostics)
        for job in self.manifest.include:
            check_block(self.manifest, job, self.diagnostics, quiet=True)
        for block in (*self.manifest.blocks, *self.manifest.include):
            self._block(block)
        self._report(quiet=quiet)
        if not self.diagnostics.errors:
            self.manifest = replace(self.manifest, blocks=tuple(map(self._sampled, self.manifest.blocks)))
        self._paths()

    def _sampled(self, block: Block) -> Block:
        """The block with the highest rank that is in its sample."""
        chosen = block.sample
        if chosen is None or chosen.count >= _size(block):
            return block
        alone = replace(self.manifest, blocks=(block,), include=(), repeat=1)
        jobs = expand.expand(alone)
        if chosen.by is None:
            bound = sample.bound((job.id for job in jobs), chosen.count, chosen.seed)
            return replace(block, sample=replace(chosen, bounds=None if bound is None else {"": bound}))
        bounds = sample.bounds(((job.id, chosen.value_of(job)) for job in jobs), chosen.count, chosen.seed)
        return replace(block, sample=replace(chosen, bounds=bounds))

    # --- how many

    def _is_countable(self) -> bool:
        """Whether there are at most `max_jobs`, by arithmetic, and no sample has too many to choose from."""
        manifest = self.manifest
        total = sum(_count(block) for block in manifest.blocks) + len(manifest.include)
        total *= manifest.repeat
        if total <= manifest.max_jobs:
            sampleable = [self._is_sampleable(block) for block in manifest.blocks]  # each reports its own error
            return all(sampleable)
        sums = [_explained_count(block) for block in manifest.blocks]
        sums += [f"{len(manifest.include):,} of include"] if manifest.include else []
        explanation = " + ".join(sums)
        if manifest.repeat > 1:
            explanation = f"({explanation})" if len(sums) > 1 else explanation
            explanation += f" x {manifest.repeat:,} repeats"
        message = f"The manifest asks for {explanation} = {total:,} jobs; max_jobs is {manifest.max_jobs:,}."
        is_given = "max_jobs" in self.diagnostics.document.value
        hint = f"Shorten an axis, or write `max_jobs: {total}` if that many are meant."
        self.diagnostics.add(("max_jobs",) if is_given else ("matrix",), message, hint, key=not is_given)
        return False

    def _is_sampleable(self, block: Block) -> bool:
        size, most = _size(block), sample.MOST_RANKED
        if block.sample is None or size <= most:
            return True
        message = f"The sample would be chosen from {_factors(block)} = {size:,} jobs; {most:,} is the most."
        self.diagnostics.add((*block.path, "sample"), message, "Shorten an axis.", key=True)
        return False

    # --- combinations

    def _block(self, block: Block) -> None:
        self._axis_labels = block.axis_labels
        kinds = expand.kinds(block)
        if not kinds and self.diagnostics.errors:  # the prompts have errors: check the other axes all the same
            kinds = [expand.VariantKind((), frozenset(), 1)]
        for kind in kinds:
            for combination in expand.combinations(self.manifest, block, *kind.sources):
                self._combination(block, kind, combination)

    def _combination(self, block: Block, kind: VariantKind, combination: Combination) -> None:
        if self._is_excluded(block, kind, combination, combination.parameters):
            return
        if not (clashing := _clashing(combination.sources)):
            count = kind.count * self.manifest.repeat
            self._examine(combination.parameters, combination.settings, block.path, count)
            return
        other = dict(self.manifest.defaults)
        for source in reversed(combination.sources):
            other.update(source)
        if not self._is_excluded(block, kind, combination, build(other)):
            self._clashes.update(clashing)

    def _is_excluded(self, block: Block, kind: VariantKind, combination: Combination, parameters: Parameters) -> bool:
        own = self._axis_labels
        matching = {
            rule.path
            for rule in block.exclude
            if (rule.path in kind.excluded_by or not rule.texts.keys() - own)
            and matches_parameters(rule, parameters, combination.labels, own)
        }
        self._used_exclusions |= matching
        return bool(matching)

    def _examine(self, parameters: Parameters, settings: Settings, where: NodePath, count: int) -> None:
        broken = rules.broken(self.manifest, parameters, settings)
        self._note_able(parameters)
        if broken and self.manifest.on_illegal is OnIllegal.SKIP:
            self._skip(broken[0], parameters, settings, count)
            return
        if parameters.n > self._most_images:
            self._most_images = parameters.n
            self._many_at = settings["n"].path
        for violation in broken or rules.doubts(parameters):
            origins = tuple(settings[name].path if name in settings else None for name in violation.of)
            self._broken.setdefault((violation.rule, origins), (violation, parameters, where))
            self._times[violation.rule, origins] += count

    def _note_able(self, parameters: Parameters) -> None:
        """Which accounts of a pool can make anything, and why the others cannot."""
        for account in self.manifest.rule_accounts if len(self.manifest.rule_accounts) > 1 else ():
            if account.name in self._able:
                continue
            why = next(rules.why_not(account, parameters, self.manifest.asked), None)
            if why is None:
                self._able.add(account.name)
            else:
                self._unable.setdefault(account.name, (why, parameters.model))

    def _report_unable(self) -> None:
        """An account of a pool that can make none of the jobs is a mistake: mostly it calls their model otherwise."""
        at = dict(pools.names(self.diagnostics.document.value))
        for account in self.manifest.rule_accounts:
            if account.name in self._able or account.name not in self._unable:
                continue
            why, model = self._unable[account.name]
            hint = "Take it out of the pool."
            if why.rule in {"model", "no model"}:
                hint = (
                    "If it has the same model under another name, say so: providers:"
                    f" {{{account.name}: {{model_names: {{{model}: NAME}}}}}}. It has {listed(account.models)}."
                )
            message = f"The account `{account.name}` of the pool can make none of the jobs: {why.message}"
            self.diagnostics.add(at[account.name], message, hint)

    def _skip(self, violation: Violation, parameters: Parameters, settings: Settings, count: int) -> None:
        """Count what is skipped: under the first rule it breaks, so that the counts add up."""
        reason = violation.message
        if reason not in self.skipped and len(self.skipped) >= _MOST_REASONS:
            reason = "others"
        if reason not in self.skipped:
            example = {name: str(parameters.named(name)) for name in violation.of}
            origins = [settings[name].path for name in violation.of if name in settings]
            places = tuple(self.diagnostics.document.place(path) for path in origins)
            self.skipped[reason] = Skipped(reason=reason, jobs=0, example=example, places=places)
        found = self.skipped[reason]
        self.skipped[reason] = replace(found, jobs=found.jobs + count)

    # --- what is reported of them

    def _report(self, *, quiet: bool) -> None:
        for key, (violation, parameters, where) in self._broken.items():
            if quiet and not any(key[1]):
                continue  # a default breaks it: in place of a value, it may be, that was refused
            self._report_broken(violation, key[1], parameters, where, self._times[key])
        for name, *both in list(self._clashes)[:MOST_OF_A_KIND]:
            first, second = sorted(both, key=self._order)
            message = f"`{name}` is set twice for one job: by {written_path(first)} and by {written_path(second)}."
            self.diagnostics.add(
                second, message, "Keep one, or leave the combination out with `exclude`.", also=[first]
            )
        if self.diagnostics.errors:
            return
        self._report_unable()
        for rule in self.manifest.exclude:
            if rule.path not in self._used_exclusions:
                hint = "Check its spelling, or remove it."
                self.diagnostics.add(rule.path, "This exclusion matches no job.", hint, warning=True)

    def _order(self, path: NodePath) -> tuple[int, int]:
        place = self.diagnostics.document.place(path)
        return place.line, place.column

    def _report_broken(
        self,
        violation: Violation,
        origins: Sequence[NodePath | None],
        parameters: Parameters,
        where: NodePath,
        count: int,
    ) -> None:
        known = [path for path in origins if path is not None]
        place = known[0] if known else where
        jobs = f" ({count:,} jobs)" if count > 1 else ""
        hint = violation.hint
        if not violation.soft and len(violation.of) > 1 and any(path[0] == "matrix" for path in known):
            keys = [  # of the exclusion that would leave the combination out
                f"{name}: {self._value_text(name, path, str(value))}"
                for name, path in zip(violation.of, origins, strict=True)
                if (value := parameters.named(name)) is not None and (path is None or path[0] == "matrix")
            ]
            hint = f"{hint} Or leave it out: exclude: [{{{', '.join(keys)}}}], or on_illegal: skip.".strip()
        also = [path for path in known[1:] if path != place]
        self.diagnostics.add(place, violation.message + jobs, hint, also=also, warning=violation.soft)

    def _value_text(self, name: str, path: NodePath | None, value: str) -> str:
        """As written, which for an image and a prompt is what an exclusion compares."""
        text = value
        if path is not None and name in {"image", "negative_prompt"}:
            text = self.diagnostics.document.written(path) or value
        plain = text.translate(_PUNCTUATION)
        return text if plain.isalnum() else f'"{cut(text)}"'

    # --- paths

    def _paths(self) -> None:
        template = self.manifest.output_path
        at: NodePath = ("output", "path")
        if self._most_images > 1 and "index" not in template.fields:
            message = f"The path cannot tell the {self._most_images} images of one task apart."
            also = [self._many_at] if self._many_at else []
            self.diagnostics.add(at, message, "Put {index} into it.", also=also)
        if "job_id" in template.fields or self.diagnostics.errors:
            return
        seen: dict[str, tuple[str, str]] = {}
        repeats = self.manifest.repeat > 1 and "repeat" not in template.fields
        for job in islice(expand.expand(self.manifest), _MOST_PATHS):
            path = template.render(job, 0, ".png")
            shown = _shown(job.prompt, job.parameters)
            other = seen.setdefault(paths.folded(path), (job.id, shown))
            if other[0] == job.id:
                continue
            if repeats and job.repeat and other[1] == shown:
                message = f"The {self.manifest.repeat} repeats of a job would all write {path}."
                self.diagnostics.add(at, message, "Put {repeat} or {job_id} into the path.", also=[("repeat",)])
            else:
                message = f"Two jobs would write {path}: {other[1]} and {shown}."
                hint = "Put {job_id} into the path, or another placeholder in which they differ."
                self.diagnostics.add(at, message, hint)
            return


_PUNCTUATION = str.maketrans("", "", ":-./_")


def _size(block: Block) -> int:
    """How many combinations a block has, whatever its sample."""
    return math.prod(size for _, size in block.factors())


def _count(block: Block) -> int:
    """How many jobs a block asks for at most."""
    return _size(block) if block.sample is None else min(_size(block), block.sample.count)


def _factors(block: Block) -> str:
    """The sizes of a block's axes: `2 prompt x 3 model`."""
    shown = [f"{size:,} {name}" for name, size in block.factors() if size != 1] or ["1 job"]
    return " x ".join(shown)


def _explained_count(block: Block) -> str:
    """How the number of a block's jobs is computed."""
    shown = _factors(block)
    if _count(block) < _size(block):
        shown = f"a sample of {_count(block):,} from ({shown})"
    return shown if block.name is None else f"{shown} ({cut(block.name, 30)})"


def _shown(prompt: str, parameters: Parameters) -> str:
    return f'"{cut(prompt, 40)}" ({parameters.model}, {parameters.aspect_ratio}, {parameters.resolution})'


def _clashing(sources: Sequence[Settings]) -> list[tuple[str, NodePath, NodePath]]:
    """Parameters that two sources set."""
    seen: dict[str, NodePath] = {}
    found = []
    for name, setting in (pair for source in sources for pair in source.items()):
        first = seen.setdefault(name, setting.path)
        if first != setting.path:
            found.append((name, first, setting.path))
    return found
