"""The parts of a manifest that say how to run: durations, budget, callback, and what happens at the end."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from batchgen.manifest.model import Budget, Callback, OnUnknown, RunOptions
from batchgen.manifest.schema_file import default, manifest_schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from batchgen.catalog.accounts import Account
    from batchgen.manifest.diagnostics import Diagnostics
    from batchgen.manifest.model import NodePath
    from batchgen.source.document import Value

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(value: str | float) -> float:
    """A duration as written (`15m`, or a number of seconds), in seconds."""
    if isinstance(value, str) and value[-1] in _UNITS:
        return float(value[:-1]) * _UNITS[value[-1]]
    return float(value)


def run_options(raw: Mapping[str, Value], accounts: Iterable[Account]) -> RunOptions:
    """How to run; what is absent takes its default."""
    keys = manifest_schema()["properties"]["run"]["properties"]
    options = {name: default("run", name) for name in keys} | dict(raw)
    for name in ("give_up_after", "grace", "task_timeout"):
        options[name] = None if options[name] is None else seconds(options[name])
    for name in ("max_attempts", "downloads"):
        options[name] = int(options[name])
    if "on_unknown" not in raw and all(account.free for account in accounts):
        options["on_unknown"] = OnUnknown.RESEND
    options["on_unknown"] = OnUnknown(options["on_unknown"])
    return RunOptions(**options)


def budget(raw: Mapping[str, Value]) -> Budget:
    """What the runs may ask for."""
    images, cost = raw.get("max_images"), raw.get("max_cost")
    return Budget(
        max_images=None if images is None else int(images),
        max_cost=None if cost is None else Decimal(str(cost)),
    )


def callback(raw: Mapping[str, Value] | None, accounts: Sequence[Account], diagnostics: Diagnostics) -> Callback | None:
    """Where the gateway may report; an account that cannot gets a warning."""
    if not raw or "public_url" not in raw:
        return None
    check_url(raw["public_url"], ("callback", "public_url"), diagnostics)
    if not any("callback_url" in account.fields for account in accounts):
        name = accounts[0].name
        message = f"The account `{name}` does not know the field `callback_url`; it runs without callbacks."
        diagnostics.add(("callback",), message, warning=True, key=True)
    host, _, port = str(raw.get("listen", default("callback", "listen"))).rpartition(":")
    if not 0 < int(port) < 65536:
        diagnostics.add(("callback", "listen"), f"{port} is not a port.", "A port is from 1 to 65535.")
    return Callback(public_url=raw["public_url"], host=host.strip("[]"), port=int(port))


def check_url(url: str, path: NodePath, diagnostics: Diagnostics) -> None:
    """Report an address that has a password, or that nothing can be sent to."""
    try:
        parts = urlsplit(url)
        has_password, is_address = parts.username is not None, parts.port != 0
    except ValueError:
        has_password, is_address = False, False
    if has_password:
        message = "A password is never written into a manifest."
        diagnostics.add(path, message, "Take the part before the @ out.")
    elif not is_address:
        message = f"{url} is not an address."
        diagnostics.add(path, message, "Write it as in https://example.org/hook; a port is from 1 to 65535.")


def on_finish(raw: Value) -> tuple[str, ...] | str | None:
    """What to do when a run has ended: a command as its words, or the URL of a webhook."""
    if isinstance(raw, list):
        return tuple(str(word) for word in raw)
    return None if raw is None else str(raw)
