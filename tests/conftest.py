"""Fixtures that tests of several folders share."""

from __future__ import annotations

import pytest
from sandbox_server import SandboxServer


@pytest.fixture
def gateway():
    """A sandbox of this test alone, as a Kapon account that is quick and paints nothing."""
    with SandboxServer("--emulate", "kapon", "--latency", "0.2", "--blank-images") as process:
        yield process
