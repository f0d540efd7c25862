"""Reads a manifest: text → schema → `Manifest`, with every error in one pass."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import batchgen
from batchgen.catalog.load import catalog_text
from batchgen.catalog.pool import Pool
from batchgen.jobs import ID_VERSION
from batchgen.manifest import accounts, pools, schema, settings
from batchgen.manifest.axes import Axes
from batchgen.manifest.checks import image_checks, on_reject
from batchgen.manifest.diagnostics import Diagnostics
from batchgen.manifest.model import Manifest, OnIllegal, Setting
from batchgen.manifest.reading import Reader
from batchgen.manifest.references import References
from batchgen.manifest.schema_file import default
from batchgen.source import document, encoding
from batchgen.storage.paths import DEFAULT_TEMPLATE, PathInvalid, PathTemplate

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from batchgen.catalog.accounts import Account
    from batchgen.source.document import Value

_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def read_manifest(path: Path | str, *, provider: str | None = None) -> tuple[Manifest | None, Diagnostics]:
    """A manifest as far as it can be read without a walk of its matrix, and what is wrong with it.

    `provider` replaces its own account. Raises CommandError when the file cannot be read.
    """
    path = Path(path)
    data = encoding.load_bytes(path, str(path))
    found, problems = document.collect(encoding.decode(data, str(path)), str(path))
    diagnostics = Diagnostics(found)
    diagnostics.extend(problems)
    raw = _by_schema(found.value, diagnostics)
    manifest = _assembled(path, raw, provider, diagnostics, data) if isinstance(raw, dict) else None
    return manifest, diagnostics


def _by_schema(value: Value, diagnostics: Diagnostics) -> Value:
    """The document without what the schema refuses, which is reported."""
    if not isinstance(value, dict):
        hint = "Begin with `version: 1`, `name: …` and `provider: sandbox`."
        diagnostics.add((), "A manifest is a mapping: keys with values.", hint)
        return None
    errors = schema.check(value)
    for error in errors:
        diagnostics.add(error.path, error.message, error.hint, key=error.key)
    misspelt = any(error.hint in {"Did you mean `matrix`?", "Did you mean `include`?"} for error in errors)
    if "matrix" not in value and "include" not in value and not misspelt:
        diagnostics.add((), "The manifest asks for nothing.", "Add `matrix` (or `include`), with a prompt.")
    return schema.cleaned(value, errors)


def _assembled(
    path: Path, raw: dict[str, Any], provider: str | None, diagnostics: Diagnostics, data: bytes
) -> Manifest | None:
    folder = path.parent
    references = References(folder)
    name = str(raw.get("name", ""))
    if _DEVICE.fullmatch(name):
        diagnostics.add(("name",), f'"{name}" is the name of a device on Windows.', "Choose another name.")
    used = (*(name for name, _ in pools.names(raw)), provider)
    known = accounts.accounts(raw.get("providers", {}), used, folder, diagnostics)
    sandbox = known["sandbox"]
    pool, rule_accounts = accounts.in_force(provider, raw, known, diagnostics) or (
        Pool(accounts=(sandbox,)),
        (sandbox,),
    )
    account = pool.accounts[0]
    reader = Reader(
        document=diagnostics.document,
        folder=folder,
        diagnostics=diagnostics,
        references=references,
        accounts=rule_accounts,
    )
    axes = _axes(reader, raw.get("defaults", {}), rule_accounts[0])
    blocks = tuple(axes.blocks(raw.get("matrix")))
    include = tuple(axes.inclusions(raw.get("include", ())))
    var_names = axes.unread.union(*(block.placeholders for block in blocks))
    template = _output_path(raw, var_names.union(*(job.placeholders for job in include)), diagnostics)
    _check_further(reader, var_names.union(*(job.placeholders for job in include)))
    exclude = tuple(axes.exclusions(raw.get("exclude", ()), var_names))
    manifest = Manifest(
        path=path,
        name=name,
        provider=account.name,
        account=account,
        accounts=known,
        pool=pool,
        rule_accounts=rule_accounts,
        spreadsheet_safe=raw.get("output", {}).get("spreadsheet_safe") is True,
        metadata=raw.get("output", {}).get("metadata") is True,
        output_path=template or PathTemplate.parse(DEFAULT_TEMPLATE, ()),
        defaults=axes.defaults,
        blocks=tuple(replace(block, exclude=exclude) for block in blocks),
        exclude=exclude,
        include=include,
        repeat=int(raw.get("repeat", default("repeat"))),
        max_jobs=int(raw.get("max_jobs", default("max_jobs"))),
        budget=settings.budget(raw.get("budget", {})),
        run=settings.run_options(raw.get("run", {}), rule_accounts),
        on_illegal=OnIllegal(raw.get("on_illegal", default("on_illegal"))),
        callback=settings.callback(raw.get("callback"), pool.accounts, diagnostics),
        on_finish=settings.on_finish(raw.get("on_finish")),
        further_names=tuple(sorted(reader.further)),
        checks=tuple(image_checks(raw.get("checks", ()), folder, diagnostics)),
        on_reject=on_reject(raw.get("on_reject", {}), diagnostics),
    )
    definitions = [{k: v for k, v in each.definition.items() if k != "examples"} for each in rule_accounts]
    defined = (json.dumps(definition, sort_keys=True) for definition in definitions if definition)
    names = " ".join(each.name for each in pool.accounts)
    manifest = replace(manifest, asked=pools.asked(manifest))
    return replace(manifest, digest=_digest(data, f"{names}{''.join(defined)}", axes, references))


def _axes(reader: Reader, defaults: dict[str, Any], account: Account) -> Axes:
    default_prompt = None
    if "prompt" in defaults:
        text = reader.prompt(defaults["prompt"], ("defaults", "prompt"))
        default_prompt = None if text is None else (text, ("defaults", "prompt"))
    own = {name: Setting(value, ("provider",)) for name, value in account.defaults.items()}
    found = {**own, **reader.settings(defaults, ("defaults",))}
    return Axes(reader=reader, defaults=found, default_prompt=default_prompt)


def _check_further(reader: Reader, names: AbstractSet[str]) -> None:
    """A var or a label with the name of a parameter that the manifest gives: `--only` and `exclude` name either."""
    for name in sorted(reader.further.keys() & names):
        message = f"`{name}` is a parameter here, and also a var or a label."
        reader.diagnostics.add(reader.further[name], message, "Rename the var or the label.", key=True)


def _output_path(raw: dict[str, Any], names: set[str], diagnostics: Diagnostics) -> PathTemplate | None:
    text = raw.get("output", {}).get("path", DEFAULT_TEMPLATE)
    try:
        return PathTemplate.parse(text, names)
    except PathInvalid as fault:
        diagnostics.add(("output", "path"), str(fault))
        return None


def _digest(data: bytes, provider: str, axes: Axes, references: References) -> str:
    """What decides which jobs there are, in which order, and where their files go."""
    hasher = hashlib.sha256()
    parts = [f"batchgen {batchgen.__version__} ids {ID_VERSION}", provider]
    parts += [f"{name}={digest}" for name, digest in axes.files.items()]
    parts += references.identities()
    for part in (data, *(part.encode() for part in (catalog_text(), *parts))):
        hasher.update(hashlib.sha256(part).digest())
    return hasher.hexdigest()
