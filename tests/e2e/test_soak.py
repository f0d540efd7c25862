"""Jobs by the hundred in every weather at once: all is delivered, each billed once, and what was rejected is named.

The default is a small run; `BATCHGEN_SOAK=1 pytest tests/e2e/test_soak.py` runs 2,000 jobs for each of three seeds.
`python tests/support/soak.py` prints the account of requests.
"""

from __future__ import annotations

import os

import pytest
from soak import Soak, soak

PLANS = [Soak(seed=seed) for seed in (1, 2, 3)] if os.environ.get("BATCHGEN_SOAK") else [Soak(jobs=120, seed=1)]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_in_every_weather_all_is_delivered_and_each_billed_once(tmp_path, plan):
    outcome = soak(plan, tmp_path)
    print(outcome.table())
    assert outcome.faults == []
    assert outcome.account["peak_units_held"] <= plan.concurrency
    assert sum(outcome.account["faults"].values()) > plan.jobs / 10  # the weather was bad
