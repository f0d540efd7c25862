"""`batchgen init`: a commented starter manifest that runs as it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.errors import CommandError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

STARTER = """\
# A manifest of batchgen. Try it:   batchgen plan {file}   then   batchgen run {file}
# It runs as it is: the provider `sandbox` is a gateway on this machine, without a key and without cost.

version: 1
name: {name}                     # names the folder outputs/{name}/
provider: sandbox                # later: kapon, anyapi or kling, with the key in the environment

defaults:                        # of every job; each can be an axis of `matrix` too
  n: 1                           # images a task, 1 to 9
  resolution: 1k                 # 1k or 2k

matrix:                          # every prompt, in every ratio, with every model
  prompt:
    - A lighthouse in a storm, oil on canvas
    - {{prompt: "Logo of a fox, flat design", id: fox-logo}}      # `id` names its files
    - A ceramic {{{{ product }}}} on {{{{ surface }}}}, soft morning light
    # - {{from: prompts.csv, column: text}}                       # or .txt .tsv .jsonl .yaml
  aspect_ratio: [1:1, 16:9]
  model: [kling-v2-1]
  vars:                          # for the {{{{ }}}} of prompts
    product: [mug, lamp]
    surface: [oak]

# exclude:                       # combinations to leave out
#   - {{aspect_ratio: 16:9, prompt_id: fox-logo}}

budget: {{max_images: 100}}      # a run stops rather than make more
"""


def configure(parser: ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "file", metavar="FILE", nargs="?", type=Path, default=Path("manifest.yaml"), help="default: manifest.yaml"
    )


def execute(options: Namespace) -> int:
    """Write the starter; a file that is there already is never touched."""
    path: Path = options.file
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-") or "images"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(STARTER.format(file=path, name=name))
    except FileExistsError as error:
        raise CommandError(f"{path} is there already; give another name: batchgen init OTHER.yaml") from error
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}.") from error
    print(f"{path} is written. Look at it, then: batchgen run {path}")
    return 0
