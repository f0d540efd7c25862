"""`schemas/index.schema.json` describes the index that is really written."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from batchgen.reports.index import INDEX_COLUMNS

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "schemas" / "index.schema.json").read_text(encoding="utf-8"))
CONTRACT = [
    "file_name",
    "sha256",
    "bytes",
    "width",
    "height",
    "job_id",
    "image_index",
    "prompt_id",
    "prompt",
    "negative_prompt",
    "model",
    "aspect_ratio",
    "resolution",
    "provider",
    "task_id",
    "attempts",
    "submitted_at",
    "finished_at",
    "cost",
    "params",
    "warning",
]


def moment(cell):
    found = datetime.fromisoformat(cell)
    if found.utcoffset() != timedelta(0):
        raise ValueError(f"{cell} is not in UTC")
    return found


def json_object(cell):
    found = json.loads(cell)
    if not isinstance(found, dict):
        raise TypeError(f"{cell} is not an object")
    return found


READ = {"string": str, "integer": int, "number": Decimal, "datetime": moment, "object": json_object}


def faults_of(cell, field):
    """What of a cell the schema does not allow: the part of Table Schema that ours uses."""
    rules = field.get("constraints", {})
    if cell in SCHEMA["missingValues"]:
        return ["required"] if rules.get("required") else []
    try:
        value = READ[field["type"]](cell)
    except (ValueError, TypeError, ArithmeticError):
        return ["type"]
    checks = {
        "minimum": lambda bound: value >= bound,
        "maxLength": lambda bound: len(value) <= bound,
        "pattern": lambda pattern: re.fullmatch(pattern, cell) is not None,
    }
    return [name for name, check in checks.items() if name in rules and not check(rules[name])]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """The index of a real run against the sandbox."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "manifest.yaml").write_text(
        "version: 1\nname: tried\nprovider: sandbox\n"
        "matrix:\n"
        '  prompt: ["A {{ thing }}, red", {prompt: "Zwei\\nZeilen, \\"é\\"", id: "zwei: é", n: 2}]\n'
        "  vars: {thing: [mug]}\n"
        "  model: [kling-v1, {model: kling-v2-1, resolution: 2k, negative_prompt: blur}]\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "batchgen", "run", "manifest.yaml", "--output", "out"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    with (folder / "out" / "index.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_its_fields_are_the_contract_s_columns_in_their_order():
    assert [field["name"] for field in SCHEMA["fields"]] == CONTRACT
    assert list(INDEX_COLUMNS) == CONTRACT


def test_every_field_is_described_and_of_a_type_that_is_checked():
    assert [f["name"] for f in SCHEMA["fields"] if not (f["title"] and f["description"] and f["type"] in READ)] == []


def test_its_examples_keep_to_it():
    examples = [(field["example"], field) for field in SCHEMA["fields"] if "example" in field]
    assert examples
    assert [field["name"] for example, field in examples if faults_of(example, field)] == []


def test_a_real_index_keeps_to_it(index):
    assert len(index) == 6
    assert list(index[0]) == [*CONTRACT, "label.thing"]  # labels, marks and scores come after
    fields = SCHEMA["fields"]
    assert [(f["name"], row[f["name"]]) for row in index for f in fields if faults_of(row[f["name"]], f)] == []


@pytest.mark.parametrize("key", [SCHEMA["primaryKey"], *SCHEMA["uniqueKeys"]], ids=str)
def test_its_keys_are_keys(index, key):
    assert len({tuple(row[name] for name in key) for row in index}) == len(index)


def test_every_image_has_its_times_and_what_was_asked_for(index):
    for row in index:
        assert moment(row["submitted_at"]) <= moment(row["finished_at"])
        assert json_object(row["params"])["n"] in {1, 2}


@pytest.mark.parametrize(
    ("name", "cell", "fault"),
    [
        ("file_name", "outputs/a.png", "pattern"),
        ("file_name", "images/a:b.png", "pattern"),
        ("file_name", "images/" + "a" * 200 + ".png", "maxLength"),
        ("sha256", "", "required"),
        ("bytes", "0", "minimum"),
        ("width", "wide", "type"),
        ("aspect_ratio", "16x9", "pattern"),
        ("finished_at", "2026-11-21 05:00:00", "type"),
        ("cost", "-1", "minimum"),
        ("params", "[]", "type"),
    ],
)
def test_a_wrong_cell_is_found(name, cell, fault):
    field = next(field for field in SCHEMA["fields"] if field["name"] == name)
    assert fault in faults_of(cell, field)
