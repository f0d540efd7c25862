"""The package in `plugin_package`, installed for the commands of a test."""

from __future__ import annotations

import os
import shutil
import tomllib
from typing import TYPE_CHECKING

from command import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PACKAGE = ROOT / "tests" / "support" / "plugin_package"


def plugin_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package as an installer leaves it in a folder on the path: its modules, and a dist-info with entry points."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    site = folder / "site-packages"
    about = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir(parents=True)
    for module in PACKAGE.glob("*.py"):
        shutil.copy(module, site)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (about / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])))
    return site
