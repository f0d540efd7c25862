"""A provider in a package of its own: installed beside batchgen, named by a manifest, run by the real command."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from command import ROOT
from command import batchgen_process as batchgen  # a package that was installed just now is seen by a new process
from drawing_gateway import KEY, DrawingGateway
from installed_plugin import PACKAGE, plugin_installed
from output_checks import check_invariant, rows_of
from recorder import Recorder, Reply

from batchgen.errors import Unclear
from batchgen.http.client import HttpClient

MODULE = PACKAGE / "batchgen_drawing.py"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    monkeypatch.setenv("DRAWING_KEY", KEY)
    return plugin_installed(tmp_path, monkeypatch)


def manifest(folder, gateway, *prompts, n=1, more="", **changes):
    account = {"protocol": "drawing", "base_url": gateway.base_url, "models": ["pen"], "api_key_env": "DRAWING_KEY"}
    accounts = json.dumps({"mine": account | {"lookup_by_external_id": "yes", "visibility_delay": 0} | changes})
    text = f"version: 1\nname: tried\nprovider: mine\nproviders: {accounts}\ndefaults: {{n: {n}}}\n{more}"
    path = folder / "manifest.yaml"
    path.write_text(f"{text}matrix: {json.dumps({'prompt': prompts})}\n", encoding="utf-8")
    return path


@pytest.mark.usefixtures("installed")
def test_a_manifest_that_names_its_protocol_is_run_to_the_images(tmp_path):
    with DrawingGateway() as gateway:
        path = manifest(tmp_path, gateway, "a fox", "ein Dachs 狐", n=2)
        assert batchgen("validate", path, cwd=tmp_path).returncode == 0
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        rows = check_invariant(tmp_path / "outputs" / "tried")
        assert {(row["prompt"], row["model"]) for row in rows} == {("a fox", "pen"), ("ein Dachs 狐", "pen")}
        assert len(rows) == 4
        assert sorted(drawing["text"] for drawing in gateway.drawings.values()) == ["a fox", "ein Dachs 狐"]
        assert "Nothing to do" in batchgen("run", path, cwd=tmp_path).stdout
        assert len(gateway.creates) == 2


@pytest.mark.usefixtures("installed")
def test_it_is_kept_from_paying_twice_as_every_provider_is(tmp_path):
    """The first create is taken and its answer lost, the next is refused for now, the next fails at the server."""
    with DrawingGateway("cut", 429, 503) as gateway:
        path = manifest(tmp_path, gateway, "a fox", "a cat", "a dog", limits={"concurrency": 1})
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(check_invariant(tmp_path / "outputs" / "tried")) == 3
        assert len(gateway.drawings) == 3
        assert len(gateway.creates) == len(set(gateway.creates)) == 5


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "GET"])
async def test_a_request_whose_answer_is_lost_is_not_sent_again_behind_our_back(method):
    with Recorder(emulate="kapon") as recorder:
        recorder.answers = dict.fromkeys(("create", "query"), lambda _: Reply(cut=True))
        async with HttpClient(1) as client:
            with pytest.raises(Unclear):
                await client.send(method, f"{recorder.origin}/drawings/1", headers={}, body=b"{}")
        assert len(recorder.sent) == 1


@pytest.mark.usefixtures("installed")
def test_its_refusals_end_the_job_or_stop_the_account(tmp_path):
    with DrawingGateway(400) as gateway:
        more = "run: {max_attempts: 2}\n"
        path = manifest(tmp_path, gateway, "a fox", "please spoil it", more=more, limits={"concurrency": 1})
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        failures = rows_of(tmp_path / "outputs" / "tried", "failures.csv")
        assert [(row["code"], row["attempts"]) for row in failures] == [("400", "1"), ("failed", "2")]
        assert "the ink ran out" in failures[1]["message"]


@pytest.mark.usefixtures("installed")
def test_a_wrong_key_stops_the_account_and_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("DRAWING_KEY", "another-key-altogether")
    with DrawingGateway() as gateway:
        done = batchgen("run", manifest(tmp_path, gateway, "a fox"), cwd=tmp_path)
    assert done.returncode == 6
    assert "Check the key" in done.stderr
    assert "another-key" not in done.stdout + done.stderr


def test_without_the_package_the_command_says_which_protocols_there_are(tmp_path, monkeypatch):
    monkeypatch.setenv("DRAWING_KEY", KEY)
    with DrawingGateway() as gateway:
        done = batchgen("run", manifest(tmp_path, gateway, "a fox"), cwd=tmp_path)
    assert done.returncode == 2
    assert "'drawing', which no installed package provides. Known protocols: declared, kling, openai." in done.stderr


@pytest.mark.parametrize(("missing", "said"), [("models", "add `models`"), ("base_url", "add `base_url`")])
def test_an_account_from_nothing_says_what_it_has(tmp_path, missing, said):
    with DrawingGateway() as gateway:
        path = manifest(tmp_path, gateway, "a fox")
    path.write_text(path.read_text("utf-8").replace(f'"{missing}"', '"about"').replace('["pen"]', '"pen"'), "utf-8")
    done = batchgen("validate", path, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stdout + done.stderr


def test_an_installer_finds_its_entry_point(tmp_path):
    """By pip, where it can build here."""
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path / "site"]
    done = subprocess.run([*words, PACKAGE], capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        pytest.skip(f"no package can be built here, for instance without an index: {done.stderr[-200:]}")
    (entries,) = (tmp_path / "site").glob("*.dist-info/entry_points.txt")
    assert "drawing = batchgen_drawing:DrawingProvider" in entries.read_text(encoding="utf-8")
    assert (tmp_path / "site" / "batchgen_drawing.py").exists()


def test_the_documentation_shows_it_as_it_is_and_it_is_short():
    text = MODULE.read_text(encoding="utf-8")
    assert f"```python\n{text}```" in (ROOT / "docs" / "providers.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60


def test_the_documentation_shows_the_signer_as_it_is():
    text = (PACKAGE / "batchgen_tencent.py").read_text(encoding="utf-8")
    assert f"```python\n{text}```" in (ROOT / "docs" / "apis.md").read_text(encoding="utf-8")


# --- a provider with a defect -------------------------------------------------------------------------------


def spoil(site, method, *, when):
    """Make the package's provider fail in a way of its own, after the gateway has answered."""
    text = f"""

class Spoilt(DrawingProvider):
    calls = 0

    async def {method}(self, *asked):
        task = await super().{method}(*asked)
        Spoilt.calls += 1
        if Spoilt.calls in {when}:
            raise KeyError("sheets of " + self.secrets["DRAWING_KEY"])
        return task


DrawingProvider = Spoilt
"""
    module = site / MODULE.name
    module.write_text(module.read_text(encoding="utf-8") + text, encoding="utf-8")


