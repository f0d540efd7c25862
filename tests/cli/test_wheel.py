"""The wheel in a fresh environment: it works from any folder, and its schemas are those of `schemas/`."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    if built.returncode:
        pytest.skip(f"no wheel can be built here, for instance without a package index: {built.stderr[-300:]}")
    return next(folder.glob("batchgen-*.whl"))


@pytest.fixture(scope="module")
def command(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh")
    assert run(sys.executable, "-m", "venv", folder / "env", cwd=folder).returncode == 0
    python = folder / "env" / "bin" / "python"
    installed = run(python, "-m", "pip", "install", "--quiet", wheel, cwd=folder)
    assert installed.returncode == 0, installed.stderr
    return python.with_name("batchgen")


@pytest.mark.parametrize("name", ["manifest", "index"])
def test_the_wheel_holds_the_schemas_as_they_are(wheel, name):
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.read(f"batchgen/schemas/{name}.schema.json")
    assert packed == (ROOT / "schemas" / f"{name}.schema.json").read_bytes()


def test_the_wheel_holds_the_files_of_the_gallery(wheel):
    static = ROOT / "batchgen" / "reports" / "gallery" / "static"
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if "/gallery/static/" in name}
    assert packed == {path.relative_to(ROOT).as_posix() for path in static.iterdir()}
    assert len(packed) > 5


def test_the_wheel_holds_the_definitions_of_apis(wheel):
    files = sorted((ROOT / "batchgen" / "catalog" / "apis").glob("*.yaml"))
    assert files
    with zipfile.ZipFile(wheel) as archive:
        assert [archive.read(f"batchgen/catalog/apis/{file.name}") for file in files] == [
            file.read_bytes() for file in files
        ]


def test_the_installed_wheel_runs_from_any_folder(command, tmp_path):
    (tmp_path / "some where").mkdir()
    folder = tmp_path / "some where"
    assert run(command, "init", "first.yaml", cwd=folder).returncode == 0
    planned = run(command, "plan", "first.yaml", "--json", cwd=folder)
    assert planned.returncode == 0, planned.stderr
    made = run(command, "run", "first.yaml", cwd=folder)
    assert made.returncode == 0, made.stderr
    index = (folder / "outputs" / "first" / "index.csv").read_text(encoding="utf-8")
    assert len(index.splitlines()) == 1 + json.loads(planned.stdout)["make"]["images"]
    assert run(command, "verify", "first.yaml", cwd=folder).returncode == 0


def test_the_installed_wheel_prints_its_schema(command, tmp_path):
    printed = run(command, "schema", cwd=tmp_path)
    assert json.loads(printed.stdout) == json.loads((ROOT / "schemas" / "manifest.schema.json").read_text("utf-8"))
