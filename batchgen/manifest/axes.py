"""The axes of a matrix: prompts, vars and parameters, with the entries that they take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchgen.jobs import PARAMETER_NAMES
from batchgen.manifest import schema, templates
from batchgen.manifest.diagnostics import cut, meant
from batchgen.manifest.model import Axis, Block, Entry, Exclusion, Inclusion, Match, Prompts, Sample, Setting
from batchgen.manifest.prompts import PromptFile
from batchgen.manifest.reading import UNUSABLE
from batchgen.manifest.schema import INVALID
from batchgen.manifest.schema_errors import MOST_UNKNOWN
from batchgen.manifest.texts import var_fault
from batchgen.manifest.zipped import zipped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchgen.manifest.model import NodePath, Settings
    from batchgen.manifest.reading import Reader
    from batchgen.source.document import Value


@dataclass(slots=True, kw_only=True)
class Axes:
    """Reads blocks, exclusions and inclusions of one manifest."""

    reader: Reader
    defaults: Settings
    default_prompt: tuple[str, NodePath] | None = None
    files: dict[str, str] = field(default_factory=dict)  # prompt files and their sha256, for the digest

    # --- blocks

    def blocks(self, matrix: Value) -> list[Block]:
        """The blocks of a matrix; what is invalid in them is left out and reported."""
        if isinstance(matrix, dict):
            return [self._block(matrix, ("matrix",))]
        if isinstance(matrix, list):
            numbered = [(i, block) for i, block in enumerate(matrix) if isinstance(block, dict)]
            blocks = [self._block(block, ("matrix", i)) for i, block in numbered]
            self._check_names(blocks)
            return blocks
        return []

    def _check_names(self, blocks: list[Block]) -> None:
        seen: dict[str, NodePath] = {}
        for block in blocks:
            if block.name is None:
                continue
            at = (*block.path, "name")
            first = seen.setdefault(block.name, at)
            if first != at:
                message = f'Two blocks are called "{cut(block.name)}".'
                self.reader.diagnostics.add(at, message, "Give one of them another name.", also=[first])

    def _block(self, block: Mapping[str, Value], path: NodePath) -> Block:
        names = block.get("vars")
        prompts = tuple(self._prompts(block, path))
        names_axes = list(self._vars(names, (*path, "vars"))) if isinstance(names, dict) else []
        axes: list[Axis] = []
        for key in block:
            if key in PARAMETER_NAMES:
                axes.append(self._axis(key, block[key], (*path, key)))
            elif key == "zip" and isinstance(block[key], list):
                together = zipped(block[key], block, (*path, key), self.reader)
                (names_axes if together.vars else axes).append(together)
        written = block.get("name")
        name = None if written is None else self.reader.name(block, path, "name")
        self._check_labels(names_axes, axes)
        return Block(
            prompts=prompts,
            vars=tuple(names_axes),
            axes=tuple(axis for axis in axes if axis.entries),  # an axis without a valid entry would hide the rest
            path=path,
            name=name,
            sample=_sample(block.get("sample")),
        )

    def _check_labels(self, names: list[Axis], axes: list[Axis]) -> None:
        """A var with the name that the entries of `zip` have in paths."""
        with_ids = any(entry.id is not None for axis in (*names, *axes) if axis.is_zip for entry in axis.entries)
        for axis in names:
            if axis.name == "zip" and not axis.is_zip and with_ids:
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
        run: list[str] = []
        start: NodePath = ()
        for entry, at in _entries(block["prompt"], (*path, "prompt")):
            if not isinstance(entry, dict) and entry is not INVALID:
                text = self.reader.prompt(entry, at)
                if text is not None:
                    if not run:
                        start = at
                    elif at[-1] != int(start[-1]) + len(run):  # an invalid one stood between
                        yield Prompts(texts=run, path=start, indexed=True)
                        run, start = [], at
                    run.append(text)
                continue
            if run:
                yield Prompts(texts=run, path=start, indexed=True)
                run = []
            if isinstance(entry, dict) and (found := self._prompt_entry(entry, at)):
                yield found
        if run:
            yield Prompts(texts=run, path=start, indexed=isinstance(start[-1], int))

    def _prompt_entry(self, entry: Mapping[str, Value], path: NodePath) -> Prompts | None:
        settings = self.reader.settings(entry, path)
        if "from" in entry or "rows" in entry:
            return self._prompt_file(entry, path, settings)
        written = self.reader.raw(path)
        if "from" in written or "rows" in written:
            return None  # the schema refused it
        self._refuse_key(entry, "column", path, "`column` goes with `from`, which names a prompt file.")
        self._refuse_key(entry, "where", path, "`where` goes with `from` or `rows`, which name a file.")
        if "prompt" not in entry:
            return None
        text = self.reader.prompt(entry["prompt"], (*path, "prompt"))
        if text is None:
            return None
        name = self.reader.name(entry, path)
        return Prompts(texts=[text], ids=None if name is None else [name], settings=settings, path=path)

    def _refuse_key(self, entry: Mapping[str, Value], key: str, path: NodePath, message: str) -> None:
        if key in entry:
            self.reader.diagnostics.add((*path, key), message, "Remove it.", key=True)

    def _prompt_file(self, entry: Mapping[str, Value], path: NodePath, settings: Settings) -> Prompts | None:
        if "from" in entry and "rows" in entry:
            message = "An entry has either `from` (the prompts of a file) or `rows` (a template's table), not both."
            self.reader.diagnostics.add((*path, "rows"), message, "Remove one.", key=True)
            return None
        if "from" in entry and "prompt" in entry:
            message = "An entry has either `prompt` or `from`, not both."
            hint = "Remove one; to fill a prompt from each row of a table, write `rows` in place of `from`."
            self.reader.diagnostics.add((*path, "prompt"), message, hint, key=True)
            return None
        template = None
        if "rows" in entry:
            self._refuse_key(entry, "column", path, "`column` goes with `from`; with `rows` the prompt is a template.")
            template = self._template(entry, path)
            if template is None:
                return None
        return self._read_file(entry, path, settings, template)

    def _template(self, entry: Mapping[str, Value], path: NodePath) -> str | None:
        """The prompt that rows fill."""
        if "prompt" not in entry:
            return None  # reported already
        text = self.reader.prompt(entry["prompt"], (*path, "prompt"))
        if text is not None and not templates.is_template(text):
            message = "This prompt names no column: every row of the table would make the same images."
            self.reader.diagnostics.add((*path, "prompt"), message, "Write {{ COLUMN }} into it, or remove `rows`.")
            return None
        try:
            if text is not None:
                templates.read(text)
        except templates.TemplateInvalid as fault:
            self.reader.diagnostics.add((*path, "prompt"), str(fault))
            return None
        return text

    def _read_file(
        self, entry: Mapping[str, Value], path: NodePath, settings: Settings, template: str | None
    ) -> Prompts | None:
        key = "from" if template is None else "rows"
        written = str(entry[key])
        name = written if written.startswith("/") else str(self.reader.folder / written)
        where = entry.get("where")
        names = where if isinstance(where, dict) else {}
        file = PromptFile(
            file=self.reader.folder / written,
            name=name,
            path=path,
            key=key,
            template=template,
            uses=_uses(template, settings),
            column=entry.get("column") if template is None else None,
            id_column=None if entry.get("id") is None else self.reader.written((*path, "id")),
            where={name: tuple(self._matches(name, names[name], (*path, "where", name))) for name in names},
            diagnostics=self.reader.diagnostics,
            settings_of=self.reader.row_settings,
        )
        found = file.read(settings)
        self.files[written] = file.digest
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
            text = self.reader.written(path)
            return Entry(text=text, id=None, settings={}, path=path, values={name: text})
        settings = self.reader.settings(parameters, path)
        text = self.reader.written((*path, name))
        return Entry(text=text, id=self.reader.name(entry, path), settings=settings, path=path, values={name: text})

    def _names_var(self, name: str, entry: Mapping[str, Value], path: NodePath) -> bool:
        """Whether an entry gives the var's value; what else is wrong with its keys is reported too."""
        diagnostics = self.reader.diagnostics
        known = [name, "id", *PARAMETER_NAMES]
        for key in [key for key in entry if key not in known][:MOST_UNKNOWN]:
            diagnostics.add((*path, key), f"Unknown key `{cut(key)}`.", meant(key, known), key=True)
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
        parameters = [{k: v for k, v in entry.items() if k in PARAMETER_NAMES or k == "id"} for entry, _ in entries]
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
            if name not in entry:
                return None
            settings = self.reader.settings(entry, path)
            text = self.reader.written((*path, name)) if not isinstance(entry[name], dict) else "watermark"
            if name not in settings:
                return None
            return Entry(text=text, id=self.reader.name(entry, path), settings=settings, path=path)
        value = self.reader.value(name, entry, path)
        if value is UNUSABLE:
            return None
        text = str(entry["enabled"]).lower() if isinstance(entry, dict) else self.reader.written(path)
        return Entry(text=text, id=None, settings={name: Setting(value, path)}, path=path)

    # --- beside the blocks

    def inclusions(self, include: Value) -> Iterator[Inclusion]:
        """Whole jobs, each with the defaults that it does not change."""
        for number, job in enumerate(include if isinstance(include, list) else []):
            if isinstance(job, dict) and (found := self._inclusion(job, ("include", number))):
                yield found

    def _inclusion(self, job: Mapping[str, Value], path: NodePath) -> Inclusion | None:
        settings = {**self.defaults, **self.reader.settings(job, path)}
        written = job.get("vars")
        names = written if isinstance(written, dict) else {}
        for name in names:
            if fault := var_fault(name):
                self.reader.diagnostics.add((*path, "vars", name), *fault, key=True)
        if "prompt" in job:
            prompt = self.reader.prompt(job["prompt"], (*path, "prompt"))
        elif self.default_prompt is not None:
            prompt = self.default_prompt[0]
        else:
            prompt = None
            self.reader.diagnostics.add(path, "This job has no prompt.", "Add `prompt: …`.")
        if prompt is None:
            return None
        texts = {name: self.reader.written((*path, "vars", name)) for name in names}
        name = self.reader.name(job, path)
        return Inclusion(prompt=prompt, id=name, settings=settings, vars=texts, path=path)

    def exclusions(self, exclude: Value, known_vars: frozenset[str]) -> Iterator[Exclusion]:
        """The rules of `exclude`."""
        for number, rule in enumerate(exclude if isinstance(exclude, list) else []):
            if isinstance(rule, dict) and rule:
                yield self._exclusion(rule, ("exclude", number), known_vars)

    def _exclusion(self, rule: Mapping[str, Value], path: NodePath, known: frozenset[str]) -> Exclusion:
        parameters: dict[str, tuple[Match, ...]] = {}
        names: dict[str, tuple[Match, ...]] = {}
        whole: dict[str, tuple[Match, ...]] = {}
        nested = rule.get("vars")
        unknown = 0
        items = [(k, v, (*path, k)) for k, v in rule.items() if k != "vars"]
        items += [(k, v, (*path, "vars", k)) for k, v in nested.items()] if isinstance(nested, dict) else []
        for key, value, at in items:
            matches = tuple(self._matches(key, value, at))
            if key in {"prompt", "prompt_id"}:
                whole[key] = matches
            elif key in PARAMETER_NAMES:
                parameters[key] = matches
            else:
                names[key] = matches
                if key not in known and (unknown := unknown + 1) <= MOST_UNKNOWN:
                    words = ["prompt", "prompt_id", *PARAMETER_NAMES, *sorted(known)]
                    message = f"`{cut(key)}` is neither a parameter nor a var."
                    self.reader.diagnostics.add(at, message, meant(key, words), key=True)
        return Exclusion(
            prompt=whole.get("prompt"),
            prompt_id=whole.get("prompt_id"),
            vars=names,
            parameters=parameters,
            path=path,
        )

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


def _sample(value: Value) -> Sample | None:
    if not isinstance(value, dict) or "count" not in value:
        return None
    return Sample(count=int(value["count"]), seed=int(value.get("seed", 0)))


def _uses(template: str | None, settings: Settings) -> frozenset[str]:
    """The names in a template and in the negative prompt beside it; invalid ones are reported when all are checked."""
    found: set[str] = set()
    negative = settings.get("negative_prompt")
    for text in (template, None if negative is None else negative.value):
        if template is not None and text and templates.is_template(text):
            try:
                found |= templates.read(text).names
            except templates.TemplateInvalid:
                continue
    return frozenset(found)
