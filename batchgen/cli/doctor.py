"""`batchgen doctor`: whether the accounts of a manifest can be used, before anything is paid."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchgen.app.doctor.health import PATIENCE_SECONDS, Check, Health, Verdict
from batchgen.catalog.catalog import builtin
from batchgen.cli import options as common
from batchgen.cli.gateway import gateway_in
from batchgen.cli.outcome import checked
from batchgen.errors import CommandError
from batchgen.manifest.load import load_manifest

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from batchgen.catalog.catalog import Account
    from batchgen.manifest.model import Manifest


def configure(parser: ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="the manifest, a YAML file")
    parser.add_argument(
        "--provider",
        metavar="NAME",
        help="this account alone (default: the manifest's own, and those that its `providers` name)",
    )
    parser.add_argument(
        "--timeout",
        metavar="S",
        type=common.seconds,
        default=PATIENCE_SECONDS,
        help=f"seconds that each question may take (default: {PATIENCE_SECONDS:g})",
    )
    common.add_json(parser)


def execute(options: Namespace) -> int:
    """0 when every account can be used, 1 when something is wrong with one."""
    manifest = load_manifest(options.manifest, provider=options.provider)
    found = []
    for account in _accounts(manifest, only_one=options.provider is not None):
        health = asyncio.run(_examine(account, options.timeout))
        found.append(health)
        if not options.json:
            print(_as_text(health), flush=True)
    is_fine = all(health.is_fine for health in found)
    if options.json:
        data = {**checked(ok=is_fine), "accounts": [_as_data(health) for health in found]}
        print(json.dumps(data, ensure_ascii=False, indent=2))
    else:
        print(_sentence(found))
    return 0 if is_fine else 1


def _accounts(manifest: Manifest, *, only_one: bool) -> list[Account]:
    """The one in force first."""
    own = builtin().accounts
    named = [name for name, account in manifest.accounts.items() if account is not own.get(name)]
    others = [] if only_one else [manifest.accounts[name] for name in named if name != manifest.provider]
    return [manifest.account, *others]


async def _examine(account: Account, patience: float) -> Health:
    from batchgen.app.doctor.examination import Examination  # noqa: PLC0415 - aiohttp costs 250 ms
    from batchgen.http.client import open_get_only_client  # noqa: PLC0415

    try:
        async with gateway_in(None)(account) as reached, open_get_only_client(1) as client:
            health = await Examination(reached, client, patience=patience).run()
    except CommandError as error:  # the sandbox in this process could not be started
        health = Health(account=account, checks=(Check(name="host", verdict=Verdict.PROBLEM, text=str(error)),))
    return replace(health, account=account)


# --- saying it ----------------------------------------------------------------------------------------------


def _as_data(health: Health) -> dict[str, Any]:
    account = health.account
    return {
        "account": account.name,
        "base_url": account.base_url or None,
        "protocol": account.protocol,
        "auth": account.auth.value,
        "ok": health.is_fine,
        "checks": [
            {"check": each.name, "verdict": each.verdict.value, "text": each.text, "advice": each.advice}
            for each in health.checks
        ],
        "clock_ahead_seconds": None if health.ahead is None else round(health.ahead, 1),
        "query_seconds": None if health.latency is None else round(health.latency, 3),
    }


def _as_text(health: Health) -> str:
    where = health.account.base_url or "started on this machine when it is needed"
    lines = [f"{health.account.name} ({where})"]
    for each in health.checks:
        end = "" if each.text.endswith((".", "!", "?")) or not each.advice else "."
        lines.append(f"  {each.verdict.value:<9}{each.name:<9}{each.text}{end} {each.advice}".rstrip())
    return "\n".join(lines)


def _sentence(found: list[Health]) -> str:
    sick = [health.account.name for health in found if not health.is_fine]
    if sick:
        return f"Something is wrong with {', '.join(sick)}. Nothing was sent that could cost money."
    what = "The account is" if len(found) == 1 else f"All {len(found)} accounts are"
    return f"{what} ready to run."
