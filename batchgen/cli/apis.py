"""`batchgen apis`: the APIs that batchgen has definitions of, and each as its file, to be copied and changed."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from batchgen.cli import options as common
from batchgen.cli.outcome import checked, print_result
from batchgen.errors import CommandError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


EXAMPLES = """\
batchgen apis
batchgen apis fal > my.yaml
"""


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="print this definition as it is written")
    common.add_json(parser)


def execute(options: Namespace) -> int:
    from batchgen.catalog import definitions  # noqa: PLC0415 - reads files
    from batchgen.manifest.diagnostics import nearest  # noqa: PLC0415 - with the manifest's schema

    if options.name is not None:
        if options.name not in definitions.names():
            guess = nearest(options.name, definitions.names())
            hint = f"Did you mean {guess}? " if guess else ""
            raise CommandError(f"There is no API {options.name!r}. {hint}There are: {', '.join(definitions.names())}.")
        print(definitions.text_of(options.name), end="")
        return 0
    found = [_api(name) for name in definitions.names()]
    if options.json:
        print_result({**checked(ok=True), "apis": found})
        return 0
    width = max(len(api["name"]) for api in found) + 2
    print("APIs (use one as the `provider` of a manifest; `batchgen apis NAME` prints its definition)")
    for api in found:
        print(f"  {api['name']:<{width}}{api['about']}")
        print(f"  {'':<{width}}- {api['kind']}; a lost answer: {api['lost_answer']}")
        print(f"  {'':<{width}}- results: {api['results']}; price: {_price(api)}; read {api['read']}")
    return 0


def _api(name: str) -> dict[str, Any]:
    from batchgen.manifest.definitions import shipped  # noqa: PLC0415 - reads files

    settings = shipped(name).settings or {}
    definition, prices = settings["definition"], settings.get("prices", {})
    return {
        "name": name,
        "about": str(settings.get("about", "")).partition(";")[0],
        "kind": "task" if "query" in definition else "images in the answer",
        "lost_answer": _lost_answer(definition),
        "results": _results(definition),
        "models": settings["models"],
        "key": " ".join(definition.get("auth", {}).get("command", ())) or settings["api_key_env"],
        "free": settings["free"],
        "price_unit": str(prices.get("unit", "")),
        "prices_as_of": str(prices.get("as_of", "")),
        "prices": {model: prices[model] for model in settings["models"] if model in prices},
        "read": str(definition.get("read", "")),
    }


def _lost_answer(definition: dict[str, Any]) -> str:
    """What happens to a create whose answer was lost."""
    if "find" in definition:
        return "found by our own id"
    if "list" in definition:
        remembers = definition.get("remembers")
        return f"found in the list by a mark{f', for {remembers}' if remembers else ''}"
    return "sent again, it costs nothing" if definition.get("free") else "`unknown`, nobody can be asked"


def _results(definition: dict[str, Any]) -> str:
    """How long the images can be downloaded."""
    images = next(
        definition[step]["images"] for step in ("result", "query", "create") if "images" in definition.get(step, {})
    )
    if {"b64", "body"} & set(images):
        return "in the answer"
    ttl = definition.get("link_ttl")
    if definition.get("free"):
        return "links to your own server"
    return f"links for {ttl}" if ttl else "links, for how long is not known"


def _price(api: dict[str, Any]) -> str:
    """What an image costs, over all models and resolutions."""
    if api["free"]:
        return "free"
    every = [
        Decimal(str(price))
        for table in api["prices"].values()
        for price in (table.values() if isinstance(table, dict) else [table])
    ]
    if not every:
        return "not known"
    low, high = min(every), max(every)
    return f"{low}{f' to {high}' if high > low else ''} {api['price_unit']} an image (as of {api['prices_as_of']})"
