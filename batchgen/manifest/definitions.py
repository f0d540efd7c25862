"""Files that define an API: read, checked, and made into the settings of an account."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from batchgen.apis import compiler
from batchgen.apis.examples import wrong_examples
from batchgen.catalog import definitions
from batchgen.catalog.accounts import parse_account
from batchgen.errors import CommandError, ManifestInvalid
from batchgen.manifest import schema
from batchgen.manifest.diagnostics import Diagnostics, listed, nearest
from batchgen.manifest.parameters import check_declared
from batchgen.manifest.reading import outside_bounds
from batchgen.manifest.settings import check_url, seconds
from batchgen.source import document, encoding

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from batchgen.apis.compiler import Fault
    from batchgen.errors import Diagnostic
    from batchgen.source.document import Document, Value

_AUTHS = {"command": "command", "sign": "sign", "env": "api_key"}  # by the key of `auth`
_LONGEST = 1024 * 1024  # bytes of a file that a definition includes


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinedApi:
    """What a definition says: the settings of an account (None where it has faults), and what is wrong with it."""

    settings: Mapping[str, Any] | None
    diagnostics: Diagnostics


def is_file(use: str) -> bool:
    """Whether `use` names a file, not an account."""
    return use.endswith((".yaml", ".yml")) or "/" in use or "\\" in use


@cache
def shipped(name: str) -> DefinedApi:
    """A definition that batchgen brings."""
    return _defined(*document.collect(definitions.text_of(name), f"{name}.yaml"), None)


def read(path: Path) -> DefinedApi:
    """A definition of the user's own. Raises CommandError where the file cannot be read."""
    name = str(path)
    data = encoding.load_bytes(path, name)
    try:
        defined = _defined(*document.collect(encoding.decode(data, name), name), path.parent)
    except ManifestInvalid as error:
        diagnostics = Diagnostics(document.Document(file=name, text=""))
        diagnostics.extend(error.problems)
        return DefinedApi(settings=None, diagnostics=diagnostics)
    if defined.settings is not None and defined.settings["auth"] == "command" and (who := _others(path)):
        message = f"{who}, so the command in it is not run."
        defined.diagnostics.add(("auth", "command"), message, "Read it, and make a copy that only you can change.")
    return defined


def _others(path: Path) -> str:
    """Who else decides what is in a file: a command runs with all rights of the user. Empty where nobody does."""
    about = path.stat()
    if about.st_uid not in {0, os.geteuid()} and os.geteuid() != 0:
        return "This file belongs to another user"
    return "Every user of this machine can change this file" if about.st_mode & stat.S_IWOTH else ""


def _defined(found: Document, problems: Iterable[Diagnostic], folder: Path | None) -> DefinedApi:
    diagnostics = Diagnostics(found)
    diagnostics.extend(problems)
    raw: Any = found.value
    if not isinstance(raw, dict):
        diagnostics.add((), "A definition is a mapping: keys with values.", "Begin with `api: 1`.")
        return DefinedApi(settings=None, diagnostics=diagnostics)
    raw = _with_files(raw, (), folder, diagnostics)
    _check_account(raw, diagnostics)
    definition, faults = compiler.compiled(raw)
    for fault in faults:
        diagnostics.add(fault.path, fault.message, _hint(fault), key=fault.key, warning=fault.warning)
    for path, message in () if definition is None else wrong_examples(definition, raw):
        diagnostics.add(path, message, "Correct the selector, or the example.")
    if definition is None or diagnostics.errors:
        return DefinedApi(settings=None, diagnostics=diagnostics)
    auth = dict(raw.get("auth") or {})
    if "for" in auth:
        auth["for"] = seconds(auth["for"])
    if "/" in (program := auth.get("command", [""])[0]) and folder is not None:
        auth["command"] = [str(folder / program), *auth["command"][1:]]
    settings = {
        **{key: raw[key] for key in compiler.OF_ACCOUNT if key in raw},
        "protocol": "declared",
        "auth": next((kind for key, kind in _AUTHS.items() if key in auth), "none"),
        "api_key_env": env if isinstance(env := auth.get("env", ""), str) else "",
        "fields": sorted({"model", "prompt", *definition.fields}),
        "lookup_by_external_id": "yes" if definition.can_find else "no",
        "lists_tasks": "yes" if definition.can_list else "no",
        "remembers": seconds(raw["remembers"]) if "remembers" in raw else None,
        "free": raw.get("free", False),
        "definition": {**raw, "auth": auth},
    }
    if (most := raw.get("fixed", {}).get("n")) is not None:
        settings["limits"] = {**raw.get("limits", {}), "max_n": most}
        settings["fields"] = sorted({*settings["fields"], "n"})
    account = parse_account(PurePath(found.file).stem, settings)
    for name, value in raw.get("defaults", {}).items():
        if value is not None and (problem := outside_bounds(account, name, value)):
            diagnostics.add(("defaults", name), *problem)
    return DefinedApi(settings=settings, diagnostics=diagnostics)


