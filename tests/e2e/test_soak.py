"""Hundreds of jobs with every fault at once: all are delivered, each is billed once, and failures.csv has the rejected.

The default is a small run; `BATCHGEN_SOAK=1 pytest tests/e2e/test_soak.py` runs 2,000 jobs for each of three seeds, and
600 for definitions of each kind that can be asked.
`python tests/support/soak.py` prints the gateway's usage.
"""

from __future__ import annotations

import os

import pytest
from soak import Soak, soak

DECLARED = ("fal", "replicate", "runware", "comfyui")  # a list with a mark, and ids of the caller's own
LARGE = [*(Soak(seed=seed) for seed in (1, 2, 3)), *(Soak(jobs=600, emulate=name) for name in DECLARED)]
PLANS = LARGE if os.environ.get("BATCHGEN_SOAK") else [Soak(jobs=80, seed=1)]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_with_every_fault_all_is_delivered_and_billed_once(tmp_path, plan):
    outcome = soak(plan, tmp_path)
    print(outcome.table())
    assert outcome.violations == []
    assert outcome.usage["peak_units_held"] <= plan.concurrency
    assert sum(outcome.usage["faults"].values()) > plan.jobs / 10
