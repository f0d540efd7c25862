"""The accounts of a manifest: the built-in ones, those of `providers`, and the one in force."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from batchgen.catalog import definitions
from batchgen.catalog.accounts import REHEARSED, UNLISTED, merge, parse_account
from batchgen.catalog.load import builtin
from batchgen.catalog.pool import Pool
from batchgen.errors import CommandError, SourceLocation
from batchgen.manifest import definitions as definition_files
from batchgen.manifest import pools
from batchgen.manifest.diagnostics import cut, listed, meant, nearest
from batchgen.manifest.parameters import check_declared
from batchgen.manifest.reading import outside_bounds
from batchgen.manifest.settings import check_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from batchgen.catalog.accounts import Account
    from batchgen.manifest.diagnostics import Diagnostics
    from batchgen.source.document import Value

_REQUIRED = ("protocol", "base_url", "models")  # of an account that starts from no built-in one
_OF_OPENAI = ("quality", "style", "background")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS = frozenset(
    {
        *("authorization", "proxy-authorization", "host", "content-length", "content-type", "transfer-encoding"),
        *("connection", "accept-encoding", "x-client-request-id"),
    }
)
_SECRET_HEADER = re.compile(r"auth|cookie|key|password|secret|token", re.IGNORECASE)


def accounts(
    raw: Mapping[str, Value], used: Iterable[str | None], folder: Path, diagnostics: Diagnostics
) -> dict[str, Account]:
    """The built-in accounts and the manifest's, by name, and those of the shipped definitions that are `used`."""
    found = dict(builtin().accounts)
    for name in used:
        if name in definitions.names() and name not in raw:
            found[name] = parse_account(name, definition_files.shipped(name).settings or {})
    for name, changes in raw.items():
        if (own := _base(name, changes, folder, diagnostics)) is None:
            continue
        account = parse_account(name, own, changes)
        found[name] = account
        check_url(account.base_url, ("providers", name, "base_url"), diagnostics)
        _check_headers(name, account, diagnostics)
        _check_values(name, account, changes, diagnostics)
        _check_delay(name, account, own.get("visibility_delay", 0), diagnostics)
    pools.check_sharing(raw, found, diagnostics)
    return found


def _base(
    name: str, changes: Mapping[str, Value], folder: Path, diagnostics: Diagnostics
) -> Mapping[str, Value] | None:
    """The settings that an account starts from; None where it has none, which is reported."""
    base, known = changes.get("use", name), builtin().raw_accounts
    if base in known or base in definitions.names():
        return known[base] if base in known else definition_files.shipped(base).settings
    if "use" in changes and definition_files.is_file(base):
        return _of_file(name, base, folder, diagnostics)
    if "use" in changes:
        known_names = (*known, *definitions.names())
        guess = nearest(base, known_names)
        hint = f"Did you mean {guess}? " if guess else ""
        allowed = f"{hint}Allowed are {listed(known_names, 40)}, and a file as in ./my.yaml."
        diagnostics.add(("providers", name, "use"), f'"{cut(base)}" is not allowed here.', allowed)
        return None
    if not _stands_alone(name, changes, diagnostics):
        return None
    return merge(builtin().of_protocol.get(changes["protocol"], {}), UNLISTED)


def _of_file(name: str, file: str, folder: Path, diagnostics: Diagnostics) -> Mapping[str, Value] | None:
    """The settings of a definition beside the manifest; what is wrong with it is reported at its own places."""
    try:
        defined = definition_files.read(folder / file)
    except CommandError as error:
        hint = "The path is relative to the manifest."
        diagnostics.add(("providers", name, "use"), str(error), hint)
        return None
    diagnostics.extend(defined.diagnostics.problems)
    return defined.settings


def _stands_alone(name: str, changes: Mapping[str, Value], diagnostics: Diagnostics) -> bool:
    """Whether an account that starts from no built-in one has what it needs."""
    missing = [f"`{key}`" for key in _REQUIRED if key not in changes]
    if changes.get("protocol") == "declared":
        hint = "Write `use: ./my.yaml` instead of `protocol`; see the page Describe an API."
        diagnostics.add(("providers", name, "protocol"), "A declared account needs its definition.", hint)
        return False
    if missing:
        message = f"The account `{name}` is not built in and does not say what it starts from."
        hint = f"Add `use:` with one of {', '.join(builtin().accounts)}; or add {listed(missing)}."
        diagnostics.add(("providers", name), message, hint, key=True)
    return not missing


