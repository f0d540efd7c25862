"""docs/commands.md: it has every command, every option, every exit code and every reason code, and no other."""

from __future__ import annotations

import argparse
import re
from importlib import import_module

import pytest
from command import ROOT

from batchgen.catalog.load import builtin
from batchgen.cli.main import COMMANDS
from batchgen.errors import ReasonCode

PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def section(title):
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def first_cells(text):
    return [line.replace("\\|", "/").split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][1:]


def test_every_command_is_in_the_table_and_has_a_section():
    assert first_cells(PAGE.partition("\n## ")[0]) == [f"`batchgen {name}`" for name in COMMANDS]
    assert re.findall(r"^## `batchgen (\w+)`$", PAGE, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_described_and_no_other(name):
    parser = argparse.ArgumentParser()
    import_module(f"batchgen.cli.{name}").configure(parser)
    options = {option for action in parser._actions for option in action.option_strings} - {"-h", "--help"}
    cells = "\n".join(first_cells(section(f"`batchgen {name}`")))
    assert set(re.findall(r"--[a-z-]+", cells)) == options


def test_every_reason_code_is_described_and_no_other():
    rows = [line.rpartition("| `")[2] for line in section("Exit codes").splitlines() if line.startswith("| ")][1:]
    assert sorted(re.findall(r"[a-z_]+", " ".join(rows))) == sorted(ReasonCode)


def test_every_key_of_a_built_in_account_is_described():
    wanted = {name for account in builtin().accounts.values() for name in account.key_variables}
    assert {name for name in wanted if f"`{name}`" not in section("Environment")} == set()
