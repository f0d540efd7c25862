"""The templates of a manifest: read, and rendered once for each combination of the vars they use."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

from batchgen.errors import SourceLocation
from batchgen.manifest import templates
from batchgen.manifest.diagnostics import cut, listed, nearest
from batchgen.manifest.texts import fault_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from batchgen.manifest.diagnostics import Faults
    from batchgen.manifest.model import Axis, Block, Inclusion, Manifest, NodePath, Prompts, Settings

_MOST_OF_A_KIND = 20  # problems of one kind that are listed one by one


def check_inclusion(job: Inclusion, faults: Faults) -> None:
    """The templates of a job of its own."""
    texts = [(job.prompt, (*job.path, "prompt"), False)]
    negative = job.settings.get("negative_prompt")
    if negative is not None and negative.value is not None:
        texts.append((negative.value, negative.path, True))
    for text, path, may_be_empty in texts:
        if templates.is_template(text):
            _render_included(job, text, path, faults, may_be_empty=may_be_empty)


def _render_included(job: Inclusion, text: str, path: NodePath, faults: Faults, *, may_be_empty: bool) -> None:
    try:
        template = templates.read(text)
        if missing := sorted(template.names - job.vars.keys()):
            faults.add(path, *_undefined(missing[0], job.vars), also=[job.path])
            return
        rendered = template.render(job.vars)
    except templates.TemplateFault as fault:
        faults.add(path, str(fault))
        return
    fault_found = fault_of(rendered, rendered=True)
    if fault_found and not (may_be_empty and not rendered.strip()):
        faults.add(path, *fault_found)


class BlockTemplates:
    """Those of one block."""

    def __init__(self, manifest: Manifest, block: Block, faults: Faults, *, quiet: bool) -> None:
        self.manifest, self.block, self.faults, self.quiet = manifest, block, faults, quiet
        self._used: set[str] = set()
        self._said: Counter[str] = Counter()

    def run(self) -> None:
        """Check all of them."""
        for group in self.block.prompts:
            if group.columns:
                self._filled(group)
                continue
            for number, text in enumerate(group.texts):
                if "{{" in text or "{%" in text:
                    self._text(text, group, number)
        for settings in self._all_settings():
            negative = settings.get("negative_prompt")
            if negative is not None and negative.value and templates.is_template(negative.value):
                self._check(negative.value, negative.path, None, may_be_empty=True)
        if not self.quiet and not self._said:
            self._unused()

    def _all_settings(self) -> Iterator[Settings]:
        block = self.block
        sets_negative = any(axis.name == "negative_prompt" for axis in block.axes)
        if not sets_negative:
            yield self.manifest.defaults
        for group in block.prompts:
            if not group.columns:  # a table's columns may stand in it
                yield group.settings
            yield from group.row_settings.values()
        for axis in (*block.vars, *block.axes):
            for entry in axis.entries:
                yield entry.settings

    def _text(self, text: str, group: Prompts, number: int) -> None:
        place = None
        if group.file is not None:
            place = SourceLocation(file=group.file, line=group.lines[number] if group.lines is not None else 0)
        self._check(text, group.path_of(number), place, may_be_empty=False)

    def _filled(self, group: Prompts) -> None:
        """A template that the rows of a table fill, and the negative prompt beside it."""
        texts = [(group.texts[0], (*group.path, "prompt"), False)]
        negative = group.settings.get("negative_prompt")
        if negative is not None and negative.value and templates.is_template(negative.value):
            texts.append((negative.value, negative.path, True))
        for text, path, may_be_empty in texts:
            try:
                template = templates.read(text)
            except templates.TemplateFault as fault:
                self._say(path, None, str(fault), "")
                continue
            self._used |= template.names
            if self._are_known(template.names, group, path):
                self._fill(template, group, path, may_be_empty=may_be_empty)

    def _are_known(self, names: frozenset[str], group: Prompts, path: NodePath) -> bool:
        """Whether each name is a column or a var, and none both."""
        known = self._vars()
        header = SourceLocation(file=group.file or "", line=1)
        for name in sorted(names & known.keys() & set(group.columns)):
            message = f"`{name}` is a column of {group.file} and a var: which of them is meant?"
            self._say(path, None, message, "Call the var otherwise.", [known[name].path, header])
        missing = sorted(names - known.keys() - set(group.columns))
        for name in missing:
            words = [*group.header, *known]
            guess = nearest(name, words)
            hint = f"Did you mean {{{{ {guess} }}}}? " if guess else ""
            there = listed(f"`{cut(word, 30)}`" for word in group.header)
            self._say(
                path, None, f"There is no column and no var `{name}`.", f"{hint}The columns are {there}.", [header]
            )
        return not missing and not names & known.keys() & set(group.columns)

    def _fill(self, template: templates.Template, group: Prompts, path: NodePath, *, may_be_empty: bool) -> None:
        known = self._vars()
        axes = {id(known[name]): known[name] for name in sorted(template.names & known.keys())}
        said = 0
        for number in range(len(group.texts)):
            line = group.lines[number] if group.lines is not None else 0
            place = SourceLocation(file=group.file or "", line=line)
            before = self._said.total()
            self._render(template, list(axes.values()), path, place, may_be_empty, group.values_of(number))
            said += self._said.total() > before
            if said >= _MOST_OF_A_KIND:
                return

    def _vars(self) -> dict[str, Axis]:
        return {name: axis for axis in self.block.vars for name in axis.vars}

    def _check(self, text: str, path: NodePath, place: SourceLocation | None, *, may_be_empty: bool) -> None:
        known = self._vars()
        try:
            template = templates.read(text)
            if missing := sorted(template.names - known.keys()):
                self._used |= template.names
                for name in missing:
                    self._say(path, place, *_undefined(name, known))
                return
            self._used |= template.names
            axes = {id(known[name]): known[name] for name in sorted(template.names)}
            self._render(template, list(axes.values()), path, place, may_be_empty)
        except templates.TemplateFault as fault:
            self._say(path, place, str(fault), "")

    def _render(
        self,
        template: templates.Template,
        axes: Sequence[Axis],
        path: NodePath,
        place: SourceLocation | None,
        may_be_empty: bool,  # noqa: FBT001 - handed on
        row: Mapping[str, str] | None = None,
    ) -> None:
        for entries in itertools.product(*(axis.entries for axis in axes)):
            values = dict(row or {})
            for entry in entries:
                values.update(entry.values)
            try:
                rendered = template.render(values)
            except templates.TemplateFault as error:
                self._say(path, place, str(error), "", [] if row is None else [path])
                return
            fault = fault_of(rendered, rendered=True)
            if fault is None or (may_be_empty and not rendered.strip()):
                continue
            used = ((name, value) for name, value in values.items() if name in template.names)
            shown = listed(f'{name} "{cut(value, 30)}"' for name, value in used)
            with_values = f" with {shown}" if shown else ""
            also = [*([] if row is None else [path]), *(entry.path for entry in entries)]
            self._say(path, place, fault[0].rstrip(".") + with_values + ".", fault[1], also)
            return

    def _say(
        self,
        path: NodePath,
        place: SourceLocation | None,
        message: str,
        hint: str,
        also: Sequence[NodePath | SourceLocation] = (),
    ) -> None:
        self._said[message] += 1
        if self._said[message] <= _MOST_OF_A_KIND:
            self.faults.add(path, message, hint, place=place, also=also)

    def _unused(self) -> None:
        fields = self.manifest.output_path.fields
        for axis in self.block.vars:
            for name in axis.vars:
                if name not in self._used and name not in fields:
                    message = f"No prompt uses the var `{name}`: each of its values makes the same images."
                    hint = f"Write {{{{ {name} }}}} into a prompt, or take the var out."
                    at = axis.path if not axis.is_zip else (*axis.entries[0].path, "vars", name)
                    self.faults.add(at, message, hint, key=True, warning=True)


def _undefined(name: str, known: Iterable[str]) -> tuple[str, str]:
    names = list(known)
    guess = nearest(name, names)
    if guess:
        hint = f"Did you mean {{{{ {guess} }}}}?"
    else:
        hint = f"There is {listed(names)}." if names else f"Add `vars: {{{name}: […]}}`."
    return f"There is no var `{name}`.", hint
