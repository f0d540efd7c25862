"""Runs the examples of README.md and docs/*.md, and compares what they print.

A fenced block `console` holds commands (`$ batchgen …`) and what they print; a fenced block with `title="FILE"` is
written to that file first. The blocks of one document run in order, in one empty folder that holds the repository's
manifests. `python tests/support/documents.py --write` puts what was printed in the place of what the document says.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(
    r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_PROGRESS = re.compile(r"^\d+ of \d+ images.*\n", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One command of a document: `start` and `end` are where its output stands in the text."""

    command: str
    output: str
    start: int
    end: int


def examples(text: str) -> list[Example | tuple[str, str]]:
    """The commands of a document in order, and between them the files to write as (name, text)."""
    found: list[Example | tuple[str, str]] = []
    for block in _BLOCK.finditer(text):
        if block["title"]:
            found.append((block["title"], block["text"]))
        elif block["language"] == "console":
            found += _commands(block["text"], block.start("text"))
    return found


def _commands(text: str, offset: int) -> list[Example]:
    starts = [match.start() for match in re.finditer(r"^\$ ", text, re.MULTILINE)]
    found = []
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        command, _, output = text[start + 2 : end].partition("\n")
        begin = offset + start + 2 + len(command) + 1
        found.append(Example(command=command, output=output, start=begin, end=offset + end))
    return found


def printed_by(command: str, folder: Path) -> str:
    """What a command prints, errors last; Python's own environment and no key of anybody's."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_SECRET_KEY"))}
    environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"}
    words = shlex.split(command, comments=True)
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout + _PROGRESS.sub("", done.stderr)


def outputs(document: Path, folder: Path) -> list[tuple[Example, str]]:
    """Run a document's commands in `folder`; each with what it printed."""
    shutil.copytree(ROOT / "manifests", folder / "manifests")
    done = []
    for example in examples(document.read_text(encoding="utf-8")):
        if isinstance(example, Example):
            done.append((example, printed_by(example.command, folder)))
        else:
            (folder / example[0]).write_text(example[1], encoding="utf-8")
    return done


def main() -> None:
    """Show, or with --write correct, what the documents say is printed."""
    for document in DOCUMENTS:
        with tempfile.TemporaryDirectory() as folder:
            text = document.read_text(encoding="utf-8")
            for example, printed in reversed(outputs(document, Path(folder))):
                if printed != example.output:
                    print(f"{document.name}: $ {example.command}")
                text = text[: example.start] + printed + text[example.end :]
            if "--write" in sys.argv:
                document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
