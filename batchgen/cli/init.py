"""`batchgen init`: a commented starter manifest that runs as it is, with prompts of its own or of a file."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.cli.terminal import harmless
from batchgen.errors import CommandError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable, Iterator

EXAMPLES = """\
batchgen init spring.yaml
batchgen init spring.yaml --from prompts.csv
batchgen init spring.yaml --provider fal
"""
_HEAD = """\
# A manifest of batchgen. Try it:   batchgen plan {file}   then   batchgen run {file}
# It runs as it is: the provider `sandbox` is a gateway on this machine, without a key and without cost.

version: 1
name: {name}
provider: sandbox                # for another account: batchgen init --provider NAME

defaults:                        # of every job; each can be an axis of `matrix` too
  n: 1                           # images a task, 1 to 9
  resolution: 1k                 # 1k or 2k

matrix:                          # every prompt, in every ratio, with every model
  prompt:
"""
_OWN_PROMPTS = """\
    - A lighthouse in a storm, oil on canvas
    - {prompt: "Logo of a fox, flat design", id: fox-logo}      # `id` names its files
    - A ceramic {{ product }} on {{ surface }}, soft morning light
    # - {from: prompts.csv, column: text}                       # or .txt .tsv .jsonl .yaml
  aspect_ratio: [1:1, 16:9]
  model: [kling-v2-1]
  vars:                          # for the {{ }} of prompts
    product: [mug, lamp]
    surface: [oak]

# exclude:                       # combinations to leave out
#   - {aspect_ratio: 16:9, prompt_id: fox-logo}

budget: {max_images: 100}        # a run stops rather than make more
"""
_FILE_PROMPTS = """\
    - {{{entry}}}
  aspect_ratio: [1:1]
  model: [kling-v2-1]

# budget: {{max_images: 100}}      # a run stops rather than make more
"""
_FORMATS = (".txt", ".csv", ".tsv", ".jsonl", ".yaml", ".yml")
_TEXT_COLUMNS = ("prompt", "text", "caption", "description")
_ID_COLUMNS = ("id", "sku", "key", "slug", "name")
_ROWS_READ = 200


def configure(parser: ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", nargs="?", type=Path, default=Path("manifest.yaml"), help="default: manifest.yaml"
    )
    parser.add_argument(
        "--from",
        dest="source",
        metavar="PROMPTS",
        type=Path,
        help="take the prompts of this .txt .csv .tsv .jsonl .yaml",
    )
    parser.add_argument(
        "--provider", metavar="NAME", default="sandbox", help="for this account or API (default: sandbox)"
    )


def execute(options: Namespace) -> int:
    """Write the starter manifest; an existing file is never changed."""
    path: Path = options.file
    if path.suffix.lower() in _FORMATS[:4]:
        raise CommandError(f"{path} is no manifest. To make one with its prompts: batchgen init --from {path}")
    entry = "" if options.source is None else _entry(options.source, path)
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-") or "images"
    text = _starter(options.provider, entry, file=shlex.quote(str(path)), name=_scalar(name))
    try:
        with path.open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except FileExistsError as error:
        raise CommandError(f"{path} exists already; give another name: batchgen init OTHER.yaml") from error
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}.") from error
    then = "run" if options.provider == "sandbox" else "plan"
    print(f"{path} is written. Read it, then: batchgen {then} {shlex.quote(str(path))}")
    return 0


def _starter(provider: str, entry: str, *, file: str, name: str) -> str:
    """The manifest's text. Raises CommandError for an account that is not known."""
    if provider == "sandbox":
        return _HEAD.format(file=file, name=name) + (_FILE_PROMPTS.format(entry=entry) if entry else _OWN_PROMPTS)
    from batchgen.cli.starters import account_of, starter  # noqa: PLC0415 - reads the catalogue

    return starter(account_of(provider), file=file, name=name, prompts=entry)


def _entry(source: Path, manifest: Path) -> str:
    """The entry `from: …, column: …, id: …` for a prompt file, its path as seen from the manifest."""
    kind = source.suffix.lower()
    if kind not in _FORMATS:
        raise CommandError(f"{source} is not a prompt file; its name must end in one of {', '.join(_FORMATS[:5])}.")
    if not source.is_file():
        raise CommandError(f"There is no file {source}.")
    shown = source if source.is_absolute() else Path(os.path.relpath(source, manifest.parent))
    parts = [f"from: {_scalar(shown.as_posix())}"]
    rows = list(islice(_rows(source, kind), _ROWS_READ))
    if rows:
        lengths = {column: sum(len(row.get(column, "")) for row in rows) for column in rows[0]}
        text = next(iter(_columns(rows[0], _TEXT_COLUMNS)), max(lengths, key=lambda column: lengths[column]))
        parts.append(f"column: {_scalar(text)}")
        for column in _columns(rows[0], _ID_COLUMNS):
            values = [row.get(column, "") for row in rows]
            if column != text and all(values) and len({*values}) == len(values):
                parts.append(f"id: {_scalar(column)}")
                break
    return ", ".join(parts)


def _rows(source: Path, kind: str) -> Iterator[dict[str, str]]:
    """The first rows of a table; nothing for a format without columns. `validate` reports what is wrong in it."""
    if kind not in {".csv", ".tsv"}:
        return
    with source.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        try:
            plain = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            for row in plain if kind == ".tsv" else csv.DictReader(file):
                yield {key: value or "" for key, value in row.items() if key and isinstance(value, str | None)}
        except csv.Error:
            return


def _columns(header: Iterable[str], names: tuple[str, ...]) -> list[str]:
    """The columns with one of these names, in the order of the names."""
    return [column for name in names for column in header if column.strip().lower() == name]


def _scalar(text: str) -> str:
    """A text as YAML reads it back, quoted where it would be read as something else."""
    is_word = text.lower() in {"true", "false", "null", "yes", "no", "on", "off", "y", "n", "~"}
    if re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./-]*", text) and not is_word:
        return text
    return harmless(json.dumps(text, ensure_ascii=False))  # an escaped pair of surrogates would be refused
