"""Where an existing output is: for commands that need no more of a manifest than its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.catalog.load import builtin
from batchgen.cli import options as common
from batchgen.errors import CommandError
from batchgen.source import document

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path


def found_output(options: Namespace) -> Path:
    """The output folder that the options mean.

    Only the manifest's name is read, so that a manifest which is being edited does not hide its output.
    Raises CommandError where it has none.
    """
    if options.output is not None:
        return _folder(common.output_folder(options, ""))
    read = document.read(options.manifest)
    name = read.value.get("name") if isinstance(read.value, dict) else None
    if not isinstance(name, str) or not name or "/" in name or "\\" in name or name.startswith("."):
        raise CommandError(f"{options.manifest} has no usable `name`; check it with: batchgen validate")
    accounts = {*builtin().accounts, *(read.value.get("providers") or {})}
    if options.provider is not None and options.provider not in accounts:
        raise CommandError(f"There is no account {options.provider!r}. There are: {', '.join(sorted(accounts))}.")
    return _folder(common.output_folder(options, name))


def unit_of(options: Namespace) -> str:
    """The unit of the costs of the account that the manifest names; empty where the manifest does not tell."""
    try:
        raw = document.read(options.manifest).value
    except CommandError:
        return ""
    raw = raw if isinstance(raw, dict) else {}
    name = str(options.provider or raw.get("provider"))
    own = raw.get("providers")
    account = own.get(name) if isinstance(own, dict) else None
    account = account if isinstance(account, dict) else {}
    prices = account.get("prices")
    if isinstance(prices, dict) and "unit" in prices:
        return str(prices["unit"])
    known = builtin().accounts.get(str(account.get("use", name)))
    return "" if known is None else known.prices.unit


def _folder(root: Path) -> Path:
    if root.exists() and not root.is_dir():
        raise CommandError(f"{root} is a file, not an output folder. Choose another --output.")
    return root
