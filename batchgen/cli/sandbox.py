"""`batchgen sandbox`: the local gateway, as a server of its own."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.errors import CommandError
from batchgen.sandbox.faults.schedule import FAMILIES, FAULTS, OF_ALL, FaultSettings
from batchgen.sandbox.formats import Format
from batchgen.sandbox.settings import PROFILES, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchgen.sandbox.server import Sandbox

_REHEARSAL = """\
words in a prompt that rehearse an outcome: forbidden-word is refused by content safety (400/1301), policy-word
by the platform's policy (400/1300), fail-this-task is accepted and ends as failed. The profile openai says the same
in that API's words: moderation_blocked, content_policy_violation, and HTTP 500 for a create that was accepted.

The account of requests, tasks and what was billed is at /_usage on the server; /_usage?tasks=0 gives the sums.
"""
_EXAMPLE = """\
The sandbox listens on {base_url} as an account of the profile {emulate}. Stop it with Ctrl-C. To use it in a manifest:
  provider: local
  providers:
    local: {{use: {use}, base_url: "{base_url}"{key}, limits: {{concurrency: {concurrency}}}}}"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    faults = _listed({name: FAULTS[name].about for name in OF_ALL})
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        f"faults of --faults, which all=RATE sets:\n{faults}\n\nfaults that strike only where they are named:\n"
        f"{_listed(FAMILIES)}\n\n{_REHEARSAL}\n{parser.epilog or ''}"
    )
    _add_place(parser)
    _add_account(parser)
    _add_work(parser)
    _add_images(parser)


def _listed(faults: Mapping[str, str]) -> str:
    return "\n".join(f"  {name:<18} {about}" for name, about in faults.items())


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1; others open it to your network)")
    parser.add_argument("--port", type=int, default=8080, help="port, 0 for a free one (default: 8080)")
    parser.add_argument("--state", type=Path, metavar="FILE", help="remember tasks in FILE over restarts")


def _add_account(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--emulate", choices=PROFILES, default="kling", help="whose account it plays (default: kling)")
    parser.add_argument(
        "--lists", action=argparse.BooleanOptionalAction, help="whether it lists tasks (default: as the profile)"
    )
    parser.add_argument(
        "--lookup-by-external-id",
        action=argparse.BooleanOptionalAction,
        help="whether a task is found by its external id (default: as the profile)",
    )
    parser.add_argument(
        "--unmarked",
        action="store_true",
        help="do not say that it is a sandbox: for tests, which take its images for a real account's",
    )
    parser.add_argument("--api-key-env", metavar="NAME", help="take exactly the key in the variable NAME")
    parser.add_argument(
        "--jwt-env",
        nargs=2,
        metavar=("ACCESS", "SECRET"),
        help="want a JWT made from the keys in these two variables",
    )
    parser.add_argument("--concurrency", type=int, default=27, metavar="UNITS", help="units held at once (default: 27)")
    parser.add_argument("--creates-per-minute", type=int, metavar="N", help="more get 429/1302 (default: no bound)")
    parser.add_argument("--balance", type=float, metavar="UNITS", help="when it is spent: 429/1102 (default: endless)")


def _add_work(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--response-format",
        choices=("b64_json", "url"),
        default="b64_json",
        help="how the profile openai gives images where a create does not say (default: b64_json)",
    )
    parser.add_argument("--latency", type=float, default=1.0, metavar="S", help="seconds a task takes (default: 1)")
    parser.add_argument(
        "--latency-sigma", type=float, default=0.0, metavar="SIGMA", help="of log-normal latencies (default: 0)"
    )
    parser.add_argument("--faults", default="", metavar="FAULT=RATE,…", help="faults by chance, such as fail=0.02")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of latencies and faults (default: 0)")


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--blank-images", action="store_true", help="serve small flat images: for benchmarks")
    parser.add_argument("--image-format", choices=list(Format), default="png", help="what they are (default: png)")
    parser.add_argument("--image-bytes", type=int, default=0, metavar="N", help="pad each file to at least N bytes")
    parser.add_argument("--image-redirects", type=int, default=0, metavar="N", help="between a link and its image")
    parser.add_argument(
        "--link-ttl", type=float, metavar="S", help="a link gets 403 after S seconds; a query gives a new one"
    )
    parser.add_argument(
        "--image-ttl", type=float, metavar="S", help="images are gone S seconds after their task's end (404)"
    )


def execute(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; then 0."""
    import asyncio  # noqa: PLC0415 - --help stays quick

    settings = settings_from(options)
    if options.host is not None and settings.host not in {"127.0.0.1", "::1", "localhost"}:
        print(f"The sandbox is open to whoever can reach {settings.host}.", file=sys.stderr)
    asyncio.run(_serve(settings, _keys(options)))
    return 0


async def _serve(settings: Settings, keys: str) -> None:
    import asyncio  # noqa: PLC0415
    import signal  # noqa: PLC0415

    from batchgen.sandbox.server import Sandbox  # noqa: PLC0415 - aiohttp costs 250 ms

    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, end.set)
        except NotImplementedError:  # Windows: there Ctrl-C arrives as KeyboardInterrupt
            break
    async with Sandbox(settings) as sandbox:
        print(_introduction(sandbox, settings, keys), flush=True)
        await end.wait()


def _keys(options: argparse.Namespace) -> str:
    """How a manifest names the keys that this sandbox wants: by their variables."""
    if options.jwt_env:
        return ", auth: jwt, access_key_env: {}, secret_key_env: {}".format(*options.jwt_env)
    if options.emulate == "sandbox" and not options.api_key_env:
        return ""
    return f", auth: api_key, api_key_env: {options.api_key_env or 'SANDBOX_KEY'}"


def _introduction(sandbox: Sandbox, settings: Settings, keys: str) -> str:
    return _EXAMPLE.format(
        base_url=sandbox.base_url,
        emulate=settings.emulate,
        use=settings.emulate,
        key=keys,
        concurrency=settings.concurrency,
    )


def settings_from(options: argparse.Namespace) -> Settings:
    """What the options ask for. Raises CommandError for a variable that is not set, and bad values."""
    access_key, secret_key = map(_variable, options.jwt_env) if options.jwt_env else (None, None)
    return Settings(
        host=options.host or "127.0.0.1",
        port=_port(options.port),
        beyond_loopback=options.host is not None,
        emulate=options.emulate,
        marked=not options.unmarked,
        lists_tasks=options.lists,
        lookup_by_external_id=options.lookup_by_external_id,
        concurrency=options.concurrency,
        creates_per_minute=options.creates_per_minute,
        balance=options.balance,
        response_format=options.response_format,
        latency=options.latency,
        latency_sigma=options.latency_sigma,
        api_key=_variable(options.api_key_env) if options.api_key_env else None,
        access_key=access_key,
        secret_key=secret_key,
        state=options.state,
        paint=not options.blank_images,
        image_format=Format(options.image_format),
        image_bytes=options.image_bytes,
        image_redirects=options.image_redirects,
        link_ttl=options.link_ttl,
        image_ttl=options.image_ttl,
        faults=FaultSettings.parse(options.faults),
        seed=options.seed,
    )


def _port(number: int) -> int:
    if not 0 <= number <= 65535:
        raise CommandError(f"{number} is no port; give one from 1 to 65535, or 0 for a free one.")
    return number


def _variable(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise CommandError(f"The environment variable {name} is not set; the sandbox was to read a key from it.")
    return value
