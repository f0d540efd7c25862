"""The views in a spreadsheet: exact by default, harmless on wish."""

from __future__ import annotations

from command import batchgen
from output_checks import rows_of

PROMPTS = ["=1+1", "+1", "-1", "@SUM(A1)", "\ttab", "plain = text"]
TEXT = "version: 1\nname: tried\nprovider: sandbox\nmatrix:\n  prompt:\n" + "".join(
    f'    - {{prompt: "{prompt}", id: p{i}}}\n' for i, prompt in enumerate(PROMPTS)
).replace("\t", "\\t")


def run(tmp_path, more=""):
    (tmp_path / "m.yaml").write_text(TEXT + more, encoding="utf-8")
    done = batchgen("run", "m.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert batchgen("verify", "m.yaml", cwd=tmp_path).returncode == 0
    return [row["prompt"] for row in rows_of(tmp_path / "outputs" / "tried")]


def test_cells_are_exact_unless_they_are_wanted_safe(tmp_path):
    exact = run(tmp_path)
    assert exact[0] == "=1+1"
    assert run(tmp_path, "output: {spreadsheet_safe: true}\n") == [f"'{p}" if p[0] in "=+-@\t" else p for p in exact]
    assert run(tmp_path) == exact
