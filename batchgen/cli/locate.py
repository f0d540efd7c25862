"""Finds an existing output: for commands that need no more of a manifest than its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchgen.catalog.load import builtin
from batchgen.cli import options as common
from batchgen.errors import CommandError
from batchgen.source import document

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path


def find_output(options: Namespace) -> Path:
    """The output folder that the options mean. Raises CommandError where there is none.

    Only the manifest's name is read, so that a manifest which is being edited does not hide its output.
    """
    if options.output is not None:
        return _folder(common.output_folder(options, ""))
    raw = _mapping(document.read(options.manifest).value)
    name = raw.get("name")
    if not isinstance(name, str) or not name or "/" in name or "\\" in name or name.startswith("."):
        raise CommandError(f"{options.manifest} has no usable `name`; check it with: batchgen validate")
    accounts = {*builtin().accounts, *map(str, _mapping(raw.get("providers")))}
    if options.provider is not None and options.provider not in accounts:
        raise CommandError(f"There is no account {options.provider!r}. There are: {', '.join(sorted(accounts))}.")
    return _folder(common.output_folder(options, name))


def unit_of(options: Namespace) -> str:
    """The unit of the costs of the account that the manifest names; empty where the manifest does not say."""
    try:
        raw = _mapping(document.read(options.manifest).value)
    except CommandError:
        return ""
    name = str(options.provider or raw.get("provider"))
    account = _mapping(_mapping(raw.get("providers")).get(name))
    prices = _mapping(account.get("prices"))
    if "unit" in prices:
        return str(prices["unit"])
    known = builtin().accounts.get(str(account.get("use", name)))
    return "" if known is None else known.prices.unit


def _mapping(value: object) -> dict[Any, Any]:
    """The value where it is a mapping, else an empty one: what is wrong with it is for `validate` to say."""
    return value if isinstance(value, dict) else {}


def _folder(root: Path) -> Path:
    if root.exists() and not root.is_dir():
        raise CommandError(f"{root} is a file, not an output folder. Choose another --output.")
    return root
