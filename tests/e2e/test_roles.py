"""What a designer and a dataset maker have to do, start to end, as docs/campaign.md and docs/dataset.md say it.

The third role, the operator of a nightly run, is in cli/test_metrics.py, by the commands of docs/operations.md.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter

import pytest
from command import batchgen
from documents import ROOT, examples
from output_checks import check_invariant
from sandbox_server import SandboxServer

PROMPTS = ROOT.parent / "shared" / "data" / "partiprompts.tsv"


@pytest.fixture
def gateway():
    with SandboxServer("--blank-images", "--latency", "0.05", "--concurrency", "200") as running:
        yield running


def files_of(document, folder, gateway):
    """Write the files of a document; its manifest asks an account whose bill can be read."""
    local = f"provider: local\nproviders: {{local: {{use: sandbox, base_url: '{gateway.base_url}'}}}}\n"
    for name, text in (each for each in examples(document.read_text(encoding="utf-8")) if isinstance(each, tuple)):
        lines = (line for line in text.splitlines(keepends=True) if not line.startswith("checks:"))  # they are blank
        (folder / name).write_text(
            "".join(local if line.startswith("provider:") else line for line in lines), encoding="utf-8"
        )


def test_of_a_campaign_only_the_five_rejected_images_are_made_anew_and_a_contact_sheet_is_handed_over(
    tmp_path, gateway
):
    document = ROOT / "docs" / "campaign.md"
    files_of(document, tmp_path, gateway)
    commands = [each.command for each in examples(document.read_text(encoding="utf-8")) if not isinstance(each, tuple)]
    for command in commands:
        done = batchgen(*shlex.split(command)[1:], cwd=tmp_path)
        assert done.returncode == 0, (command, done.stderr)
    billed = Counter((task["request"]["prompt"], task["n"]) for task in gateway.usage()["tasks"])
    assert billed.total() == 3 * 4 * 3 * 2 + 5
    rows = check_invariant(tmp_path / "outputs" / "spring")
    assert len(rows) == 72
    assert Counter(path.suffix for path in (tmp_path / "outputs" / "spring" / "retired").rglob("*.*")) == {".png": 5}
    assert (tmp_path / "sheet.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.filterwarnings("ignore")  # of datasets' own
def test_two_thousand_images_of_partiprompts_are_loaded_by_datasets_and_webdataset(tmp_path, gateway):
    if not PROMPTS.exists():
        pytest.skip(f"{PROMPTS.name} is not there: put it beside the project, in shared/data")
    datasets, webdataset = pytest.importorskip("datasets"), pytest.importorskip("webdataset")
    datasets.disable_progress_bars()
    document = ROOT / "docs" / "dataset.md"
    files_of(document, tmp_path, gateway)
    (tmp_path / PROMPTS.name).write_bytes(PROMPTS.read_bytes())
    for line in document.read_text(encoding="utf-8").splitlines():
        if line.startswith("batchgen "):
            words = shlex.split(line.replace(" --resize 256 --encode jpeg", ""))[1:]
            assert batchgen(*words, cwd=tmp_path, timeout=120).returncode == 0, line
    assert gateway.usage(tasks=False)["creates_accepted"] == 2000

    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "parti-images"), cache_dir=str(tmp_path / "c")
    )
    prompts = {name: set(split["prompt"]) for name, split in loaded.items()}
    assert loaded.num_rows["train"] + loaded.num_rows["test"] == 2000
    assert 100 < loaded.num_rows["test"] < 300
    assert not prompts["train"] & prompts["test"]
    categories = Counter(loaded["train"]["label.Category"]) + Counter(loaded["test"]["label.Category"])
    assert len(categories) == 12
    assert loaded["train"][0]["image"].size[0] > 0

    shards = sorted(map(str, (tmp_path / "parti-shards").glob("*.tar")))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    assert len(samples) == 2000
    assert {sample["txt"].decode() for sample in samples} == prompts["train"] | prompts["test"]
    assert all(json.loads(sample["json"])["label.Category"] in categories for sample in samples)
