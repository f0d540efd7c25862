"""`batchgen apis`: the APIs that batchgen has definitions of, and each as its file, to be copied and changed."""

from __future__ import annotations

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

    if options.name is not None:
        if options.name not in definitions.names():
            raise CommandError(f"There is no API {options.name!r}. There are: {', '.join(definitions.names())}.")
        print(definitions.text_of(options.name), end="")
        return 0
    found = [_api(name) for name in definitions.names()]
    if options.json:
        print_result({**checked(ok=True), "apis": found})
        return 0
    width = max(len(api["name"]) for api in found) + 2
    print("APIs (use one as the `provider` of a manifest; `batchgen apis NAME` prints its definition)")
    for api in found:
        price = "free" if api["free"] else f"prices in {api['price_unit']}" if api["price_unit"] else "prices not known"
        print(f"  {api['name']:<{width}}{api['about']}")
        print(f"  {'':<{width}}- {api['kind']}; a lost answer: {api['lost_answer']}; {price}; read {api['read']}")
    return 0


def _api(name: str) -> dict[str, Any]:
    from batchgen.manifest.definitions import shipped  # noqa: PLC0415 - reads files

    settings = shipped(name).settings or {}
    definition = settings["definition"]
    lost = "`unknown`, nobody can be asked"
    if "find" in definition:
        lost = "found by our own id"
    elif "list" in definition:
        lost = "found in the list by a mark"
        lost += f", for {definition['remembers']}" if "remembers" in definition else ""
    elif "callback" in definition:
        lost = "found by a callback only, else `unknown`"
    return {
        "name": name,
        "about": str(settings.get("about", "")).partition(";")[0],
        "kind": "task" if "query" in definition else "images in the answer",
        "lost_answer": lost,
        "models": settings["models"],
        "key": settings["api_key_env"],
        "free": settings["free"],
        "price_unit": str(settings.get("prices", {}).get("unit", "")),
        "read": str(definition.get("read", "")),
    }
