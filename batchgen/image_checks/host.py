"""A process that runs one check, built in or of the entry point group `batchgen.checks`.

`python -m batchgen.image_checks.host NAME SETTINGS`, with the settings as JSON, speaks as any command does that is a
check: a line of JSON for each image in, a line of JSON out. What a check prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, cast

from batchgen.image_checks.builtin import BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.image_checks.builtin import Check

GROUP = "batchgen.checks"


def main(name: str, settings: str) -> None:
    """Answer until the input ends. Raises SystemExit with a sentence where there is no such check."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        check = _factory(name)(**json.loads(settings))
    except (TypeError, ValueError) as error:
        raise SystemExit(f"the settings of {name!r} are wrong: {error}") from error
    for line in sys.stdin:
        print(json.dumps(check(json.loads(line))), file=answers, flush=True)


def _factory(name: str) -> Callable[..., Check]:
    if name in BUILT_IN:
        return BUILT_IN[name]
    for entry in entry_points(group=GROUP, name=name):
        return cast("Callable[..., Check]", entry.load())
    known = ", ".join(sorted({*BUILT_IN, *entry_points(group=GROUP).names}))
    raise SystemExit(f"no installed package provides the check {name!r}. Known checks: {known}")


if __name__ == "__main__":
    main(*sys.argv[1:])
