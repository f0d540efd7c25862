"""The parts of a manifest that say how to run: accounts, budget, patience, callback, durations."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from batchgen.catalog.accounts import REHEARSED, UNLISTED, parse_account
from batchgen.catalog.load import builtin as builtin_catalog
from batchgen.manifest.diagnostics import cut, meant
from batchgen.manifest.model import Budget, Callback, OnUnknown, RunOptions, Setting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchgen.catalog.accounts import Account
    from batchgen.manifest.diagnostics import Faults
    from batchgen.source.document import Value

_OF_ITS_OWN = ("protocol", "base_url", "models")  # what an account has to say that starts from no other
_OF_OPENAI = ("quality", "style", "background")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS = frozenset(
    {
        *("authorization", "proxy-authorization", "host", "content-length", "content-type", "transfer-encoding"),
        *("connection", "accept-encoding", "x-client-request-id"),
    }
)
_SECRET_HEADER = re.compile(r"auth|cookie|key|password|secret|token", re.IGNORECASE)
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(value: str | float) -> float:
    """A duration as written (`15m`, or a number of seconds), in seconds."""
    if isinstance(value, str):
        unit = _UNITS.get(value[-1])
        return float(value[:-1]) * unit if unit else float(value)
    return float(value)


def run_options(raw: Mapping[str, Value]) -> RunOptions:
    """How to run; what is absent takes its default."""
    given = dict(raw)
    for name in ("task_timeout", "give_up_after", "grace"):
        if given.get(name) is not None:
            given[name] = seconds(given[name])
    for name in ("max_attempts", "downloads"):
        if name in given:
            given[name] = int(given[name])
    if "on_unknown" in given:
        given["on_unknown"] = OnUnknown(given["on_unknown"])
    return RunOptions(**given)


def budget(raw: Mapping[str, Value]) -> Budget:
    """What may be asked for."""
    images, cost = raw.get("max_images"), raw.get("max_cost")
    return Budget(
        max_images=None if images is None else int(images),
        max_cost=None if cost is None else Decimal(str(cost)),
    )


def callback(raw: Mapping[str, Value] | None, account: Account, faults: Faults) -> Callback | None:
    """Where the gateway may report; an account that cannot is warned of."""
    if not raw or "public_url" not in raw:
        return None
    _check_public_url(raw["public_url"], faults)
    if "callback_url" not in account.fields:
        message = f"The account `{account.name}` does not know the field `callback_url`: it is run without callbacks."
        faults.add(("callback",), message, warning=True, key=True)
    host, _, port = str(raw.get("listen", "0.0.0.0:8787")).rpartition(":")
    if not 0 < int(port) < 65536:
        faults.add(("callback", "listen"), f"{port} is no port.", "A port is from 1 to 65535.")
    return Callback(public_url=raw["public_url"], host=host.strip("[]"), port=int(port))


def _check_public_url(url: str, faults: Faults) -> None:
    path = ("callback", "public_url")
    try:
        parts = urlsplit(url)
        has_password, _ = parts.username is not None, parts.port
    except ValueError:
        faults.add(path, f"{url} is no address.", "Write it as in https://example.org/hook.")
        return
    if has_password:
        faults.add(path, "A password is never written into a manifest.", "Take the part before the @ out.")


def on_finish(raw: Value) -> tuple[str, ...] | str | None:
    """Who is told of a run's end: a command as its words, or the URL of a webhook."""
    if isinstance(raw, list):
        return tuple(str(word) for word in raw)
    return None if raw is None else str(raw)