@pytest.mark.parametrize("method", ["create", "query"])
def test_a_defect_of_a_provider_costs_nothing_where_the_account_can_be_asked(tmp_path, installed, method):
    spoil(installed, method, when="(1, 2)")
    with DrawingGateway() as gateway:
        done = batchgen("run", manifest(tmp_path, gateway, "a fox", "a cat", "a dog"), cwd=tmp_path)
        assert (done.returncode, "defect of batchgen" in done.stderr) == (0, False), done.stdout + done.stderr
        assert len(check_invariant(tmp_path / "outputs" / "tried")) == 3
        assert len(gateway.drawings) == len(gateway.creates) == 3


def test_a_defect_of_a_provider_that_cannot_be_asked_holds_its_job_alone_and_says_whose_it_is(tmp_path, installed):
    spoil(installed, "create", when="(2,)")
    with DrawingGateway() as gateway:
        path = manifest(tmp_path, gateway, "a fox", "a cat", "a dog", lookup_by_external_id="no", lists_tasks="no")
        for _ in range(2):
            done = batchgen("run", path, cwd=tmp_path)
            assert done.returncode == 1, done.stdout + done.stderr
            (failure,) = rows_of(tmp_path / "outputs" / "tried", "failures.csv")
            assert failure["status"] == "unknown"
            assert "A defect of the provider 'drawing', not of your input" in failure["message"]
            assert KEY not in failure["message"] + done.stdout + done.stderr
            assert len(check_invariant(tmp_path / "outputs" / "tried")) == 2
            assert len(gateway.creates) == 3


@pytest.mark.parametrize("command", ["validate", "run", "doctor"])
def test_a_package_that_cannot_be_loaded_is_said_before_anything_is_sent(tmp_path, installed, command):
    (installed / MODULE.name).write_text("import no_such_package\n", encoding="utf-8")
    with DrawingGateway() as gateway:
        done = batchgen(command, manifest(tmp_path, gateway, "a fox"), cwd=tmp_path)
        said = done.stdout + done.stderr
        assert "defect of batchgen" not in said
        if command != "validate":
            assert done.returncode
            assert "cannot be loaded: it raised ModuleNotFoundError: No module named 'no_such_package'" in said
        assert gateway.creates == []
