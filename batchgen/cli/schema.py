"""`batchgen schema`: print a schema, for editors and other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

EXAMPLES = """\
batchgen schema > manifest.schema.json
batchgen schema index
"""
NAMES = ("manifest", "index")


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", choices=NAMES, default="manifest", help="which schema (default: manifest)")


def execute(options: Namespace) -> int:
    """Print the schema, byte for byte as its file."""
    from batchgen.manifest.schema_file import schema_text  # noqa: PLC0415 - reads a file

    print(schema_text(f"{options.name}.schema.json"), end="")
    return 0
