"""The key `provider` where it names several accounts: which they are, and whether they go together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchgen.catalog.pool import Pool, PoolOrder
from batchgen.manifest.diagnostics import cut, listed, meant
from batchgen.manifest.schema import INVALID

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from batchgen.catalog.accounts import Account
    from batchgen.manifest.diagnostics import Diagnostics
    from batchgen.manifest.model import Manifest, NodePath, Settings
    from batchgen.source.document import Value


def names(raw: Mapping[str, Value]) -> Iterator[tuple[str, NodePath]]:
    """The accounts that `provider` names, each with its path."""
    given = raw.get("provider")
    listed_at: NodePath = ("provider",)
    if isinstance(given, dict):
        given, listed_at = given.get("pool", []), ("provider", "pool")
    if isinstance(given, list):
        yield from ((name, (*listed_at, number)) for number, name in enumerate(given) if name is not INVALID)
    elif given is not None:
        yield given, listed_at


def pool_of(raw: Mapping[str, Value], found: Mapping[str, Account]) -> Pool | None:
    """The accounts that are known; None where there is none."""
    known = dict.fromkeys(name for name, _ in names(raw) if name in found)
    if not known:
        return None
    given: Any = raw["provider"]
    options = given if isinstance(given, dict) else {}
    by = PoolOrder(options.get("by", PoolOrder.ORDER))
    return Pool(accounts=tuple(found[name] for name in known), by=by, spill=options.get("spill", False) is True)


def check(pool: Pool, raw: Mapping[str, Value], diagnostics: Diagnostics) -> None:
    """Report accounts that do not go together."""
    seen: set[str] = set()
    local = {account.name for account in pool.accounts if account.is_local_sandbox}
    named = list(names(raw))
    for name, path in named if len(named) > 1 else ():
        if name in seen:
            diagnostics.add(path, f'"{cut(name)}" is in the pool twice.', "Name it once.")
        seen.add(name)
        if name in local:
            message = f"The account `{name}` paints its images on this machine: it is no part of a pool."
            diagnostics.add(path, message, "Take it out; `--provider sandbox` rehearses the whole pool.")
    if pool.unit is not None:
        return
    units = listed(account.prices.unit or "no unit" for account in pool.accounts)
    if pool.by is PoolOrder.PRICE:
        message = f"The prices of the pool are in different units ({units}), so none is the cheapest."
        diagnostics.add(("provider", "by"), message, "Write `by: order` or `by: spread`.")
    if raw.get("budget", {}).get("max_cost") is not None:
        message = f"The prices of the pool are in different units ({units}), which cannot be added up."
        hint = f"Give each account its own: providers: {{{pool.accounts[0].name}: {{budget: {{max_cost: 20}}}}}}."
        diagnostics.add(("budget", "max_cost"), message, hint, key=True)


def check_sharing(raw: Mapping[str, Value], found: Mapping[str, Account], diagnostics: Diagnostics) -> None:
    """Report accounts that share the limits of one that there is not, or that shares them itself."""
    for name in raw:
        account = found.get(name)
        if account is None or not (other := account.shares_limits_with):
            continue
        path = ("providers", name, "shares_limits_with")
        if other not in found or other == name:
            hint = meant(other, [each for each in found if each != name], allowed="There are")
            diagnostics.add(path, f'There is no other account "{cut(other)}".', hint)
        elif further := found[other].shares_limits_with:
            diagnostics.add(path, f"The account `{other}` shares the limits of `{further}`.", f"Name `{further}` here.")


def asked(manifest: Manifest) -> frozenset[str]:
    """The parameters that the manifest sets anywhere, besides the defaults of its account."""
    names = {name for name, setting in manifest.defaults.items() if setting.path != ("provider",)}
    for block in (*manifest.blocks, *manifest.include):
        for group in block.prompts:
            names |= _names((group.settings, *group.row_settings.values()))
        for axis in (*block.vars, *block.axes):
            names |= _names(entry.settings for entry in axis.entries)
    return frozenset(names)


def _names(all_settings: Iterable[Settings]) -> set[str]:
    return {name for settings in all_settings for name in settings}