def _check_headers(name: str, account: Account, diagnostics: Diagnostics) -> None:
    for header in (*account.headers, *account.header_variables):
        at = ("providers", name, "headers", header)
        if not _HEADER.fullmatch(header):
            diagnostics.add(at, f"`{cut(header)}` is not the name of a header.", "Use letters, digits and -.", key=True)
        elif header.lower() in _OWN_HEADERS:
            hint = "The key goes into the variable that `api_key_env` names." if "auth" in header.lower() else ""
            diagnostics.add(at, f"The header `{header}` is set by batchgen.", hint or "Leave it out.", key=True)
        elif header in account.headers and _SECRET_HEADER.search(header):
            hint = f"Put it into an environment variable: {header}: {{env: NAME}}."
            diagnostics.add(at, "A key is never written into a manifest.", hint, key=True)


def _check_delay(name: str, account: Account, documented: float, diagnostics: Diagnostics) -> None:
    if account.protocol == "declared" and account.visibility_delay < documented:
        message = f"The definition says that a task may appear {documented:g} s after its create."
        hint = "With less, a task that appears later may be taken to be absent, and paid twice."
        diagnostics.add(("providers", name, "visibility_delay"), message, hint, warning=True)


def _check_values(name: str, account: Account, changes: Mapping[str, Value], diagnostics: Diagnostics) -> None:
    for key in _OF_OPENAI:
        if key in changes and account.protocol != "openai":
            message = f"The account `{name}` has the protocol {account.protocol}, which has no field `{key}`."
            diagnostics.add(
                ("providers", name, key), message, "Only accounts that start from openai send it.", key=True
            )
    check_declared(changes.get("parameters"), ("providers", name, "parameters"), diagnostics, account)
    for key, value in changes.get("defaults", {}).items():
        if value is not None and (problem := outside_bounds(account, key, value)):
            diagnostics.add(("providers", name, "defaults", key), *problem)
    for model, own in account.model_names.items():
        if own not in account.models:
            message = f'The account `{name}` has no model "{cut(own)}".'
            diagnostics.add(("providers", name, "model_names", model), message, meant(own, account.models))
    if missing := [key for key in account.key_settings if not getattr(account, key)]:
        message = f"The account `{name}` does not say which variable holds its key."
        diagnostics.add(("providers", name), message, f"Add `{missing[0]}: NAME`.", key=True)


def in_force(
    wanted: str | None, raw: Mapping[str, Value], found: Mapping[str, Account], diagnostics: Diagnostics
) -> tuple[Pool, tuple[Account, ...]] | None:
    """The accounts in force, and those whose rules decide; `wanted` replaces the manifest's own, all of them.

    A rehearsal in the sandbox leaves out, or refuses, what the manifest's own accounts would.
    """
    option = SourceLocation(file=f"--provider {cut(wanted or '')}")
    pool = pools.pool_of(raw, found)
    for name, path, place in (*((name, path, None) for name, path in pools.names(raw)), (wanted, (), option)):
        if name is not None and not (name in found or name in raw.get("providers", {})):  # the latter is reported
            hint = meant(name, (*found, *definitions.names()), allowed="There are")
            diagnostics.add(path, f'There is no account "{cut(name)}".', hint, place=place)
    if wanted is None and pool is not None:
        pools.check(pool, raw, diagnostics)
        if not pool.is_alone:
            return pool, pool.accounts
    account = found.get(wanted) if wanted is not None else pool.accounts[0] if pool else None
    if account is None:
        return None
    if pool is None:
        return Pool(accounts=(account,)), (account,)
    account, rules = _rehearsed(account, pool.accounts[0], wanted)
    alone = Pool(accounts=(account,))
    return alone, (rules,) if rules is account or pool.is_alone else pool.accounts


def _rehearsed(account: Account, rules: Account, wanted: str | None) -> tuple[Account, Account]:
    """The account in force as it rehearses another one, and the one whose rules decide."""
    if not account.is_local_sandbox:
        return account, account
    if rules.protocol != account.protocol:
        account = _emulating(rules, account)
    if wanted is None:
        return account, account
    if rules.prices.by_model:  # so that a budget in money is rehearsed too
        account = replace(account, prices=rules.prices)
    return account, rules


def _emulating(account: Account, sandbox: Account) -> Account:
    """The sandbox with the protocol of the account that is rehearsed, where it can speak that."""
    if account.protocol not in REHEARSED:
        return sandbox
    return replace(
        account,
        name=sandbox.name,
        about=sandbox.about,
        base_url=sandbox.base_url,
        auth=sandbox.auth,
        headers={},
        header_variables={},
        concurrency=sandbox.concurrency,
        creates_per_minute=None,
        visibility_delay=sandbox.visibility_delay,
        prices=sandbox.prices,
    )
