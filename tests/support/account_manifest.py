"""A manifest of one account at a gateway of the test's own, and how the jobs of its output stand."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from recorder import Recorder
    from scripted_gateway import ScriptedGateway


def written(folder: Path, text: str, **account: object) -> Path:
    own = {"api_key_env": "SANDBOX_KEY", "visibility_delay": 0, "limits": {"concurrency": 9}} | account
    path = folder / "manifest.yaml"
    head = f"version: 1\nname: tried\nprovider: local\nproviders: {json.dumps({'local': own})}\n"
    path.write_text(head + text, encoding="utf-8")
    return path


def kapon(gateway: ScriptedGateway, **more: object) -> dict[str, object]:
    return {"use": "kapon", "base_url": gateway.base_url, "lists_tasks": "no"} | more


def unasked(recorder: Recorder, profile: str) -> dict[str, object]:
    """An account that cannot be asked what became of a create."""
    return {"use": profile, "base_url": recorder.origin + ("/kling" if profile == "anyapi" else "")}


def statuses(folder: Path) -> dict[str, int]:
    db = sqlite3.connect(folder / "outputs" / "tried" / "state.sqlite3")
    try:
        return dict(db.execute("SELECT status, count(*) FROM job GROUP BY status").fetchall())
    finally:
        db.close()
