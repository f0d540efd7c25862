"""`batchgen sandbox`: the local gateway as a server of its own."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.errors import CommandError, ManifestInvalid
from batchgen.sandbox.formats import Format
from batchgen.sandbox.settings import PROFILES, Settings

if TYPE_CHECKING:
    from batchgen.catalog.accounts import Account
    from batchgen.sandbox.faults.schedule import FaultSettings

EXAMPLES = """\
batchgen sandbox --port 8080
batchgen sandbox --latency 20 --concurrency 9 --seed 7
"""
_EPILOG = """\
faults that --faults all=RATE includes:
{common}

faults that must be named:
{named}

words in a prompt that produce an outcome:
  forbidden-word     the create is refused by content safety (400/1301; OpenAI API: moderation_blocked)
  policy-word        the create is refused by policy (400/1300; OpenAI API: content_policy_violation)
  fail-this-task     the create is accepted and its task fails (OpenAI API: HTTP 500)

/_usage on the server reports requests, tasks and what was billed; /_usage?tasks=0 gives the totals.

{epilog}"""
_EXAMPLE = """\
The sandbox listens on {base_url} and emulates {emulate}. Press Ctrl-C to stop it. To use it in a manifest:
  provider: local
  providers:
    local: {{use: {emulate}, base_url: "{base_url}"{key}, limits: {{concurrency: {concurrency}}}}}"""


def configure(parser: argparse.ArgumentParser) -> None:
    from batchgen.sandbox.faults.table import FAMILIES, FAULTS, IN_ALL  # noqa: PLC0415 - only for this help text

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG.format(
        common="\n".join(f"  {name:<18} {FAULTS[name].description}" for name in IN_ALL),
        named="\n".join(f"  {name:<18} {description}" for name, description in FAMILIES.items()),
        epilog=parser.epilog or "",
    )
    parser.argument_default = argparse.SUPPRESS  # defaults are those of Settings
    add = parser.add_argument
    add("--host", default=None, help="address to listen on (default: 127.0.0.1; others open it to your network)")
    add("--port", type=int, default=8080, help="port; 0 chooses a free one (default: 8080)")
    add("--state", type=Path, metavar="FILE", help="keep tasks in FILE, so that a restart knows them")
    switch = argparse.BooleanOptionalAction
    known = f"{', '.join(PROFILES)}, an API of `batchgen apis`, or a definition as in ./my.yaml"
    add("--emulate", metavar="ACCOUNT", default="kling", help=f"whose API it has: {known} (default: kling)")
    add("--lists", dest="lists_tasks", action=switch, help="whether it lists tasks (default: as the emulated account)")
    add("--lookup-by-external-id", action=switch, help="whether a task is found by its external id (default: as above)")
    add("--unmarked", action="store_false", dest="marked", help="omit the header that tells it from a real account")
    add("--api-key-env", default=None, metavar="NAME", help="accept only the key in this environment variable")
    add("--jwt-env", default=None, nargs=2, metavar=("ACCESS", "SECRET"), help="require a JWT made from these two keys")
    add("--concurrency", type=int, metavar="UNITS", help="units that running tasks may hold (default: 27)")
    add("--creates-per-minute", type=int, metavar="N", help="more creates get 429/1302 (default: no limit)")
    add("--balance", type=float, metavar="UNITS", help="creates beyond it get 429/1102 (default: no limit)")
    formats = ("b64_json", "url")
    add("--response-format", choices=formats, help="of the OpenAI API, unless a create names one (default: b64_json)")
    add("--latency", type=float, metavar="S", help="median duration of a task in seconds (default: 1)")
    add("--latency-sigma", type=float, metavar="SIGMA", help="sigma of log-normal latencies (default: 0)")
    add("--faults", type=_faults, metavar="FAULT=RATE,…", help="inject faults, as in fail=0.02")
    add("--seed", type=int, metavar="N", help="seed of latencies and faults (default: 0)")
    add("--blank-images", action="store_true", help="serve small white images: for benchmarks")
    add("--image-format", type=Format, choices=list(Format), help="format of images (default: png)")
    add("--image-bytes", type=int, metavar="N", help="pad each image to at least N bytes (default: 0)")
    add("--image-redirects", type=int, metavar="N", help="redirect each link N times before its image (default: 0)")
    add("--link-ttl", type=float, metavar="S", help="a link gets 403 after S seconds; a query gives a new one")
    add("--image-ttl", type=float, metavar="S", help="delete images S seconds after their task's end (404)")


def execute(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; then 0."""
    settings = settings_from(options)
    if options.host is not None and settings.host not in {"127.0.0.1", "::1", "localhost"}:
        print(f"Everyone who can reach {settings.host} can use the sandbox.", file=sys.stderr)
    asyncio.run(_serve(settings, _keys(options, settings)))
    return 0


