"""The templates of a manifest: read, and rendered once for each combination of the vars they use."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

from batchgen import templates
from batchgen.errors import Place
from batchgen.manifest.faults import cut, listed, nearest
from batchgen.manifest.prompts import fault_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from batchgen.manifest.faults import Faults
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
            yield group.settings
            yield from group.row_settings.values()
        for axis in (*block.vars, *block.axes):
            for entry in axis.entries:
                yield entry.settings

    def _text(self, text: str, group: Prompts, number: int) -> None:
        place = None
        if group.file is not None:
            place = Place(file=group.file, line=group.lines[number] if group.lines is not None else 0)
        self._check(text, group.path_of(number), place, may_be_empty=False)

    def _check(self, text: str, path: NodePath, place: Place | None, *, may_be_empty: bool) -> None:
        known = {axis.name: axis for axis in self.block.vars}
        try:
            template = templates.read(text)
            if missing := sorted(template.names - known.keys()):
                self._used |= template.names
                for name in missing:
                    self._say(path, place, *_undefined(name, known))
                return
            self._used |= template.names
            self._render(template, [known[name] for name in sorted(template.names)], path, place, may_be_empty)
        except templates.TemplateFault as fault:
            self._say(path, place, str(fault), "")

    def _render(
        self,
        template: templates.Template,
        axes: Sequence[Axis],
        path: NodePath,
        place: Place | None,
        may_be_empty: bool,  # noqa: FBT001 - handed on
    ) -> None:
        for entries in itertools.product(*(axis.entries for axis in axes)):
            values = {axis.name: entry.text for axis, entry in zip(axes, entries, strict=True)}
            rendered = template.render(values)
            fault = fault_of(rendered, rendered=True)
            if fault is None or (may_be_empty and not rendered.strip()):
                continue
            shown = listed(f'{name} "{cut(value, 30)}"' for name, value in values.items())
            with_values = f" with {shown}" if shown else ""
            self._say(path, place, fault[0].rstrip(".") + with_values + ".", fault[1], [e.path for e in entries])
            return

    def _say(
        self,
        path: NodePath,
        place: Place | None,
        message: str,
        hint: str,
        also: Sequence[NodePath] = (),
    ) -> None:
        self._said[message] += 1
        if self._said[message] <= _MOST_OF_A_KIND:
            self.faults.add(path, message, hint, place=place, also=also)

    def _unused(self) -> None:
        fields = self.manifest.output_path.fields
        for axis in self.block.vars:
            if axis.name not in self._used and axis.name not in fields:
                message = f"No prompt uses the var `{axis.name}`: each of its values makes the same images."
                hint = f"Write {{{{ {axis.name} }}}} into a prompt, or take the var out."
                self.faults.add(axis.path, message, hint, key=True, warning=True)


def _undefined(name: str, known: Iterable[str]) -> tuple[str, str]:
    names = list(known)
    guess = nearest(name, names)
    if guess:
        hint = f"Did you mean {{{{ {guess} }}}}?"
    else:
        hint = f"There is {listed(names)}." if names else f"Add `vars: {{{name}: […]}}`."
    return f"There is no var `{name}`.", hint
