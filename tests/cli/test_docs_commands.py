"""docs/commands.md: it has every command, every option, every exit code and every reason code, and no other."""

from __future__ import annotations

import argparse
import json
import re
from importlib import import_module

import pytest
from command import ROOT, batchgen

from batchgen.catalog import definitions
from batchgen.catalog.load import builtin
from batchgen.cli.main import COMMANDS
from batchgen.cli.starters import account_of
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


APIS = (ROOT / "docs" / "apis.md").read_text(encoding="utf-8")


def rows(text, heading):
    """The cells of the first table after a heading."""
    lines = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")][1:]


def test_the_apis_that_come_with_batchgen_are_in_the_table_as_the_command_lists_them(tmp_path):
    listed = json.loads(batchgen("apis", "--json", cwd=tmp_path).stdout)["apis"]
    assert rows(APIS, "APIs that come with batchgen") == [
        [f"`{api['name']}`", api["about"], api["kind"], api["results"], f"`{api['key']}`" if api["key"] else "none"]
        for api in listed
    ]


def test_who_can_be_asked_after_a_lost_answer_is_said_of_each_account():
    found = {"find": set(), "list": set(), "remembers": {}, "nobody": set(), "free": set()}
    for name in (*builtin().accounts, *definitions.names()):
        account = account_of(name)
        asked = "find" if account.lookup_by_external_id != "no" else "list" if account.lists_tasks != "no" else "nobody"
        asked = "free" if asked == "nobody" and account.free else asked
        found[asked].add(name)
        if account.remembers is not None:
            found["remembers"][name] = account.definition["remembers"]
    cells = [row[3] for row in rows(APIS, "Who can be asked after a lost answer")]
    assert [set(re.findall(r"`(\w+)`", cells[number])) for number in (0, 1, 3, 4)] == [
        found[asked] for asked in ("find", "list", "nobody", "free")
    ]
    assert dict(re.findall(r"`(\w+)` \((\w+)\)", cells[2])) == found["remembers"]
