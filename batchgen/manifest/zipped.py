"""`zip`: one axis whose entries set several parameters and vars at once."""

from __future__ import annotations

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
    """The axis of a block's `zip`; what is also an axis of its own is reported and left out of the zip."""
    good = [(entry, (*path, number)) for number, entry in enumerate(values) if isinstance(entry, dict)]
    names = [(_names(reader.raw(at)), at) for _, at in good]  # also of what the schema refused and has reported
    _check_names(names, reader)
    beside = _names(block)
    for name in names[0][0].keys() & beside.keys() if names else ():
        message = f"`{name}` is set by `zip` and is an axis of its own."
        hint = "Remove one: values that belong together are in `zip` only."
        also = [(*path[:-1], *beside[name])]
        reader.diagnostics.add((*names[0][1], *names[0][0][name]), message, hint, key=True, also=also)
    own = [
        {name: reader.written((*at, "vars", name)) for name in _vars(entry) if name not in beside} for entry, at in good
    ]
    known = {name: value for texts in reversed(own) for name, value in texts.items()}
    entries = [
        Entry(
            id=reader.name(entry, at),
            settings={name: setting for name, setting in reader.settings(entry, at).items() if name not in beside},
            path=at,
            labels=reader.labels(entry, at),
            values={**known, **texts},  # what it lacks is reported; so that prompts can be checked all the same
        )
        for (entry, at), texts in zip(good, own, strict=True)
    ]
    return Axis(name="zip", entries=tuple(entries), path=path, vars=tuple(known), is_zip=True)


def _vars(entry: Mapping[str, Value]) -> Mapping[str, Value]:
    names = entry.get("vars")
    return names if isinstance(names, dict) else {}


def _names(entry: Mapping[str, Value]) -> dict[str, tuple[str, ...]]:
    """What an entry or a block sets, each with its path within it; no var is called like a parameter."""
    own: dict[str, tuple[str, ...]] = {name: (name,) for name in entry if name in PARAMETER_NAMES}
    further = entry.get("parameters")
    own |= {name: ("parameters", name) for name in further} if isinstance(further, dict) else {}
    return own | {name: ("vars", name) for name in _vars(entry)}


def _check_names(entries: Sequence[tuple[Mapping[str, tuple[str, ...]], NodePath]], reader: Reader) -> None:
    """Each entry sets what every other sets: an entry that lacks one would silently take a default."""
    first = {name: (at, steps) for names, at in reversed(entries) for name, steps in names.items()}
    for names, path in entries:
        if missing := [name for name in first if name not in names]:
            other, steps = first[missing[0]]
            message = f"This entry of `zip` does not set {listed(f'`{name}`' for name in missing)}, which another does."
            hint = f"Add `{missing[0]}: …`; null leaves a parameter to the API."
            if len(steps) > 1:
                hint = f"Add `{steps[0]}: {{{missing[0]}: …}}`."
            reader.diagnostics.add(path, message, hint, also=[other])
    for name, (at, steps) in first.items():
        if steps[0] == "vars" and len(steps) > 1 and (fault := var_fault(name)):
            reader.diagnostics.add((*at, *steps), *fault, key=True)
    if entries and not first:
        hint = "Write the values that belong together: {aspect_ratio: 16:9, resolution: 2k}."
        reader.diagnostics.add(entries[0][1], "This entry of `zip` sets nothing.", hint)
