"""Mistakes by the ten thousand are told in about the time of one: nothing is looked at once for each other."""

from __future__ import annotations

import pytest
from command import batchgen

HEAD = "version: 1\nname: x\nprovider: sandbox\n"
MATRIX = "matrix: {prompt: [a]}\n"
MANY = range(20_000)


def flow(text):
    return ", ".join(text.format(i) for i in MANY)


MANIFESTS = {
    "unknown keys": HEAD + MATRIX + "".join(f"key_{i}: 1\n" for i in MANY),
    "unknown keys in a line": f"{HEAD}{MATRIX}defaults: {{{flow('k{}: 1')}}}\n",
    "doubled keys": HEAD + MATRIX + "defaults:\n" + 2 * "".join(f"  key_{i}: 1\n" for i in MANY),
    "exclusion": f"{HEAD}{MATRIX}exclude:\n  - {{{flow('m{}: 1')}}}\n",
    "zip": f"{HEAD}matrix:\n  prompt: [a]\n  zip:\n    - {{{flow('m{}: 1')}}}\n",
    "doubled entries": f"{HEAD}{MATRIX}providers: {{a: {{use: kapon, models: [{flow('m{}')}, m7]}}}}\n",
    "accounts": HEAD + MATRIX + "providers:\n" + "".join(f"  a{i}: {{use: kapon, x{i}: 1}}\n" for i in MANY),
    "doubled columns": HEAD + "matrix:\n  prompt: {from: doubled.csv, column: c1}\n",
    "columns": f"{HEAD}matrix:\n  prompt: {{from: wide.csv, column: c1, where: {{{flow('c{}: w')}}}}}\n",
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_many_mistakes_are_told_in_time(tmp_path, name):
    (tmp_path / "m.yaml").write_text(MANIFESTS[name], encoding="utf-8")
    row = ",".join("v" for _ in MANY)
    (tmp_path / "wide.csv").write_text(",".join(f"c{i}" for i in MANY) + f"\n{row}\n", encoding="utf-8")
    (tmp_path / "doubled.csv").write_text(",".join(f"c{i // 2}" for i in MANY) + f"\n{row}\n", encoding="utf-8")
    done = batchgen("validate", "m.yaml", cwd=tmp_path, timeout=60)  # it took minutes
    assert done.returncode == 2, done.stderr[-500:]
    assert "defect" not in done.stderr
