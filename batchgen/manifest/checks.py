"""The key `checks`: automatic reviewers of images, each as a command and a version."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from batchgen.manifest.model import ImageCheck, OnReject
from batchgen.manifest.schema import INVALID
from batchgen.manifest.schema_file import default
from batchgen.manifest.settings import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from batchgen.manifest.diagnostics import Diagnostics

BUILT_IN = ("blank", "size")
_HOST = (sys.executable, "-P", "-m", "batchgen.image_checks.host")
_PROCESSES = 4  # of a built-in check, at most
_TIMEOUT = "2m"


def image_checks(raw: Sequence[Any], folder: Path, diagnostics: Diagnostics) -> Iterator[ImageCheck]:
    """The checks that are written right; what is wrong with the others is reported."""
    names: set[str] = set()
    for number, entry in enumerate(raw):
        if entry is INVALID:
            continue
        path = ("checks", number)
        given = {entry: {}} if isinstance(entry, str) else entry
        kinds = [key for key in (*BUILT_IN, "command", "use") if key in given]
        if len(kinds) != 1:
            message = "A check is one of blank, size, command and use." if kinds or given else "The check is empty."
            diagnostics.add(path, message, "Write `blank`, `size: {...}`, `command: [...]` or `use: NAME`.")
            continue
        check = _check(kinds[0], given, folder)
        if check.name in names:
            diagnostics.add(path, f"There are two checks named `{check.name}`.", "Give one of them another `name`.")
            continue
        if "with" in given and kinds[0] != "use":
            diagnostics.add((*path, "with"), "`with` is for `use`.", "A command takes its settings as words.", key=True)
            continue
        names.add(check.name)
        yield check


def on_reject(raw: Mapping[str, Any], diagnostics: Diagnostics) -> OnReject | None:
    """What is made anew; None where rejected images are only marked."""
    if raw.get("do") != "remake":
        return None
    if "budget" not in raw:
        hint = "Write `budget: {max_images: 50}`: what is made anew is paid for."
        diagnostics.add(("on_reject", "do"), "`do: remake` needs a budget of its own.", hint, key=True)
    if (max_images := raw.get("budget", {}).get("max_images")) is None:
        return None
    keys = ("on_reject", "attempts"), ("on_reject", "stop_above")
    attempts, stop_above = (raw.get(key[1], default(*key)) for key in keys)
    return OnReject(attempts=int(attempts), max_images=int(max_images), stop_above=float(stop_above))


def _check(kind: str, given: dict[str, Any], folder: Path) -> ImageCheck:
    value = given[kind]
    settings: dict[str, Any] = {}
    if kind == "command":
        command, name = tuple(map(str, value)), "command"
    else:
        name, settings = (kind, value or {}) if kind in BUILT_IN else (str(value), given.get("with", {}))
        command = (*_HOST, name, json.dumps(settings))
    version = str(given.get("version", 1))
    if settings:  # with other settings its verdicts are others
        version += f"-{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:6]}"
    default = min(_PROCESSES, os.cpu_count() or 1) if kind in BUILT_IN else 1
    return ImageCheck(
        name=str(given.get("name", name)),
        version=version,
        command=command,
        folder=folder,
        timeout=seconds(given.get("timeout", _TIMEOUT)),
        processes=int(given.get("processes", default)),
    )
