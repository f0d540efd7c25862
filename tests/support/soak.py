"""Runs thousands of jobs with every fault at once, and checks the gateway's usage.

As a script it prints that usage: `python tests/support/soak.py --jobs 2000 --seed 1`. Its exit code is 0 when
everything that can be delivered was delivered and billed once.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command import batchgen, billed_by_prompt, manifest
from output_checks import check_invariant, rows_of
from sandbox_process import SandboxProcess

REJECTED = ("forbidden-word", "policy-word")  # words that the sandbox refuses (batchgen/sandbox/rules.py)
_REJECTED_EVERY = 100  # jobs, of each word


@dataclass(frozen=True, kw_only=True)
class Soak:
    """What is run, and with which faults."""

    jobs: int = 2000
    seed: int = 1
    faults: str = "all=0.02"
    concurrency: int = 100
    emulate: str = "kapon"
    latency: float = 1.0  # seconds
    runs: int = 3  # an image may stay damaged through all attempts of one run
    timeout: float = 1200.0  # seconds for one run


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The output and the gateway's usage afterwards."""

    codes: tuple[int, ...]  # of the runs
    printed: str  # by the last run
    seconds: float
    deliverable: int
    delivered: int
    rejected: Counter[str]
    failures: list[dict[str, str]]
    billed: Counter[str]  # tasks that were paid for, by prompt
    usage: dict[str, Any]

    @property
    def violations(self) -> list[str]:
        """Broken promises, each as a sentence."""
        rejected = sum(self.rejected.values())
        claims = {
            f"{self.delivered} of {self.deliverable} images were delivered": self.delivered == self.deliverable,
            f"{len(self.billed)} jobs were billed": len(self.billed) == self.deliverable,
            f"jobs were billed twice: {[job for job, times in self.billed.items() if times > 1][:5]}": (
                set(self.billed.values()) == {1}
            ),
            f"failures that are not rejections: {self.failures[:3]}": len(self.failures) == rejected,
            f"the last run ended with {self.codes[-1]}: {self.printed}": self.codes[-1] == (1 if rejected else 0),
        }
        return [violation for violation, holds in claims.items() if not holds]

    def table(self) -> str:
        """The usage as text."""
        usage = self.usage
        lines = [
            f"runs ended with {', '.join(map(str, self.codes))} after {self.seconds:.0f} s in all",
            f"delivered {self.delivered} of {self.deliverable} images; rejected: "
            + (", ".join(f"{number} × {code}" for code, number in sorted(self.rejected.items())) or "none"),
            (
                f"tasks accepted {usage['creates_accepted']}, by status {usage['tasks_by_status']};"
                f" images billed {usage['images_billed']}, billed twice {usage['duplicates']['images_billed']};"
                f" ids repeated {usage['duplicates']['external_ids']}; peak of units held {usage['peak_units_held']}"
            ),
            "",
            "| request | answers |",
            "|---|---|",
            *(f"| {kind} ({sum(answers.values())}) | {_join(answers)} |" for kind, answers in _requests(usage)),
            "",
            f"injected faults ({sum(usage['faults'].values())}): {_join(usage['faults'])}",
        ]
        return "\n".join(lines)


def soak(plan: Soak, folder: Path) -> Outcome:
    """Run it in this folder."""
    options = [
        *("--emulate", plan.emulate, "--concurrency", str(plan.concurrency), "--seed", str(plan.seed)),
        *("--latency", str(plan.latency), "--latency-sigma", "0.5", "--blank-images", "--faults", plan.faults),
    ]
    texts = [_prompt(number) for number in range(plan.jobs)]
    lines = "".join(f"    - {text}\n" for text in texts)
    with SandboxProcess(*options) as gateway:
        text = f"run: {{max_attempts: 8}}\nmatrix:\n  prompt:\n{lines}"
        path = manifest(folder, gateway, text, use=plan.emulate, concurrency=plan.concurrency, longest=8 * plan.latency)
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("visibility_delay:", "request_timeout: 10, visibility_delay:"), encoding="utf-8")
        started, codes = time.monotonic(), []
        for _ in range(plan.runs):
            done = batchgen("run", path, "--json", cwd=folder, timeout=plan.timeout)
            codes.append(done.returncode)
            if done.returncode not in {0, 1, 3} or not (done.returncode == 3 or json.loads(done.stdout)["unfinished"]):
                break
        output = folder / "outputs" / "tried"
        failures = rows_of(output, "failures.csv")
        return Outcome(
            codes=tuple(codes),
            printed=(done.stdout + done.stderr)[-2000:],
            seconds=time.monotonic() - started,
            deliverable=sum(not any(word in text for word in REJECTED) for text in texts),
            delivered=len(check_invariant(output)),
            rejected=Counter(row["code"] for row in failures if row["status"] == "rejected"),
            failures=failures,
            billed=billed_by_prompt(gateway),
            usage=gateway.usage(tasks=False),
        )


def _prompt(number: int) -> str:
    word = dict(enumerate(REJECTED)).get(number % _REJECTED_EVERY, "word")
    return f"a {word} for picture {number}"


def _requests(usage: dict[str, Any]) -> list[tuple[str, dict[str, int]]]:
    return [(kind, answers) for kind, answers in usage["requests"].items() if kind != "usage"]


def _join(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(numbers.items(), key=_by_name))


def _by_name(item: tuple[str, int]) -> tuple[int, str]:
    return (int(item[0]) if re.fullmatch("[0-9]+", item[0]) else 10_000, item[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", default="all=0.02")
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--emulate", default="kapon")
    with tempfile.TemporaryDirectory() as folder:
        outcome = soak(Soak(**vars(parser.parse_args())), Path(folder))
    print(outcome.table())
    for violation in outcome.violations:
        print(f"WRONG: {violation}")
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
