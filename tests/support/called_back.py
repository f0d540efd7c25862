"""Manifests with callbacks, and the addresses that a sandbox was given."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox_server import SandboxServer


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def callback(port: int, path: str = "/hook", more: str = "") -> str:
    return f"callback: {{public_url: http://127.0.0.1:{port}{path}, listen: 127.0.0.1:{port}}}\n{more}"


def addresses(gateway: SandboxServer) -> dict[str, str]:
    """The address that each create named, by task."""
    return {task["task_id"]: task["request"].get("callback_url", "") for task in gateway.usage()["tasks"]}
