"""The axes of a matrix: prompts, vars and parameters, with the entries that they take."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from itertools import groupby, starmap
from typing import TYPE_CHECKING, Any

from batchgen import templates
from batchgen.jobs import PARAMETER_NAMES
from batchgen.manifest import schema
from batchgen.manifest.diagnostics import cut, meant
from batchgen.manifest.labels import check_labels
from batchgen.manifest.model import Axis, Block, Entry, Exclusion, Match, Prompts, Sample, Setting
from batchgen.manifest.prompts import PromptFile
from batchgen.manifest.schema import INVALID
from batchgen.manifest.schema_errors import MOST_UNKNOWN
from batchgen.manifest.texts import var_fault
from batchgen.manifest.zipped import zipped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from batchgen.manifest.model import NodePath, Settings
    from batchgen.manifest.reading import Reader
    from batchgen.source.document import Value


# Of an entry of `prompt` with `from`, with `rows` and with neither: a key that it cannot have, why, and what to do.
_NOT_BESIDE = {
    "from": (
        ("rows", "An entry has either `from` or `rows`, not both.", "Remove one."),
        ("prompt", "An entry has either `prompt` or `from`, not both.", "Remove one, or fill the prompt with `rows`."),
    ),
    "rows": (("column", "`column` goes with `from`; with `rows` the prompt is a template.", "Remove it."),),
    "prompt": (
        ("column", "`column` goes with `from`, which names a prompt file.", "Remove it."),
        ("where", "`where` goes with `from` or `rows`, which name a file.", "Remove it."),
        ("delimiter", "`delimiter` goes with `from` or `rows`, which name a file.", "Remove it."),
    ),
}

_OF_ENTRY = ("id", "labels", "parameters", *PARAMETER_NAMES)


@dataclass(slots=True, kw_only=True)
class Axes:
    """Reads blocks, exclusions and inclusions of one manifest."""

    reader: Reader
    defaults: Settings
    default_prompt: tuple[str, NodePath] | None = None
    files: dict[str, str] = field(default_factory=dict)  # prompt files and their sha256, for the digest
    unread: set[str] = field(default_factory=set)  # labels of files with an error: what uses them is no second one

    # --- blocks

    def blocks(self, matrix: Value) -> list[Block]:
        """The blocks of a matrix; what is invalid in them is left out and reported."""
        entries = [] if matrix is None else _entries(matrix, ("matrix",))
        blocks = [self._block(block, path) for block, path in entries if block is not INVALID]
        self._check_names(blocks)
        return blocks

    def _check_names(self, blocks: list[Block]) -> None:
        seen: dict[str, NodePath] = {}
        for name, at in ((block.name, (*block.path, "name")) for block in blocks if block.name is not None):
            if (first := seen.setdefault(name, at)) != at:
                message = f'Two blocks are called "{cut(name)}".'
                self.reader.diagnostics.add(at, message, "Give one of them another name.", also=[first])

    def _block(self, block: Mapping[str, Value], path: NodePath) -> Block:
        prompts = tuple(self._prompts(block, path))
        names_axes = list(self._vars(block.get("vars", {}), (*path, "vars")))
        axes: list[Axis] = []
        for key in block:
            if key in PARAMETER_NAMES:
                axes.append(self._axis(key, block[key], (*path, key)))
            elif key == "parameters":
                axes += [self._further(name, block[key][name], (*path, key, name)) for name in block[key]]
            elif key == "zip":
                together = zipped(block[key], block, (*path, key), self.reader)
                (names_axes if together.vars else axes).append(together)
        self._check_zip(names_axes, axes)
        found = Block(
            prompts=prompts,
            vars=tuple(names_axes),
            axes=tuple(axis for axis in axes if axis.entries),  # an axis without a valid entry would hide the rest
            path=path,
            name=self.reader.name(block, path, "name"),
            sample=_sample(block.get("sample")),
            labels=self.reader.labels(block, path),
        )
        check_labels(found, self.reader.diagnostics, self.reader.further)
        return found

    def _check_zip(self, names: list[Axis], axes: list[Axis]) -> None:
        """A var with the name that the entries of `zip` have in paths."""
        with_ids = any(entry.id is not None for axis in (*names, *axes) if axis.is_zip for entry in axis.entries)
        for axis in (axis for axis in names if with_ids and axis.name == "zip" and not axis.is_zip):
            message = "A var cannot be called `zip` where the entries of `zip` have ids: {zip} names those."
            self.reader.diagnostics.add(axis.path, message, "Give it another name.", key=True)

    def _prompts(self, block: Mapping[str, Value], path: NodePath) -> Iterator[Prompts]:
        if "prompt" not in block:
            if self.default_prompt is not None:
                yield Prompts(texts=[self.default_prompt[0]], path=self.default_prompt[1])
            elif not self.reader.diagnostics.errors:
                named = f'The block "{cut(str(block["name"]), 30)}"' if "name" in block else "This block of the matrix"
                message = f"{named} has no prompt."
                self.reader.diagnostics.add(path, message, "Add an axis `prompt`, or a prompt to `defaults`.")
            return
        for is_mapping, entries in groupby(_entries(block["prompt"], (*path, "prompt")), _is_mapping):
            if is_mapping:
                yield from filter(None, starmap(self._prompt_entry, entries))
                continue
            texts: list[str] = []
            numbers = array("I")
            for entry, at in entries:
                if entry is not INVALID and (text := self.reader.prompt(entry, at)) is not None:
                    texts.append(text)
                    numbers.append(int(at[-1]) if isinstance(block["prompt"], list) else 0)
            if texts:
                in_list = numbers if isinstance(block["prompt"], list) else None
                yield Prompts(texts=texts, path=(*path, "prompt"), numbers=in_list)

    def _prompt_entry(self, entry: Mapping[str, Value], path: NodePath) -> Prompts | None:
        settings = self.reader.settings(entry, path)
        written = self.reader.raw(path)  # with what the schema refused
        kind = next((key for key in ("from", "rows") if key in written), "prompt")
        for key, message, hint in _NOT_BESIDE[kind]:
            if key in entry:
                self.reader.diagnostics.add((*path, key), message, hint, key=True)
                return None
        if kind not in entry:
            return None
        if kind == "from":
            return self._read_file(entry, path, settings)
        text = self.reader.prompt(entry["prompt"], (*path, "prompt")) if "prompt" in entry else None
        if text is None:
            return None
        if kind == "rows":
            uses = self._columns_used(text, path, settings.get("negative_prompt"))
            return self._read_file(entry, path, settings, text, uses) if uses is not None else None
        if "labels" in entry and not isinstance(entry["labels"], dict):
            hint = "Write the labels of a single prompt as {name: value}."
            self.reader.diagnostics.add((*path, "labels"), "This prompt has no columns: `from` and `rows` do.", hint)
        name = self.reader.name(entry, path)
        labels = self.reader.labels(entry, path)
        return Prompts(texts=[text], ids=None if name is None else [name], settings=settings, path=path, labels=labels)

    def _columns_used(self, template: str, path: NodePath, negative: Setting | None) -> frozenset[str] | None:
        """The names in a prompt that rows fill, and in the negative prompt beside it; None where there is an error."""
        at = (*path, "prompt")
        try:
            found = _names(template)
            if negative is not None and negative.value:
                at = negative.path
                found |= _names(negative.value)
        except templates.TemplateInvalid as fault:
            self.reader.diagnostics.add(at, str(fault))
            return None
        return found

    def _read_file(
        self,
        entry: Mapping[str, Value],
        path: NodePath,
        settings: Settings,
        template: str | None = None,
        uses: frozenset[str] = frozenset(),
    ) -> Prompts | None:
        key = "from" if template is None else "rows"
        written = str(entry[key])
        file = self.reader.folder / written
        where = entry.get("where", {})
        prompts = PromptFile(
            file=file,
            name=str(file),
            path=path,
            key=key,
            template=template,
            uses=uses,
            column=entry.get("column"),
            id_column=None if entry.get("id") is None else self.reader.written((*path, "id")),
            delimiter=entry.get("delimiter"),
            columns=_label_columns(entry.get("labels")),
            labels=self.reader.labels(entry, path),
            where={name: tuple(self._matches(name, where[name], (*path, "where", name))) for name in where},
            diagnostics=self.reader.diagnostics,
            settings_of=self.reader.row_settings,
        )
        found = prompts.read(settings)
        if found is None:
            self.unread |= set(prompts.columns or ())
        self.files[written] = prompts.digest
        return found

    def _vars(self, names: Mapping[str, Value], path: NodePath) -> Iterator[Axis]:
        for name, values in names.items():
            at = (*path, name)
            if fault := var_fault(name):
                self.reader.diagnostics.add(at, *fault, key=True)
            entries = [(entry, p) for entry, p in _entries(values, at) if entry is not INVALID]
            mappings = [
                (entry, p) for entry, p in entries if isinstance(entry, dict) and self._names_var(name, entry, p)
            ]
            parameters = self._checked_parameters(mappings)
            found = [
                self._var(name, entry, p, parameters.get(p, {}))
                for entry, p in entries
                if p in parameters or not isinstance(entry, dict)
            ]
            yield Axis(name=name, entries=tuple(found), path=at, vars=(name,))

    def _var(self, name: str, entry: Value, path: NodePath, parameters: Mapping[str, Value]) -> Entry:
        if not isinstance(entry, dict):
            return Entry(path=path, values={name: self.reader.written(path)})
        values = {name: self.reader.written((*path, name))}
        settings = self.reader.settings(parameters, path)
        return Entry(
            id=self.reader.name(entry, path),
            settings=settings,
            path=path,
            values=values,
            labels=self.reader.labels(parameters, path),
        )

    def _further(self, name: str, values: Value, path: NodePath) -> Axis:
        """The axis of a parameter that the account declares: a mapping is an entry where its own key is in it."""
        given = [(entry, at) for entry, at in _entries(values, path) if entry is not INVALID]
        mappings = [(entry, at) for entry, at in given if isinstance(entry, dict) and name in entry]
        for entry, at in mappings:
            self._check_keys(name, entry, at)
        checked = self._checked_parameters(mappings)
        found = []
        for entry, at in given:
            own = (entry[name], (*at, name)) if at in checked else (entry, at)
            value = self.reader.value_of_further(name, *own)
            if value is not INVALID:
                more = checked.get(at, {})
                settings = {**self.reader.settings(more, at), name: Setting(value, own[1])}
                labels = self.reader.labels(more, at)
                found.append(Entry(id=self.reader.name(more, at), settings=settings, path=at, labels=labels))
        return Axis(name=name, entries=tuple(found), path=path)

    def _check_keys(self, name: str, entry: Mapping[str, Value], path: NodePath) -> None:
        known = [name, *_OF_ENTRY]
        for key in [key for key in entry if key not in known][:MOST_UNKNOWN]:
            self.reader.diagnostics.add((*path, key), f"Unknown key `{cut(key)}`.", meant(key, known), key=True)

    def _names_var(self, name: str, entry: Mapping[str, Value], path: NodePath) -> bool:
        """Whether an entry gives the var's value; what else is wrong with its keys is reported too."""
        diagnostics = self.reader.diagnostics
        self._check_keys(name, entry, path)
        if name not in entry:
            diagnostics.add(path, f"The key `{name}` is missing, which gives the var's value.", f"Add `{name}: …`.")
            return False
        if isinstance(entry[name], (dict, list)):
            diagnostics.add((*path, name), "The value of a var must be a text or a number.", "Write it as a text.")
            return False
        return True

    def _checked_parameters(
        self, entries: Sequence[tuple[Mapping[str, Value], NodePath]]
    ) -> dict[NodePath, Mapping[str, Value]]:
        """The valid parameters of a var's entries: the schema does not know the var's own key beside them."""
        if not entries:
            return {}
        parameters = [{k: v for k, v in entry.items() if k in _OF_ENTRY} for entry, _ in entries]
        refused = schema.check(parameters, "entry")
        for fault in refused:
            path = entries[int(fault.path[0])][1]
            self.reader.diagnostics.add((*path, *fault.path[1:]), fault.message, fault.hint, key=fault.key)
        cleaned = schema.cleaned(parameters, refused)
        return {path: kept for (_, path), kept in zip(entries, cleaned, strict=True)}

    def _axis(self, name: str, values: Value, path: NodePath) -> Axis:
        found = [self._entry(name, e, p) for e, p in _entries(values, path) if e is not INVALID]
        return Axis(name=name, entries=tuple(entry for entry in found if entry is not None), path=path)

    def _entry(self, name: str, entry: Value, path: NodePath) -> Entry | None:
        if isinstance(entry, dict) and not (name == "watermark_info" and "enabled" in entry):
            settings = self.reader.settings(entry, path)
            if name not in settings:
                return None
            labels = self.reader.labels(entry, path)
            return Entry(id=self.reader.name(entry, path), settings=settings, path=path, labels=labels)
        value = self.reader.value(name, entry, path)
        return None if value is INVALID else Entry(settings={name: Setting(value, path)}, path=path)

    # --- beside the blocks

    def inclusions(self, include: Value) -> Iterator[Block]:
        """Whole jobs beside the matrix."""
        for number, job in enumerate(include):
            if job is not INVALID and (found := self._inclusion(job, ("include", number))):
                yield found

    def _inclusion(self, job: Mapping[str, Value], path: NodePath) -> Block | None:
        settings = self.reader.settings(job, path)
        axes = []
        for name in job.get("vars", {}):
            at = (*path, "vars", name)
            if fault := var_fault(name):
                self.reader.diagnostics.add(at, *fault, key=True)
            entry = Entry(path=at, values={name: self.reader.written(at)})
            axes.append(Axis(name=name, entries=(entry,), path=at, vars=(name,)))
        prompt = None if self.default_prompt is None else self.default_prompt[0]
        if "prompt" in job:
            prompt = self.reader.prompt(job["prompt"], (*path, "prompt"))
        elif prompt is None:
            self.reader.diagnostics.add(path, "This job has no prompt.", "Add `prompt: …`.")
        if prompt is None:
            return None
        prompts = Prompts(texts=[prompt], ids=[self.reader.name(job, path)], settings=settings, path=(*path, "prompt"))
        found = Block(prompts=(prompts,), vars=tuple(axes), path=path, labels=self.reader.labels(job, path))
        check_labels(found, self.reader.diagnostics)
        return found

    def exclusions(self, exclude: Value, known_vars: AbstractSet[str]) -> Iterator[Exclusion]:
        """The rules of `exclude`."""
        for number, rule in enumerate(exclude):
            if rule is not INVALID:
                yield self._exclusion(rule, ("exclude", number), known_vars)

    def _exclusion(self, rule: Mapping[str, Value], path: NodePath, known: AbstractSet[str]) -> Exclusion:
        texts: dict[str, tuple[Match, ...]] = {}
        parameters: dict[str, tuple[Match, ...]] = {}
        own = {*PARAMETER_NAMES, *self.reader.further}
        words = ["prompt", "prompt_id", *sorted(own), *sorted(known)]
        unknown = 0
        items = [(k, v, (*path, k)) for k, v in rule.items() if k not in {"vars", "parameters"}]
        for inside in ("vars", "parameters"):
            items += [(k, v, (*path, inside, k)) for k, v in rule.get(inside, {}).items()]
        for key, value, at in items:
            (parameters if key in own else texts)[key] = tuple(self._matches(key, value, at))
            if key not in words and (unknown := unknown + 1) <= MOST_UNKNOWN:
                message = f"`{cut(key)}` is neither a parameter nor a var nor a label."
                self.reader.diagnostics.add(at, message, meant(key, words), key=True)
        return Exclusion(texts=texts, parameters=parameters, path=path)

    def _matches(self, key: str, value: Value, path: NodePath) -> Iterator[Match]:
        if key == "watermark_info" and isinstance(value, dict):
            value = value.get("enabled")
            yield Match(str(value), value)
            return
        for item, at in _entries(value, path):
            if isinstance(item, (dict, list)) or item is INVALID:
                continue
            text = self.reader.written(at)
            if key == "image" and text and item is not None and not text.startswith(("http://", "https://")):
                text = str((self.reader.folder / text).absolute())
            yield Match(text, item, None if at == path else int(at[-1]))


def _entries(value: Value, path: NodePath) -> Iterator[tuple[Any, NodePath]]:
    """The entries of an axis: those of a list, or the one value itself."""
    if isinstance(value, list):
        for number, entry in enumerate(value):
            yield entry, (*path, number)
    else:
        yield value, path


def _is_mapping(pair: tuple[Value, NodePath]) -> bool:
    return isinstance(pair[0], dict)


def _names(text: str) -> frozenset[str]:
    return templates.read(text).names if templates.is_template(text) else frozenset()


def _sample(value: Value) -> Sample | None:
    if value is None or "count" not in value:  # refused already
        return None
    return Sample(count=int(value["count"]), seed=int(value.get("seed", 0)), by=value.get("by"))


def _label_columns(value: Value) -> tuple[str, ...] | None:
    """The columns that are labels; None: all of them."""
    if value is True:
        return None
    return tuple(name for name in value if name is not INVALID) if isinstance(value, list) else ()