def _hint(fault: Fault) -> str:
    if not fault.wrong:
        return fault.hint
    guess = nearest(fault.wrong, fault.known)
    return f"Did you mean `{guess}`?" if guess else f"Known are {listed(fault.known, 40)}."


def _check_account(raw: Mapping[str, Value], diagnostics: Diagnostics) -> None:
    """What the definition says of the account, by the schema of a manifest's own accounts."""
    own = {key: raw[key] for key in compiler.OF_ACCOUNT if key in raw}
    for error in schema.check([own], "provider"):
        diagnostics.add(error.path[1:], error.message, error.hint, key=error.key)
    check_declared(raw.get("parameters"), ("parameters",), diagnostics)
    auth = raw.get("auth")
    lasts = auth if isinstance(auth, dict) else {}
    for path, where in ((("remembers",), raw), (("link_ttl",), raw), (("auth", "for"), lasts)):
        for error in schema.check([where[path[-1]]], "duration") if path[-1] in where else ():
            diagnostics.add(path, error.message, error.hint)
    if raw.get("free", False) not in {True, False}:
        diagnostics.add(("free",), "This must be true or false.")
    fixed = raw.get("fixed", {})
    if fixed != {} and (not isinstance(fixed, dict) or set(fixed) != {"n"} or not isinstance(fixed["n"], int)):
        diagnostics.add(("fixed",), "Only the number of images can be fixed.", "Write `fixed: {n: 1}`.")
        raw["fixed"] = {}  # type: ignore[index]
    words = raw.get("words", {})
    if not isinstance(words, dict) or not all(isinstance(table, dict) for table in words.values()):
        diagnostics.add(("words",), "This is a mapping of a parameter's values to the API's words.")
    for number, host in enumerate(raw.get("hosts", []) if isinstance(raw.get("hosts", []), list) else []):
        if not isinstance(host, str) or "/" in host or "@" in host:
            diagnostics.add(("hosts", number), "This is no host.", "Write its name alone, as in api.example.org.")
    if isinstance(raw.get("base_url"), str):
        check_url(raw["base_url"], ("base_url",), diagnostics)


def _with_files(raw: Any, path: tuple[Any, ...], folder: Path | None, diagnostics: Diagnostics) -> Any:  # noqa: ANN401
    """The definition with the JSON files that it names in place of each `{from: FILE.json}` in a body."""
    if isinstance(raw, list):
        return [_with_files(child, (*path, number), folder, diagnostics) for number, child in enumerate(raw)]
    if not isinstance(raw, dict):
        return raw
    name = raw.get("from")
    if set(raw) != {"from"} or "json" not in path or not isinstance(name, str):
        return {key: _with_files(child, (*path, key), folder, diagnostics) for key, child in raw.items()}
    return _file(name, (*path, "from"), folder, diagnostics)


def _file(name: str, path: tuple[Any, ...], folder: Path | None, diagnostics: Diagnostics) -> Any:  # noqa: ANN401
    """What is in a JSON file beside the definition."""
    problem, hint = "", "Name a file beside the definition, saved in the API's own format."
    if folder is None:
        problem = "A definition that batchgen brings names no file."
    elif not (folder / name).resolve().is_relative_to(folder.resolve()):  # or it could send any file of the user
        problem = "This file is in another folder than the definition, and would be sent to the API."
    else:
        try:
            return json.loads(encoding.load_bytes(folder / name, name)[:_LONGEST])
        except (CommandError, ValueError, RecursionError) as error:
            problem = str(error) if isinstance(error, CommandError) else f"{name} is no JSON of at most 1 MB."
    diagnostics.add(path, problem, hint)
    return {}
