"""An output made at a scripted gateway by the real command, and what may befall it."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

from command import batchgen, prompts
from output_checks import check_invariant, rows_of

if TYPE_CHECKING:
    from pathlib import Path

    from scripted_gateway import ScriptedGateway

HOUR_MS = 3_600_000


def write(folder: Path, gateway: ScriptedGateway, jobs: int = 1, *, n: int = 1, more: str = "", **own: object) -> Path:
    account = {"use": "kapon", "base_url": gateway.base_url, "api_key_env": "SANDBOX_KEY", "lists_tasks": "no"}
    accounts = {"local": account | {"limits": {"concurrency": 9}} | own}
    path = folder / "manifest.yaml"
    path.write_text(
        f"version: 1\nname: tried\nprovider: local\nproviders: {json.dumps(accounts)}\ndefaults: {{n: {n}}}\n"
        f"{prompts(jobs)}{more}",
        encoding="utf-8",
    )
    return path


def output_of(path: Path) -> Path:
    return path.parent / "outputs" / "tried"


def run(path: Path, *words: object):
    done = batchgen("run", path, *words, cwd=path.parent)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def finished(path: Path, *words: object) -> list[dict[str, str]]:
    done = run(path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return check_invariant(output_of(path))


def files_of(path: Path) -> list[Path]:
    return [output_of(path) / row["file_name"] for row in rows_of(output_of(path))]


def statuses(path: Path) -> list[str]:
    return [row["status"] for row in rows_of(output_of(path), "failures.csv")]


def make_older(path: Path, ms: int = 48 * HOUR_MS) -> None:
    """All that this output did was so much earlier."""
    db = sqlite3.connect(output_of(path) / "state.sqlite3")
    db.execute("UPDATE attempt SET intended_at = intended_at - ?1, accepted_at = accepted_at - ?1", (ms,))
    db.execute("UPDATE meta SET value = value - ? WHERE key LIKE 'refused:%'", (ms,))
    db.commit()
    db.close()