async def _serve(settings: Settings, keys: str) -> None:
    from batchgen.sandbox.server import Sandbox  # noqa: PLC0415 - aiohttp costs 250 ms

    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, end.set)
        except NotImplementedError:  # Windows: there Ctrl-C arrives as KeyboardInterrupt
            break
    async with Sandbox(settings) as sandbox:
        shown = {"base_url": sandbox.base_url, "emulate": settings.emulate, "concurrency": settings.concurrency}
        print(_EXAMPLE.format(**shown, key=keys), flush=True)
        await end.wait()


def _keys(options: argparse.Namespace, settings: Settings) -> str:
    """The part of the example that names the environment variables of the keys."""
    if options.jwt_env:
        return ", auth: jwt, access_key_env: {}, secret_key_env: {}".format(*options.jwt_env)
    if not options.api_key_env and (options.emulate == "sandbox" or _is_open(settings)):
        return ""
    return f", auth: api_key, api_key_env: {options.api_key_env or 'SANDBOX_KEY'}"


def _is_open(settings: Settings) -> bool:
    """Whether a declared account needs no key."""
    return settings.account is not None and not settings.account.key_settings


def settings_from(options: argparse.Namespace) -> Settings:
    """The settings of these options. Raises CommandError for variables that are not set and for invalid values."""
    access_key, secret_key = map(_variable, options.jwt_env) if options.jwt_env else (None, None)
    names = {field.name for field in fields(Settings)}
    given = {name: value for name, value in vars(options).items() if name in names}
    special = {
        "account": _declared(options.emulate),
        "host": options.host or "127.0.0.1",
        "allow_network": options.host is not None,
        "api_key": _variable(options.api_key_env) if options.api_key_env else None,
        "access_key": access_key,
        "secret_key": secret_key,
    }
    return Settings(**given | special)


def _declared(name: str) -> Account | None:
    """The account of a definition, shipped or in a file; None for one that has none. Raises CommandError."""
    from batchgen.catalog import definitions  # noqa: PLC0415 - the next ones read files
    from batchgen.catalog.accounts import parse_account  # noqa: PLC0415
    from batchgen.manifest import definitions as files  # noqa: PLC0415

    if name in PROFILES:
        return None
    if name not in definitions.names() and not files.is_file(name):
        raise CommandError(
            f"The sandbox cannot emulate {name!r}. Choose one of {', '.join((*PROFILES, *definitions.names()))},"
            " or a definition as in ./my.yaml."
        )
    defined = files.read(Path(name)) if files.is_file(name) else files.shipped(name)
    if defined.settings is None:
        raise ManifestInvalid(defined.diagnostics.problems)
    return parse_account(Path(name).stem, defined.settings)


def _faults(text: str) -> FaultSettings:
    from batchgen.sandbox.faults.schedule import FaultSettings  # noqa: PLC0415 - only with --faults

    return FaultSettings.parse(text)


def _variable(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise CommandError(f"The environment variable {name} is not set. Put the sandbox's key into it.")
    return value
