"""The command `batchgen`: finds the subcommand, and is the only place that catches."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from batchgen import __version__
from batchgen.errors import BatchgenError, ManifestInvalid

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "init": "write a commented starter manifest",
    "validate": "check manifests: every fault with file:line:column and what to do",
    "plan": "say what a run would do; sends nothing",
    "doctor": "check the accounts: keys, host, access, clock; costs nothing",
    "run": "make it; started again, it goes on",
    "status": "how a run stands, also while one is going",
    "verify": "check every file against the index",
    "audit": "what was paid for against what is there",
    "sandbox": "the local gateway, as a server of its own",
    "models": "the catalogue of models and accounts",
    "schema": "print a JSON Schema",
}

_EPILOG = """\
exit codes: 0 everything asked for is there; 1 some jobs failed, were rejected or are unknown; 2 the manifest or
the command is wrong, nothing was sent or written; 3 stopped before the end (account, budget, deadline, disk), run
again to go on; 4 another run of the same output is going; 5 plan --exit-code: there is something to do;
130, 143 interrupted, terminated.
"""


def entry() -> NoReturn:
    """Run the command line of this process and leave with its exit code."""
    _open_closed_streams()
    sys.exit(main(sys.argv[1:]))


def _open_closed_streams() -> None:
    """A stream that was closed (`2>&-`) is none: the next file opened, the ledger, would take its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            stream = os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False)
            setattr(sys, name, stream)


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors become sentences on stderr."""
    options = argparse.Namespace(command="")
    try:
        _parser(arguments).parse_args(arguments, options)
        code = int(import_module(f"batchgen.cli.{options.command}").execute(options))
        sys.stdout.flush()
    except BatchgenError as error:
        _report(error, as_json=getattr(options, "json", False))
        return error.exit_code
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        # Whoever read our output has left: that is their right, and nothing to report.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        # A file or folder of the user's that cannot be read or written; what a run meets on its way it says itself.
        what = f"{error.filename}: " if error.filename else ""
        print(f"batchgen: {what}{error.strerror or error}. Mend it, then try again.", file=sys.stderr)
        return 3 if options.command == "run" else 2
    except Exception as error:
        if os.environ.get("BATCHGEN_TRACEBACK"):
            raise
        return _unforeseen(error)
    return code


def _interrupted() -> int:
    print("Interrupted. Run again to go on.", file=sys.stderr)
    return 130


class _Command(argparse.ArgumentParser):
    """A command's parser, which says with its own usage what it does not know, and what may have been meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:  # noqa: ANN401
        """As argparse has it, but nothing unknown is left for the parser above."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(word, self._option_string_actions, n=1)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{f' (did you mean {near[0]}?)' if near else ''}")
        return found, unknown


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="batchgen",
        description="Makes many images through a paid API from a manifest, and never pays for one twice.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"batchgen {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Command)
    asked = next((word for word in arguments if word in COMMANDS), None)
    for name, about in COMMANDS.items():
        command = commands.add_parser(
            name, help=about, description=f"batchgen {name}: {about}.", epilog=_EPILOG, allow_abbrev=False
        )
        if name == asked:  # only what is asked for is imported
            import_module(f"batchgen.cli.{name}").configure(command)
    return parser


def _report(error: BatchgenError, *, as_json: bool) -> None:
    from batchgen.cli import problems  # noqa: PLC0415 - only where there is something to report

    if isinstance(error, ManifestInvalid):
        print(problems.as_text(error.problems, sys.stderr), file=sys.stderr)
        listed = problems.as_data(error.problems)
    else:
        print(f"batchgen: {error}", file=sys.stderr)
        listed = []
    if as_json:
        print(json.dumps({"exit_code": error.exit_code, "error": str(error), "problems": listed}, ensure_ascii=False))


def _unforeseen(error: Exception) -> int:
    if isinstance(error.__cause__, KeyboardInterrupt):  # Python 3.11 wraps it where a class is being made
        return _interrupted()
    _report_defect(error)
    return 70


def _report_defect(error: BaseException) -> None:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = f" ({where.tb_frame.f_code.co_name}, line {where.tb_lineno})" if where else ""
    print(
        f"batchgen: this is a defect of batchgen, not of your input: {type(error).__name__}: {error}{place}. Nothing"
        " paid for is lost: run again to go on. To report it, set BATCHGEN_TRACEBACK=1 and run once more.",
        file=sys.stderr,
    )
