"""Parameters from a document: each value typed, checked, and with the path that gave it."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.jobs import PARAMETER_NAMES, JsonValue
from batchgen.manifest import parameters
from batchgen.manifest.diagnostics import Diagnostics, cut, written_path
from batchgen.manifest.model import NodePath, Setting
from batchgen.manifest.row_file import KINDS
from batchgen.manifest.schema import INVALID
from batchgen.manifest.schema_errors import not_allowed_hint
from batchgen.manifest.texts import fault_of, label_fault, name_fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchgen.catalog.accounts import Account
    from batchgen.manifest.model import Labels, Settings
    from batchgen.manifest.references import References
    from batchgen.source.document import Document, Value

_FILE = re.compile(r"[^\s\"<>|*?{][^\n\"<>|*?{]{0,200}\.[A-Za-z][A-Za-z0-9]{1,4}")


def outside_bounds(account: Account, name: str, value: Value) -> tuple[str, str] | None:
    """Why the account does not take a parameter's value, and which it takes; None where it does."""
    if name == "n" and account.max_n is not None and value > account.max_n:
        return f"{value} is too large.", f"The account `{account.name}` allows from 1 to {account.max_n}."
    allowed = account.allowed(name)
    if allowed and value not in allowed:
        return f'"{cut(value)}" is not allowed for the account `{account.name}`.', not_allowed_hint(value, allowed)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads prompts, names and parameters; holds the document, its folder, and the collector of diagnostics."""

    document: Document
    folder: Path
    diagnostics: Diagnostics
    references: References
    accounts: tuple[Account, ...]  # one of which must take a value
    further: dict[str, NodePath] = field(default_factory=dict)  # given beyond batchgen's own; where first

    def written(self, path: NodePath) -> str:
        """A scalar's text as written."""
        return self.document.written(path) or ""

    def raw(self, path: NodePath) -> Value:
        """What stands at a path, also where the schema refuses it."""
        value = self.document.value
        for step in path:
            value = value[step]
        return value

    def prompt(self, value: Value, path: NodePath) -> str | None:
        """A prompt's text; None where it is invalid, which is reported."""
        text = self.written(path)
        if value is None and text in {"", "~"}:
            if comment := self.document.comment_after(path):
                message, hint = "The prompt is empty: a comment begins at #.", f'Quote the text: "{cut(comment)}".'
            else:
                message, hint = "The prompt is empty.", "Write what the images show."
            self.diagnostics.add(path, message, hint)
            return None
        if fault := fault_of(text):
            self.diagnostics.add(path, *fault)
            return None
        if comment := self.document.comment_after(path):
            hint = f'If it belongs to the prompt, quote all of it: "{cut(f"{text} {comment}")}"; else the prompt alone.'
            self.diagnostics.add(path, f"The prompt ends before {cut(comment, 30)}, a comment.", hint, warning=True)
        elif "." in text[-6:] and _FILE.fullmatch(text):
            self._check_no_file(text, path)
        return text

    def _check_no_file(self, text: str, path: NodePath) -> None:
        """Warn of a prompt that is the name of a file."""
        file = Path(text)
        with suppress(OSError, ValueError):
            if file.suffix in KINDS or (self.folder / file).is_file():
                message = f'The prompt is "{cut(text)}", the name of a file: that name would be sent.'
                hint = f"Did you mean {{from: {text}}}?" if file.suffix in KINDS else "Write what the images show."
                self.diagnostics.add(path, message, hint, warning=True)

    def name(self, mapping: Mapping[str, Value], path: NodePath, key: str = "id") -> str | None:
        """An entry's own `id`, as written; of a block, its `name`."""
        if mapping.get(key) is None:
            return None
        text = self.written((*path, key))
        if fault := name_fault(text):
            self.diagnostics.add((*path, key), *fault)
            return None
        return text

    def labels(self, mapping: Mapping[str, Value], path: NodePath) -> Labels:
        """The labels that a mapping gives by name."""
        given = mapping.get("labels")
        given = given if isinstance(given, dict) else {}
        found = {}
        for name in given:
            at = (*path, "labels", name)
            if fault := label_fault(name):
                self.diagnostics.add(at, *fault, key=True)
            else:
                found[name] = "" if given[name] is None else self.written(at)
        return found

    def settings(self, mapping: Mapping[str, Value], path: NodePath) -> Settings:
        """The parameters that a mapping sets; null is kept, for it takes a default away."""
        found = {}
        for name in mapping:
            if name in PARAMETER_NAMES:
                value = self.value(name, mapping[name], (*path, name))
                if value is not INVALID:
                    found[name] = Setting(value, (*path, name))
        further = mapping.get("parameters")
        for name, given in further.items() if isinstance(further, dict) else ():
            at = (*path, "parameters", name)
            value = self.value_of_further(name, given, at)
            if value is not INVALID:
                found[name] = Setting(value, at)
        return found

    def value_of_further(self, name: str, value: Value, path: NodePath) -> Value:
        """The value of a parameter that the account declares; INVALID where it is invalid, which is reported."""
        if name in PARAMETER_NAMES:
            hint = "Write it beside `parameters`, not inside."
            self.diagnostics.add(path, f"`{name}` is a parameter of batchgen's own.", hint, key=True)
            return INVALID
        self.further.setdefault(name, path)
        if value is None:
            return None
        declared = [account.parameters[name] for account in self.accounts if name in account.parameters]
        each = [parameters.faults_of(value, schema) for schema in declared]
        faults = each[0] if all(each) and each else ()
        for fault in faults:
            self.diagnostics.add((*path, *fault.path), fault.message, fault.hint, key=fault.key)
        return INVALID if faults else JsonValue.of(value)

    def row_settings(self, mapping: Mapping[str, Value], found: Document, path: NodePath, entry: NodePath) -> Settings:
        """As `settings`, for an entry of a prompt file; `entry` is the file's own in the manifest."""
        diagnostics = Diagnostics(found)
        other = replace(self, document=found, diagnostics=diagnostics, further={})
        settings = {name: Setting(setting.value, entry) for name, setting in other.settings(mapping, path).items()}
        self.diagnostics.extend(replace(problem, path=written_path(entry)) for problem in diagnostics.problems)
        for name in other.further:
            self.further.setdefault(name, entry)
        return settings

    def value(self, name: str, value: Value, path: NodePath) -> Value:
        """A parameter's value, typed; INVALID where it is invalid, which is reported."""
        if name == "negative_prompt":
            return self._negative(value, path)
        if value is None:
            return None
        if name == "image":
            return self.references.get(str(value), path, self.diagnostics) or INVALID
        if name == "watermark_info":
            return bool(value["enabled"]) if "enabled" in value else INVALID
        return self._bounded(name, value, path)

    def _bounded(self, name: str, value: Value, path: NodePath) -> Value:
        problems = [outside_bounds(account, name, value) for account in self.accounts]
        if problems[0] and all(problems):
            self.diagnostics.add(path, *problems[0])
            return INVALID
        if name == "n":
            return int(value)
        return float(value) if name.endswith("_fidelity") else str(value)

    def _negative(self, value: Value, path: NodePath) -> Value:
        """An empty one is the same as none."""
        text = self.written(path)
        if not text or (value is None and text in {"~", "null"}):
            return None
        if fault := fault_of(text):
            self.diagnostics.add(path, fault[0].replace("The prompt", "The negative prompt"), fault[1])
            return INVALID
        return text
