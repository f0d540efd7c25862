"""`zip`: one axis whose entries set several parameters and vars at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from batchgen.jobs import PARAMETER_NAMES
from batchgen.manifest.diagnostics import listed
from batchgen.manifest.model import Axis, Entry
from batchgen.manifest.texts import var_fault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchgen.manifest.model import NodePath
    from batchgen.manifest.reading import Reader
    from batchgen.source.document import Value


def zipped(values: Sequence[Value], block: Mapping[str, Value], path: NodePath, reader: Reader) -> Axis:
    """The axis of a block's `zip`; a key that is also an axis of its own is reported and left out of the zip."""
    good = [(entry, (*path, number)) for number, entry in enumerate(values) if isinstance(entry, dict)]
    if good:
        raw = [(reader.raw(at), at) for _, at in good]  # what the schema refused counts as set: it is reported already
        _check_keys(raw, reader)
        _check_clashes(raw[0][0], block, path, raw[0][1], reader)
    entries = [_entry(entry, at, _axes_beside(block), reader) for entry, at in good]
    known = {name: value for entry in reversed(entries) for name, value in entry.values.items()}
    if any(
        len(entry.values) < len(known) for entry in entries
    ):  # reported; so that prompts can be checked all the same
        entries = [replace(entry, values={**known, **entry.values}) for entry in entries]
    return Axis(name="zip", entries=tuple(entries), path=path, vars=tuple(known), is_zip=True)


def _entry(entry: Mapping[str, Value], path: NodePath, taken: frozenset[str], reader: Reader) -> Entry:
    settings = {name: s for name, s in reader.settings(entry, path).items() if name not in taken}
    own = _vars(entry)
    values = {name: reader.written((*path, "vars", name)) for name in own if name not in taken}
    shown = [*(str(setting.value) for setting in settings.values()), *values.values()]
    return Entry(text=", ".join(shown), id=reader.name(entry, path), settings=settings, path=path, values=values)


def _vars(entry: Mapping[str, Value]) -> Mapping[str, Value]:
    names = entry.get("vars")
    return names if isinstance(names, dict) else {}


def _axes_beside(block: Mapping[str, Value]) -> frozenset[str]:
    return frozenset(name for name in block if name in PARAMETER_NAMES) | frozenset(_vars(block))


def _keys(entry: Mapping[str, Value]) -> list[NodePath]:
    """What an entry sets, as paths within it."""
    own: list[NodePath] = [(name,) for name in entry if name in PARAMETER_NAMES]
    return own + [("vars", name) for name in _vars(entry)]


def _check_keys(entries: Sequence[tuple[Mapping[str, Value], NodePath]], reader: Reader) -> None:
    """Each entry sets what every other sets: an entry that lacks one would silently take a default."""
    wanted = dict.fromkeys(key for entry, _ in entries for key in _keys(entry))
    for entry, path in entries:
        there = set(_keys(entry))
        missing = [key[-1] for key in wanted if key not in there]
        if missing:
            other = next(at for other, at in entries if any(key[-1] in missing for key in _keys(other)))
            message = f"This entry of `zip` does not set {listed(f'`{name}`' for name in missing)}, which another does."
            hint = f"Add `{missing[0]}: …`; null leaves a parameter to the API."
            if ("vars", missing[0]) in wanted:
                hint = f"Add `vars: {{{missing[0]}: …}}`."
            reader.diagnostics.add(path, message, hint, also=[other])
    for name in {name for entry, _ in entries for name in _vars(entry)}:
        if fault := var_fault(name):
            first = next(at for entry, at in entries if name in _vars(entry))
            reader.diagnostics.add((*first, "vars", name), *fault, key=True)
    if not wanted:
        message = "This entry of `zip` sets nothing."
        reader.diagnostics.add(
            entries[0][1], message, "Write the values that belong together: {aspect_ratio: 16:9, resolution: 2k}."
        )


def _check_clashes(
    entry: Mapping[str, Value], block: Mapping[str, Value], path: NodePath, at: NodePath, reader: Reader
) -> None:
    names = _vars(block)
    for key in _keys(entry):
        name = str(key[-1])
        if len(key) == 1 and name in block:
            axis: NodePath = (*path[:-1], name)
        elif len(key) == 2 and name in names:
            axis = (*path[:-1], "vars", name)
        else:
            continue
        message = f"`{name}` is set by `zip` and is an axis of its own."
        hint = "Remove one: values that belong together are in `zip` only."
        reader.diagnostics.add((*at, *key), message, hint, key=True, also=[axis])
