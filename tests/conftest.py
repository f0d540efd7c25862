"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import pytest
from sandbox_process import SandboxProcess


@pytest.fixture
def gateway():
    """A sandbox in a process of its own, as a Kapon account that is quick and paints nothing."""
    with SandboxProcess("--emulate", "kapon", "--latency", "0.2", "--blank-images") as process:
        yield process
