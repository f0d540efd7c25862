"""Starting costs little: what a command does not need is not loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"aiohttp", "jsonschema", "jsonschema_rs", "tqdm", "PIL", "jinja2", "yaml", "jwt", "aiolimiter", "asyncio"}


def loaded_by(*command):
    """The packages that a fresh Python loads for a command, by their own first names, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().split(".")[0] for line in lines}, done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments):
    packages, printed = loaded_by("-m", "batchgen", *arguments)
    assert "batchgen" in packages
    assert "batchgen" in printed
    assert packages & HEAVY == set()


def test_importing_the_package_loads_nothing_but_the_package():
    packages, _ = loaded_by("-c", "import batchgen")
    assert "batchgen" in packages
    assert packages & (HEAVY | {"argparse", "json", "dataclasses", "hashlib"}) == set()


def test_what_is_heavy_is_seen_where_it_is_loaded():
    packages, _ = loaded_by("-c", "import tqdm, yaml, jinja2, PIL.Image")
    assert {"tqdm", "yaml", "jinja2", "PIL"} <= packages