def accounts(raw: Mapping[str, Value], faults: Faults) -> dict[str, Account]:
    """The built-in accounts and the manifest's, by name."""
    found = dict(builtin_catalog().accounts)
    builtin = builtin_catalog().raw_accounts
    for name, over in raw.items():
        base = over.get("use", name)
        written = faults.document.value["providers"][name]
        if base not in builtin and "use" in written:
            continue  # said already
        if base not in builtin and (missing := [key for key in _OF_ITS_OWN if key not in over]):
            message = f"The account `{name}` is not built in and does not say what it starts from."
            hint = f"Add `use:` with one of {', '.join(builtin)}."
            if "protocol" not in missing:
                message = f"The account `{name}` uses the protocol {over['protocol']} and starts from no built-in one."
                hint = f"Add `{'` and `'.join(missing)}`."
            faults.add(("providers", name), message, hint, key=True)
            continue
        account = parse_account(name, builtin.get(base, UNLISTED), over)
        found[name] = account
        if "@" in account.base_url:
            message = "A password is never written into a manifest."
            faults.add(("providers", name, "base_url"), message, "Take the part before the @ out.")
        elif not _has_a_port(account.base_url):
            message = f"The port of {account.base_url} is none."
            faults.add(("providers", name, "base_url"), message, "A port is a number from 1 to 65535.")
        _check_headers(name, account, faults)
        _check_of_openai(name, account, over, faults)
        if missing := [key for key in account.key_settings if not getattr(account, key)]:
            message = f"The account `{name}` does not say which variable holds its key."
            faults.add(("providers", name), message, f"Add `{missing[0]}: NAME`.", key=True)
    return found


def _check_headers(name: str, account: Account, faults: Faults) -> None:
    for header in (*account.headers, *account.header_variables):
        at = ("providers", name, "headers", header)
        if not _HEADER.fullmatch(header):
            faults.add(at, f"`{cut(header)}` is not the name of a header.", "Use letters, digits and -.", key=True)
        elif header.lower() in _OWN_HEADERS:
            hint = "The key goes into the variable that `api_key_env` names." if "auth" in header.lower() else ""
            faults.add(at, f"The header `{header}` is batchgen's own to set.", hint or "Leave it out.", key=True)
        elif header in account.headers and _SECRET_HEADER.search(header):
            hint = f"Put it into a variable of the environment: {header}: {{env: NAME}}."
            faults.add(at, "A key is never written into a manifest.", hint, key=True)


def _check_of_openai(name: str, account: Account, over: Mapping[str, Value], faults: Faults) -> None:
    for key in _OF_OPENAI:
        if key in over and account.protocol != "openai":
            message = f"The account `{name}` speaks {account.protocol}, which has no field `{key}`."
            faults.add(("providers", name, key), message, "Only accounts that start from openai send it.", key=True)


def _has_a_port(url: str) -> bool:
    """Whether the address names a port that there can be, or none."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def own_defaults(account: Account) -> dict[str, Setting]:
    """What the account takes where the manifest gives nothing; the place is that which names the account."""
    return {name: Setting(value, ("provider",)) for name, value in account.defaults.items()}


def _playing(account: Account, sandbox: Account) -> Account:
    """The sandbox where it is to speak another wire protocol than its first, as the account that is rehearsed."""
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


def provider(
    wanted: str | None, raw: Mapping[str, Value], found: Mapping[str, Account], faults: Faults
) -> tuple[str, Account, Account] | None:
    """The account in force, by name, and the one whose rules decide."""
    own = raw.get("provider")
    defined = raw.get("providers")
    if own is not None and own not in found:
        if not (isinstance(defined, dict) and own in defined):
            hint = meant(str(own), found, allowed="There are")
            faults.add(("provider",), f'There is no account "{own}".', hint)
        own = None
    name = wanted if wanted is not None else own
    if name is None:
        return None
    if name not in found:
        faults.add(("provider",), f'There is no account "{name}".', meant(name, found, allowed="There are"))
        return None
    account = found[name]
    if account.is_local_sandbox and own is not None and found[own].protocol != account.protocol:
        account = _playing(found[own], account)
    # a rehearsal in the sandbox leaves out, or refuses, what the manifest's own account would
    rehearsed = account.is_local_sandbox and own is not None and wanted is not None
    if not rehearsed or own is None:
        return name, account, account
    rules = found[own]
    if rules.prices.by_model:  # so that a budget in money is rehearsed too
        account = replace(account, prices=rules.prices)
    return name, account, rules
