"""The templates of a manifest: each is rendered once for every combination of the vars that it uses."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import TYPE_CHECKING

from batchgen import templates
from batchgen.errors import SourceLocation
from batchgen.manifest.diagnostics import cut, listed, nearest
from batchgen.manifest.texts import fault_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchgen.manifest.diagnostics import Diagnostics
    from batchgen.manifest.model import Axis, Block, Manifest, NodePath, Prompts, Setting, Settings
    from batchgen.templates import Template

MOST_OF_A_KIND = 20  # problems of one kind that are listed one by one


def check_block(manifest: Manifest, block: Block, diagnostics: Diagnostics, *, quiet: bool) -> None:
    """The templates of a block; with `quiet`, without warnings of vars that none of them uses."""
    check = _Check({name: axis for axis in block.vars for name in axis.vars}, diagnostics)
    for group in block.prompts:
        if group.columns:
            check.template(group.texts[0], (*group.path, "prompt"), rows=group)
            check.negative(group.settings.get("negative_prompt"), rows=group)
            continue
        for number, text in enumerate(group.texts):
            if templates.is_template(text):
                check.template(text, group.path_of(number), place_of(group, number))
    for settings in _settings_of(manifest, block):
        check.negative(settings.get("negative_prompt"))
    if not quiet and not check.reported:
        check.unused(manifest.output_path.fields)


def _settings_of(manifest: Manifest, block: Block) -> Iterator[Settings]:
    """Everything that may set a negative prompt."""
    name = "negative_prompt"
    if all(axis.name != name for axis in block.axes) and any(name not in group.settings for group in block.prompts):
        yield manifest.defaults
    for group in block.prompts:
        if not group.columns:  # those are checked with the columns of their table
            yield group.settings
        yield from group.row_settings.values()
    for axis in (*block.vars, *block.axes):
        for entry in axis.entries:
            yield entry.settings


def place_of(group: Prompts, number: int) -> SourceLocation | None:
    """The place of a prompt in its file; None where it stands in the manifest."""
    if group.file is None or group.lines is None:
        return None
    return SourceLocation(file=group.file, line=group.lines[number])


class _Check:
    """Checks templates against the vars that they may use."""

    def __init__(self, axes: Mapping[str, Axis], diagnostics: Diagnostics) -> None:
        self._axes = axes  # by var
        self._faults = diagnostics
        self._used: set[str] = set()
        self.reported: Counter[str] = Counter()

    def negative(self, setting: Setting | None, rows: Prompts | None = None) -> None:
        """A negative prompt, if it is a template; it may be rendered empty."""
        if setting is not None and setting.value and templates.is_template(setting.value):
            self.template(setting.value, setting.path, rows=rows, may_be_empty=True)

    def template(
        self,
        text: str,
        path: NodePath,
        place: SourceLocation | None = None,
        *,
        rows: Prompts | None = None,
        may_be_empty: bool = False,
    ) -> None:
        """One template; with `rows`, the rows of a table fill it."""
        try:
            template = templates.read(text)
        except templates.TemplateInvalid as fault:
            self._report(path, place, str(fault))
            return
        self._used |= template.names
        if not self._are_known(template.names, path, place, rows):
            return
        used = {id(axis): axis for name, axis in self._axes.items() if name in template.names}
        axes = sorted(used.values(), key=lambda axis: min(set(axis.vars) & template.names))
        if rows is None:
            self._render(template, axes, path, place, may_be_empty=may_be_empty)
            return
        invalid_rows = 0
        for number in range(len(rows.texts)):
            row = rows.values_of(number)
            place = place_of(rows, number)
            invalid_rows += not self._render(template, axes, path, place, may_be_empty=may_be_empty, row=row)
            if invalid_rows >= MOST_OF_A_KIND:
                return

    def _are_known(
        self, names: frozenset[str], path: NodePath, place: SourceLocation | None, rows: Prompts | None
    ) -> bool:
        """Whether each name is a var or a column, and none is both."""
        columns = () if rows is None else rows.header
        header = [] if rows is None else [SourceLocation(file=rows.file or "", line=1)]
        missing = sorted(names - self._axes.keys() - set(columns))
        ambiguous = sorted(names & self._axes.keys() & set(columns))
        for name in ambiguous:
            message = f"`{name}` is a column of the table and a var: which of them is meant?"
            self._report(path, place, message, "Rename the var.", [self._axes[name].path, *header])
        for name in missing:
            message = f"There is no column and no var `{name}`." if rows else f"There is no var `{name}`."
            self._report(path, place, message, self._hint(name, [*columns, *self._axes]), header)
        return not missing and not ambiguous

    def _hint(self, name: str, known: Sequence[str]) -> str:
        guess = nearest(name, known)
        hint = f"Did you mean {{{{ {guess} }}}}? " if guess else ""
        if not known:
            return f"Add `vars: {{{name}: […]}}`."
        return f"{hint}There is {listed(f'`{cut(word, 30)}`' for word in known)}."

    def _render(
        self,
        template: Template,
        axes: Sequence[Axis],
        path: NodePath,
        place: SourceLocation | None,
        *,
        may_be_empty: bool,
        row: Mapping[str, str] | None = None,
    ) -> bool:
        """Whether every combination of the vars makes a valid text; the first that does not is reported."""
        also: list[NodePath] = [] if row is None else [path]
        for entries in product(*(axis.entries for axis in axes)):
            values = dict(row or {})
            for entry in entries:
                values.update(entry.values)
            try:
                rendered = template.render(values)
            except templates.TemplateInvalid as fault:
                self._report(path, place, str(fault), also=also)
                return False
            problem = fault_of(rendered, rendered=True)
            if problem is None or (may_be_empty and not rendered.strip()):
                continue
            message, hint = problem
            used = ((name, value) for name, value in values.items() if name in template.names)
            shown = listed(f'{name} "{cut(value, 30)}"' for name, value in used)
            message = f"{message.rstrip('.')} with {shown}." if shown else message
            self._report(path, place, message, hint, [*also, *(entry.path for entry in entries)])
            return False
        return True

    def _report(
        self,
        path: NodePath,
        place: SourceLocation | None,
        message: str,
        hint: str = "",
        also: Sequence[NodePath | SourceLocation] = (),
    ) -> None:
        self.reported[message] += 1
        if self.reported[message] <= MOST_OF_A_KIND:
            self._faults.add(path, message, hint, place=place, also=also)

    def unused(self, path_fields: frozenset[str] | set[str]) -> None:
        """Warn of each var that neither a template nor the output path uses."""
        for name, axis in self._axes.items():
            if name not in self._used and name not in path_fields:
                message = f"No prompt uses the var `{name}`: each of its values makes the same images."
                hint = f"Write {{{{ {name} }}}} into a prompt, or remove the var."
                at = axis.path if not axis.is_zip else (*axis.entries[0].path, "vars", name)
                self._faults.add(at, message, hint, key=True, warning=True)
