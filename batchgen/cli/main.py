"""The command `batchgen`: finds the subcommand and reports every error."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from importlib import import_module
from textwrap import indent
from typing import TYPE_CHECKING, Any, NoReturn

from batchgen import __version__
from batchgen.cli import terminal
from batchgen.cli.outcome import header, outcome_of, print_problems, problems_as_data
from batchgen.errors import BatchgenError, CommandError, ExitCode, ManifestInvalid, ReasonCode

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "init": "write a commented starter manifest",
    "validate": "check manifests: every error with file:line:column and what to do",
    "plan": "show what a run would do; sends nothing",
    "doctor": "check the accounts: keys, host, access, clock; costs nothing",
    "run": "make the images; run again, it goes on",
    "status": "show the state of a run, also during one",
    "review": "mark images to keep or to reject; list the marks",
    "check": "let the manifest's checks look at images that they have not seen",
    "verify": "check every file against the index",
    "gallery": "write a page to look at the images, to compare and to mark them",
    "audit": "compare what was paid for with what is there",
    "export": "write chosen images as a dataset, a table, an archive or a contact sheet",
    "merge": "put the indexes of several outputs together, to export, show and report on them",
    "report": "write an HTML page about an output: cost, time, failures",
    "sandbox": "serve the local gateway",
    "models": "list the catalogue of models and accounts",
    "apis": "list the image APIs that are defined, or print a definition",
    "schema": "print a JSON Schema",
    "completion": "print the completion script of a shell",
}

_EPILOG = """\
exit codes: 0 everything asked for is there; 1 some jobs failed, were rejected or are unknown; 2 the manifest or
the command is wrong, nothing was sent or written; 3 stopped before the end (budget, deadline, disk, a gateway that
cannot be reached), run again to go on; 4 another run of the same output is active; 5 plan --exit-code: there is
something to do; 6 stopped, and only a person can help (key refused, account empty or closed); 70 a defect of
batchgen; 129, 130, 143 terminal closed, interrupted, terminated: run again to go on.
"""
# Options that had another name in the release before, by command: an error names the new one, for this release.
_RENAMED = {
    "sandbox": {
        "--weather": "--faults",
        "--spread": "--latency-sigma",
        "--no-paint": "--blank-images",
        "--images-kept": "--image-ttl",
        "--links-expire": "--link-ttl",
        "--answers": "--response-format",
        "--profile": "--emulate",
        "--finds-by-external-id": "--lookup-by-external-id",
        "--no-finds-by-external-id": "--no-lookup-by-external-id",
    },
    "doctor": {"--patience": "--timeout"},
    "run": {"--profile-engine": "--timings"},
}


def entry() -> NoReturn:
    """Run the command line of this process and leave with its exit code."""
    _open_closed_streams()
    sys.exit(main(sys.argv[1:]))


def _open_closed_streams() -> None:
    """Replace closed streams (`2>&-`): the next file that is opened, the ledger, would take their number."""
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
    with terminal.guarded(as_records=_given(arguments, "--log-format") == "json"):
        options = argparse.Namespace(command="")
        try:
            parser_of(_command_of(arguments)).parse_args(arguments, options)
            code = int(import_module(f"batchgen.cli.{options.command}").execute(options))
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read our output has left, which is no error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return ExitCode.BROKEN_PIPE
        except (Exception, KeyboardInterrupt) as error:
            if os.environ.get("BATCHGEN_TRACEBACK") and not isinstance(error, BatchgenError | KeyboardInterrupt):
                raise
            return _report_error(error, arguments)
        return code


def _given(arguments: Sequence[str], option: str) -> str | None:
    """The value of an option, also where the command line as a whole cannot be read."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name == option:
            return value or following
    return None


def _report_error(error: BaseException, arguments: Sequence[str]) -> int:
    running = _command_of(arguments) == "run"
    outcome = outcome_of(error, running=running)
    listed: list[dict[str, Any]] = []
    if isinstance(error, ManifestInvalid):
        print_problems(error.problems)
        listed = problems_as_data(error.problems)
    elif isinstance(error, _UsageError):
        print(f"{error.usage}{outcome.sentence}", file=sys.stderr)
        if running:  # a command line that is wrong has a summary and metrics too
            from batchgen.cli.hooks import report_usage_error  # noqa: PLC0415 - only where it is needed

            report_usage_error(error, _given(arguments, "--summary"), _given(arguments, "--metrics"))
    else:
        name = "" if outcome.reason_code is ReasonCode.INTERRUPTED else "batchgen: "
        print(f"{name}{outcome.sentence}", file=sys.stderr)
    if "--json" in arguments:
        head = header(outcome.exit_code, outcome.reason_code)
        print(json.dumps({**head, "error": outcome.sentence, "problems": listed}, ensure_ascii=False))
    return outcome.exit_code


def _command_of(arguments: Sequence[str]) -> str | None:
    return next((word for word in arguments if word in COMMANDS), None)


class _UsageError(CommandError):
    """The command line cannot be read; `usage` says how it could."""

    def __init__(self, message: str, usage: str) -> None:
        self.usage = usage
        super().__init__(message)


class _Parser(argparse.ArgumentParser):
    """Raises what it would print; an error shows the usage of the command, and the option that was probably meant."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{self.prog}: error: {message}", self.format_usage())

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:  # noqa: ANN401
        """As argparse has it, but nothing unknown is left for the parser above."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self._refuse(unknown)
        return found, unknown

    def _refuse(self, unknown: list[str]) -> NoReturn:
        if "--dry-run" in unknown:
            self.error("There is no --dry-run: `batchgen plan MANIFEST` shows what a run would do, and sends nothing.")
        renamed = _RENAMED.get(self.prog.split()[-1], {})
        for word in unknown:
            if new := renamed.get(word.partition("=")[0]):
                self.error(f"Unknown option {word.partition('=')[0]}; it is now {new}.")
        near = difflib.get_close_matches(unknown[0].partition("=")[0], self._option_string_actions, n=1)
        self.error(f"unrecognized arguments: {' '.join(unknown)}{f' (did you mean {near[0]}?)' if near else ''}")


def parser_of(*asked: str | None) -> argparse.ArgumentParser:
    """The parser, with the options of these commands: only what is asked for is imported."""
    parser = _Parser(
        prog="batchgen",
        description="Makes many images through a paid API from a manifest, and never pays for one twice.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"batchgen {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, about in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=about,
            description=f"batchgen {name}: {about}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name in asked:
            module = import_module(f"batchgen.cli.{name}")
            command.epilog = f"examples:\n{indent(module.EXAMPLES, '  ')}\n{_EPILOG}"
            module.configure(command)
    return parser
