"""`batchgen completion`: prints the script by which a shell completes commands, options and file names."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.cli import options as common
from batchgen.errors import CommandError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

EXAMPLES = """\
eval "$(batchgen completion bash)"
batchgen completion zsh > ~/.zfunc/_batchgen
batchgen completion fish > ~/.config/fish/completions/batchgen.fish
"""


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell that reads the script")


def execute(options: Namespace) -> int:
    """Print a script that needs neither batchgen nor the package that wrote it when a key is pressed."""
    try:
        import shtab  # noqa: PLC0415 - of the extra `completion`
    except ImportError:
        raise CommandError(
            "Completion needs the package shtab. Install it with: pip install 'batchgen[completion]'"
        ) from None
    from batchgen.cli.main import COMMANDS, parser_of  # noqa: PLC0415 - it imports this module by name

    parser = parser_of(*COMMANDS)
    for action in _actions(parser):
        if action.type in {Path, common.folder}:
            kind = shtab.DIRECTORY if action.type is common.folder else shtab.FILE
            action.complete = kind  # type: ignore[attr-defined]  # shtab's own way to say it
    print(shtab.complete(parser, shell=options.shell))
    return 0


def _actions(parser: ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of a parser and of its commands."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to list them
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action
