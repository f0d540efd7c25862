"""Changes that the tests have to notice: each spoils one condition in a copy of the tree and runs the tests named.

    python tests/support/mutants.py [WORD]     # only those whose file or text contains WORD

Ends with 1 where a mutant survives, or where the text that it changes is no longer there.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PARTS = ["batchgen", "schemas", "manifests", "docs", "tests", "README.md", "pyproject.toml"]


class Mutant(NamedTuple):
    """In `file`, the only `old` becomes `new`; one of `tests` has to fail."""

    file: str
    old: str
    new: str
    tests: str


MUTANTS = [
    # An attempt is recorded although another one of the job is live.
    Mutant("ledger/transitions.py", "WHERE (job.status = 'pending' OR ?5 AND job.status IN ('done', 'made', 'failed'))",
           "WHERE 1", "unit/test_ledger.py"),
    # What a check rejects takes jobs along that --limit left.
    Mutant("app/workload.py", " and not self._replaces_alone", "", "e2e/test_checks.py -k limit"),
    # A check may have more made anew than its budget.
    Mutant("app/workload.py", " and spent + job.parameters.n <= bounds.max_images", "",
           "e2e/test_checks.py -k bounds"),
    # What was charged is taken back by a later "failed".
    Mutant("ledger/transitions.py", "(cost IS NULL OR ?1 NOT IN ('failed', 'refused'))", "1",
           "unit/test_ledger_states.py -k charged"),
    # The task of an attempt that was held is not adopted.
    Mutant("ledger/transitions.py", "number = ? AND outcome IN ('', 'unknown')", "number = ? AND outcome = ''",
           "cli/test_audit_counts.py -k whatever"),
    # The budget allows one image fewer than it says.
    Mutant("budget.py", "self.images + images > limits.images", "self.images + images >= limits.images",
           "unit/test_limits.py"),
    # Refused jobs do not give back what was reserved.
    Mutant("budget.py", "self.images -= images", "self.images -= 0", "unit/test_limits.py"),
    # The gateway's Retry-After is no lower bound.
    Mutant("engine/retry.py", "max(wait, asked)", "min(wait, asked)", "unit/test_limits.py"),
    # A control counts before it has to be visible.
    Mutant("engine/controls.py", "control.since >= self._delay", "control.since >= 0",
           "unit/test_recovery.py"),
    # A list that alters ids is believed.
    Mutant("engine/controls.py", "if self._alters_ids:", "if False:",
           "unit/test_recovery.py"),
    # A look-up that answers with another task is believed.
    Mutant("engine/recovery.py", "if not task.may_be(attempt.external_id) or self", "if self",
           "e2e/test_lying_gateways.py -k another_task"),
    # A job gets one attempt more than run.max_attempts.
    Mutant("engine/outcomes.py", "attempt.failures + 1 >= self", "attempt.failures + 1 > self",
           "contract/test_provider_runs.py -k failed_task"),
    # A sample takes one job too few.
    Mutant("matrix/sample.py", "if len(lowest) < count:", "if len(lowest) < count - 1:",
           "unit/test_manifest_more.py -k sample"),
    # An empty cell does not match `null`.
    Mutant("manifest/prompts.py", "not value if m.value is None", 'value == "-" if m.value is None',
           "unit/test_manifest_more.py -k 'not any_use'"),
    # A task that could never start is accepted.
    Mutant("manifest/rules.py", "if parameters.n > units:", "if parameters.n > units + 9:", "unit/test_manifest.py"),
    # A reference image goes together with a negative prompt.
    Mutant("manifest/rules.py", "if parameters.negative_prompt is not None:", "if False:", "unit/test_manifest.py"),
]  # fmt: skip


def outcome(mutant: Mutant, folder: Path) -> str:
    """The first test that fails, or why none does."""
    source = ROOT / "batchgen" / mutant.file
    text = source.read_text(encoding="utf-8") if source.exists() else ""
    if text.count(mutant.old) != 1:
        return "STALE: the text to change is not there once"
    changed = folder / "batchgen" / mutant.file
    changed.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile", "quick to fail"]
    command = [sys.executable, "-m", "pytest", *options, *shlex.split(f"tests/{mutant.tests}")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    changed.write_text(text, encoding="utf-8")
    killers = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return killers[0].partition(" - ")[0] if killers else f"SURVIVES {mutant.tests} (exit code {done.returncode})"


def main(words: list[str]) -> int:
    """Try the mutants and print which test notices each."""
    survivors = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in PARTS:
            source = ROOT / part
            shutil.copytree(source, folder / part) if source.is_dir() else shutil.copy(source, folder / part)
        for mutant in MUTANTS:
            if all(word in mutant.file + mutant.old for word in words):
                found = outcome(mutant, folder)
                survivors += found.startswith(("STALE", "SURVIVES"))
                print(f"{mutant.file}: {mutant.old!r} -> {mutant.new!r}\n    {found}", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
