"""`batchgen doctor`: whether the accounts of a manifest can be used, before anything is paid."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchgen.app.doctor import TIMEOUT_SECONDS, Health, accounts_of, examine
from batchgen.app.load import load_manifest
from batchgen.cli import options as common
from batchgen.cli.outcome import checked, print_result

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


EXAMPLES = """\
batchgen doctor spring.yaml
batchgen doctor spring.yaml --provider kapon --timeout 5
"""


def configure(parser: ArgumentParser) -> None:
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
        default=TIMEOUT_SECONDS,
        help=f"seconds that each question may take (default: {TIMEOUT_SECONDS:g})",
    )
    common.add_json(parser)


def execute(options: Namespace) -> int:
    """0 when every account can be used, 1 when something is wrong with one."""
    manifest = load_manifest(options.manifest, provider=options.provider)
    found = []
    for account in accounts_of(manifest) if options.provider is None else [manifest.account]:
        listens = manifest.callback is not None and account is manifest.account
        health = asyncio.run(examine(account, timeout=options.timeout, listens=listens))
        found.append(health)
        if not options.json:
            print(_as_text(health), flush=True)
    ok = all(health.ok for health in found)
    if options.json:
        print_result({**checked(ok=ok), "accounts": [_as_data(health) for health in found]})
    else:
        print(_sentence(found))
    return 0 if ok else 1


def _as_data(health: Health) -> dict[str, Any]:
    account = health.account
    return {
        "account": account.name,
        "base_url": account.base_url or None,
        "protocol": account.protocol,
        "auth": account.auth.value,
        "ok": health.ok,
        "checks": [
            {"check": each.name, "verdict": each.verdict.value, "text": each.text, "advice": each.advice}
            for each in health.checks
        ],
        "clock_ahead_seconds": None if health.clock_skew is None else round(health.clock_skew, 1),
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
    failed = [health.account.name for health in found if not health.ok]
    if failed:
        return f"Something is wrong with {', '.join(failed)}. Nothing was sent that could cost money."
    what = "The account is" if len(found) == 1 else f"All {len(found)} accounts are"
    return f"{what} ready to run."
