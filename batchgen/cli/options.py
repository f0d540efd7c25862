"""Options that several commands share, and what they mean."""

from __future__ import annotations

import argparse
import math
import re
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchgen.catalog import definitions
from batchgen.catalog.load import builtin
from batchgen.errors import CommandError
from batchgen.shards import Shard
from batchgen.source import document

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Mapping

    from batchgen.engine.shutdown import Deadline

_DURATION = r"([0-9]+(?:\.[0-9]+)?)([smhd])"
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def add_manifest(parser: ArgumentParser) -> None:
    """The manifest, where its output is, and which account serves it."""
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="the manifest, a YAML file")
    parser.add_argument(
        "--output", metavar="DIR", type=folder, help="the output folder (default: outputs/NAME under this folder)"
    )
    parser.add_argument(
        "--provider",
        metavar="NAME",
        help="another account than the manifest's; `sandbox` rehearses any manifest, into outputs/NAME-sandbox",
    )


def add_shard(parser: ArgumentParser) -> None:
    """Which of several coordinators this is."""
    parser.add_argument(
        "--shard",
        metavar="K/N",
        type=shard,
        help="only shard K of N of the jobs, as one of N coordinators with an --output each; the output keeps K/N",
    )


def add_selection(parser: ArgumentParser) -> None:
    """Which of the manifest's jobs are selected."""
    parser.add_argument(
        "--only",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="only jobs with this model, prompt_id, variable, label …; wildcards; repeatable (the same key: any of)",
    )
    parser.add_argument("--limit", metavar="N", type=count, help="start at most N jobs that are not made yet")


def add_remake(parser: ArgumentParser) -> None:
    """Which images that are there are made anew."""
    parser.add_argument(
        "--remake",
        choices=("rejected",),
        help="make the jobs of which an image is rejected (batchgen review) anew, which is paid again",
    )


def add_where(parser: ArgumentParser, about: str) -> None:
    """Which images of the output are selected."""
    parser.add_argument("--where", metavar="KEY=VALUE", action="append", default=[], help=f"only images with {about}")


def add_json(parser: ArgumentParser) -> None:
    """One JSON document on stdout."""
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document")


def add_logging(parser: ArgumentParser) -> None:
    """How progress is shown on stderr."""
    parser.add_argument("--quiet", action="store_true", help="print no progress and no result, only errors")
    parser.add_argument("--log-format", choices=("text", "json"), default="text", help="progress as text or JSON lines")


def output_folder(options: Namespace, name: str) -> Path:
    """Where a manifest's output is: `--output` always wins, a rehearsal has a folder of its own."""
    if options.output is not None:
        return Path(options.output)
    suffix = "-sandbox" if options.provider == "sandbox" else ""
    return Path("outputs") / f"{name}{suffix}"


def folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("name a folder")
    return Path(text)


def shard(text: str) -> Shard:
    try:
        return Shard.parse(text)
    except CommandError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return number


def money(text: str) -> Decimal:
    """An amount of money in the account's unit."""
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount of money from 0 on, such as 20 or 2.50")
    return amount


def deadline(text: str) -> Deadline:
    """A deadline: a duration (`90m`), a time of day (`06:00`) or a date and time in local time."""
    from batchgen.engine.shutdown import Deadline  # noqa: PLC0415 - loads asyncio, for one option

    if match := re.fullmatch(_DURATION, text):
        return Deadline(at=time.monotonic() + float(match[1]) * _UNITS[match[2]], clock=time.monotonic)
    now = time.time()
    try:
        then = moment(text, now)
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a deadline; write a duration (90m, 8h), a time (06:00) or a date (2027-01-31T06:00)"
        ) from None
    if then <= now:
        raise argparse.ArgumentTypeError(f"{text} has passed already")
    return Deadline(at=then, clock=time.time)


def moment(text: str, now: float) -> float:
    """The Unix time of a date and time, or of the next time that a clock here shows `06:00`. Raises ValueError.

    Computed in local time, not in seconds: a day may have 23 hours or 25, and an hour may come twice.
    """
    match = re.fullmatch(r"([0-9]{1,2}):([0-9]{2})", text)
    if match is None:
        return datetime.fromisoformat(text).timestamp()
    today = datetime.fromtimestamp(now)  # noqa: DTZ006 - local time is meant
    shown = today.replace(hour=int(match[1]), minute=int(match[2]), second=0, microsecond=0, fold=0)
    times = (shown, shown.replace(fold=1), shown + timedelta(days=1))
    return next(at for at in (each.timestamp() for each in times) if at > now)


def past(text: str) -> datetime:
    """A moment that has passed: a duration ago (`24h`), a time of day (`22:00`) or a date and time in local time."""
    now = time.time()
    try:
        if match := re.fullmatch(_DURATION, text):
            then = now - float(match[1]) * _UNITS[match[2]]
        elif (then := moment(text, now)) > now:
            then = moment(text, now - 86_400)
        return datetime.fromtimestamp(then, UTC)
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no moment; write how long ago (24h, 7d), a time (22:00) or a date (2027-01-31T06:00)"
        ) from None


def find_output(options: Namespace) -> Path:
    """The output folder that the options mean. Raises CommandError where there is none.

    Only the manifest's name is read, so that a manifest which is being edited does not hide its output.
    """
    if options.output is not None:
        return _folder(output_folder(options, ""))
    raw = _mapping(document.read(options.manifest).value)
    name = raw.get("name")
    if not isinstance(name, str) or not name or "/" in name or "\\" in name or name.startswith("."):
        raise CommandError(f"{options.manifest} has no usable `name`; check it with: batchgen validate")
    accounts = {*builtin().accounts, *definitions.names(), *map(str, _mapping(raw.get("providers")))}
    if options.provider is not None and options.provider not in accounts:
        raise CommandError(f"There is no account {options.provider!r}. There are: {', '.join(sorted(accounts))}.")
    return _folder(output_folder(options, name))


def unit_of(options: Namespace, account: str | None = None) -> str:
    """The unit of an account's costs, by default the manifest's; empty where it does not say, or has several."""
    try:
        raw = _mapping(document.read(options.manifest).value)
    except CommandError:
        return ""
    if account or options.provider:
        return _unit_of(str(account or options.provider), raw)
    from batchgen.manifest.pools import names  # noqa: PLC0415 - loads the reading of manifests, for one value

    units = {_unit_of(str(name), raw) for name, _ in names(raw)}
    return units.pop() if len(units) == 1 else ""


def _unit_of(name: str, raw: Mapping[str, Any]) -> str:
    given = _mapping(_mapping(raw.get("providers")).get(name))
    prices = _mapping(given.get("prices"))
    if "unit" in prices:
        return str(prices["unit"])
    base = str(given.get("use", name))
    if base in definitions.names():
        return str(_mapping(document.parse(definitions.text_of(base), base).value.get("prices")).get("unit", ""))
    known = builtin().accounts.get(base)
    return "" if known is None else known.prices.unit


def output_setting(options: Namespace, key: str) -> bool:
    """A yes-or-no setting below `output` of the manifest as it is written; False where it does not say."""
    try:
        raw = _mapping(document.read(options.manifest).value)
    except CommandError:
        return False
    return _mapping(raw.get("output")).get(key) is True


def _mapping(value: object) -> dict[Any, Any]:
    """The value where it is a mapping, else an empty one: what is wrong with it is for `validate` to say."""
    return value if isinstance(value, dict) else {}


def _folder(root: Path) -> Path:
    if root.exists() and not root.is_dir():
        raise CommandError(f"{root} is a file, not an output folder. Choose another --output.")
    return root
