"""`batchgen models`: the models and accounts of the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchgen.cli import options as common
from batchgen.cli.outcome import checked, print_result

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from batchgen.catalog.accounts import Account
    from batchgen.catalog.load import Catalog, Model

EXAMPLES = """\
batchgen models
batchgen models --json
"""
_AS_THEY_ARE = (
    *("name", "about", "base_url", "models", "aspect_ratios", "resolutions", "max_n", "concurrency"),
    *("lookup_by_external_id", "lists_tasks"),
)


def configure(parser: ArgumentParser) -> None:
    common.add_json(parser)


def execute(options: Namespace) -> int:
    from batchgen.catalog.load import builtin  # noqa: PLC0415 - reads a file

    catalog = builtin()
    if options.json:
        print_result(_as_data(catalog))
    else:
        print(_as_text(catalog))
    return 0


def _as_data(catalog: Catalog) -> dict[str, Any]:
    return {
        **checked(ok=True),
        "as_of": catalog.as_of,
        "models": [
            {"name": name, "about": model.about, "notes": _notes(model)} for name, model in catalog.models.items()
        ],
        "aspect_ratios": list(catalog.aspect_ratios),
        "resolutions": list(catalog.resolutions),
        "accounts": [_account(account) for account in catalog.accounts.values()],
    }


def _account(account: Account) -> dict[str, Any]:
    return {
        **{name: getattr(account, name) for name in _AS_THEY_ARE},
        "keys": account.key_variables,
        "sizes": {resolution: dict(table) for resolution, table in account.sizes.items()},
        "prices": {name: {k: str(v) for k, v in table.items()} for name, table in account.prices.by_model.items()},
        "price_unit": account.prices.unit,
    }


def _as_text(catalog: Catalog) -> str:
    lines = [f"Models (as of {catalog.as_of})"]
    for model in catalog.models.values():
        lines.append(f"  {model.name:<17}{model.about}")
        lines += [f"  {'':<17}- {note}" for note in _notes(model)]
    lines += [f"Ratios: {', '.join(catalog.aspect_ratios)}", f"Resolutions: {', '.join(catalog.resolutions)}"]
    lines.append("Accounts (the `provider` of a manifest; `providers` changes or adds one)")
    for account in catalog.accounts.values():
        keys = " and ".join(account.key_variables) or "none"
        lines.append(f"  {account.name:<17}{account.about}")
        lines.append(f"  {'':<17}- key: {keys}; {account.concurrency} slots; models: {', '.join(account.models)}")
        for resolution, table in account.sizes.items():
            lines.append(f"  {'':<17}- {resolution}: {', '.join(f'{ratio} {size}' for ratio, size in table.items())}")
        if not account.prices.by_model:
            lines.append(f"  {'':<17}- prices: not in the catalogue; set providers.{account.name}.prices")
    return "\n".join(lines)


def _notes(model: Model) -> list[str]:
    notes = [
        f"{limit.parameter}: {limit.value if limit.value is not None else 'none'}: {limit.why} (a warning)"
        for limit in model.known_limitations
    ]
    if model.image_reference:
        notes.append("image_reference: subject or face, required with every image")
    return notes
