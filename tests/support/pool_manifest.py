"""A manifest of several accounts, each at a sandbox of its own, and what each of them was asked to make."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


def pooled(
    folder: Path, text: str, accounts: Mapping[str, Mapping[str, Any]], provider: object = None, name: str = "pooled"
) -> Path:
    """Write a manifest of these accounts; without `provider` all of them, in their order."""
    own = {
        name: {"use": "kapon", "api_key_env": "SANDBOX_KEY", "visibility_delay": 0, **changes}
        for name, changes in accounts.items()
    }
    path = folder / "pool.yaml"
    provider = [*accounts] if provider is None else provider
    head = f"version: 1\nname: {name}\nprovider: {json.dumps(provider)}\nproviders: {json.dumps(own)}\n"
    path.write_text(head + text, encoding="utf-8")
    return path


def billed(gateways: Iterable[Any]) -> Counter[str]:
    """Tasks that were or will be paid for, at any of the gateways, by the job of their external id."""
    found: Counter[str] = Counter()
    for gateway in gateways:
        tasks = [task for task in gateway.usage()["tasks"] if task["status"] != "failed"]
        found.update(task["external_task_id"].split("-")[1] for task in tasks)
    return found


def accepted(gateway: Any) -> int:
    return len(gateway.usage()["tasks"])
