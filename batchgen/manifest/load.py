"""Reading a manifest: text → schema → meaning → `Manifest`, or every problem in one pass."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import batchgen
from batchgen.errors import ManifestInvalid
from batchgen.jobs import ID_VERSION
from batchgen.manifest import schema, settings
from batchgen.manifest.axes import Axes
from batchgen.manifest.check import Check
from batchgen.manifest.diagnostics import Faults
from batchgen.manifest.model import DEFAULT_MAX_JOBS, Manifest, OnIllegal
from batchgen.manifest.reading import Reader
from batchgen.manifest.references import References
from batchgen.source import document, encoding
from batchgen.storage.paths import DEFAULT_TEMPLATE, PathInvalid, PathTemplate

if TYPE_CHECKING:
    from batchgen.manifest.model import Settings
    from batchgen.source.document import Value

_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def load_manifest(path: Path | str, *, provider: str | None = None) -> Manifest:
    """A manifest that is right in every respect; `provider` takes the place of its own account.

    Raises ManifestInvalid with every problem, in the order of their places; CommandError when the file
    cannot be read.
    """
    path = Path(path)
    data = encoding.load_bytes(path, str(path))
    found, problems = document.collect(encoding.decode(data, str(path)), str(path))
    faults = Faults(found)
    faults.extend(problems)
    raw = _by_schema(found.value, faults)
    manifest = _assembled(path, raw, provider, faults, data) if isinstance(raw, dict) else None
    if manifest is None or faults.errors:
        raise ManifestInvalid(faults.in_order())
    return replace(manifest, warnings=faults.in_order())


def _by_schema(value: Value, faults: Faults) -> Value:
    """The document without what the schema refuses, which is said."""
    if not isinstance(value, dict):
        hint = "Begin with `version: 1`, `name: …` and `provider: sandbox`."
        faults.add((), "A manifest is a mapping: keys with values.", hint)
        return None
    refused = schema.check(value)
    for fault in refused:
        faults.add(fault.path, fault.message, fault.hint, key=fault.key)
    if any(fault.ends for fault in refused):
        return None
    if "matrix" not in value and "include" not in value:
        faults.add((), "The manifest asks for nothing.", "Add `matrix` (or `include`), with a prompt.")
    return schema.cleaned(value, refused)


def _assembled(path: Path, raw: dict[str, Any], provider: str | None, faults: Faults, data: bytes) -> Manifest | None:
    folder = path.parent
    references = References(folder, faults)
    reader = Reader(document=faults.document, folder=folder, faults=faults, references=references)
    name = str(raw.get("name", ""))
    if _DEVICE.fullmatch(name):
        faults.add(("name",), f'"{name}" is the name of a device on Windows.', "Choose another name.")
    accounts = settings.accounts(raw.get("providers", {}), faults)
    account = settings.provider(provider, raw, accounts, faults)
    in_force = account or ("sandbox", accounts["sandbox"], accounts["sandbox"])
    axes = _axes(reader, raw.get("defaults", {}), settings.own_defaults(in_force[2]))
    blocks = tuple(axes.blocks(raw.get("matrix")))
    include = tuple(axes.inclusions(raw.get("include")))
    var_names = frozenset(name for block in blocks for name in block.placeholders)
    template = _output_path(raw, var_names | {n for job in include for n in job.vars}, faults)
    manifest = Manifest(
        path=path,
        name=name,
        provider=in_force[0],
        account=in_force[1],
        accounts=accounts,
        rule_account=in_force[2],
        spreadsheet_safe=raw.get("output", {}).get("spreadsheet_safe") is True,
        output_path=template or PathTemplate.parse(DEFAULT_TEMPLATE, ()),
        defaults=axes.defaults,
        blocks=blocks,
        exclude=tuple(axes.exclusions(raw.get("exclude"), var_names)),
        include=include,
        repeat=int(raw.get("repeat", 1)),
        max_jobs=int(raw.get("max_jobs", DEFAULT_MAX_JOBS)),
        budget=settings.budget(raw.get("budget", {})),
        run=settings.run_options(raw.get("run", {})),
        on_illegal=OnIllegal(raw.get("on_illegal", OnIllegal.ERROR)),
        callback=settings.callback(raw.get("callback"), in_force[1], faults),
        on_finish=settings.on_finish(raw.get("on_finish")),
    )
    check = Check(manifest=manifest, faults=faults, quiet=bool(faults.errors))
    check.run()
    digest = _digest(data, in_force[0], axes, references)
    return replace(manifest, blocks=check.manifest.blocks, left_out=check.left_out, digest=digest)


def _axes(reader: Reader, defaults: dict[str, Any], own: Settings) -> Axes:
    default_prompt = None
    if "prompt" in defaults:
        text = reader.prompt(defaults["prompt"], ("defaults", "prompt"))
        default_prompt = None if text is None else (text, ("defaults", "prompt"))
    found = {**own, **reader.settings(defaults, ("defaults",))}
    return Axes(reader=reader, defaults=found, default_prompt=default_prompt)


def _output_path(raw: dict[str, Any], names: frozenset[str] | set[str], faults: Faults) -> PathTemplate | None:
    text = raw.get("output", {}).get("path", DEFAULT_TEMPLATE)
    try:
        return PathTemplate.parse(text, names)
    except PathInvalid as fault:
        faults.add(("output", "path"), str(fault))
        return None


def _digest(data: bytes, provider: str, axes: Axes, references: References) -> str:
    """What decides which jobs there are, in which order, and where their files go."""
    mould = hashlib.sha256()
    rules = resources.files("batchgen.catalog").joinpath("catalog.yaml").read_bytes()
    parts = [f"batchgen {batchgen.__version__} ids {ID_VERSION}", provider]
    parts += [f"{name}={digest}" for name, digest in axes.files.items()]
    parts += references.identities()
    for part in (data, rules, *(part.encode() for part in parts)):
        mould.update(hashlib.sha256(part).digest())
    return mould.hexdigest()
