"""What tests of several folders share: a gateway, reproducible properties, and skips that fail in the CI."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import Phase, settings
from sandbox_server import SandboxServer

IN_CI = bool(os.environ.get("BATCHGEN_CI"))
# In the reason of a skip: what depends on who runs the tests and where, not on what is installed.
MAY_SKIP = ("by root only", "rights do not count here")
if shutil.which("strace"):
    MAY_SKIP += ("may not look into processes",)  # a container without ptrace

# The CI tries the same examples each time; elsewhere each run tries new ones.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("quick to fail", phases=[Phase.explicit, Phase.generate], database=None, deadline=None)
if IN_CI:
    settings.load_profile("ci")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Where BATCHGEN_CI is set, a test that skips fails: it was meant to run there."""
    report = yield
    is_skip = report.skipped and not hasattr(report, "wasxfail")
    if IN_CI and is_skip and not any(reason in str(report.longrepr) for reason in MAY_SKIP):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} is meant to run here (BATCHGEN_CI is set), and skips: {call.excinfo.value}"
    return report


@pytest.fixture
def gateway():
    """A sandbox of this test alone, as a Kapon account that is quick and paints nothing."""
    with SandboxServer("--emulate", "kapon", "--latency", "0.2", "--blank-images") as running:
        yield running
