"""`run --metrics FILE`: what node_exporter's textfile collector would read, however a run ends."""

from __future__ import annotations

import errno
import io
import os
import sys

import pytest
from command import batchgen, manifest, prompts
from prometheus_client.parser import text_string_to_metric_families

from batchgen.cli import metrics
from batchgen.engine.counters import Counters
from batchgen.jobs import Status


def read(path):
    """The values by name without its prefix, and by `name{label}` where there is another label than every one's."""
    found = {}
    for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
        for sample in family.samples:
            more = ",".join(v for k, v in sample.labels.items() if k not in {"manifest", "account", "unit"})
            found[sample.name.removeprefix("batchgen_run_") + (f"{{{more}}}" if more else "")] = sample.value
            found[f"labels of {sample.name}"] = sample.labels
    return found


def test_each_line_of_the_summary_is_a_metric(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(2, "    - a forbidden-word\n"))
    assert batchgen("run", path, "--metrics", "batchgen.prom", cwd=tmp_path).returncode == 1
    found = read(tmp_path / "batchgen.prom")
    assert (found["exit_code"], found["images"], found["started_attempts"], found["cost"]) == (1, 2, 3, 2)
    assert (found["active"], found["reason{incomplete}"], found["model_cost{kling-v1}"]) == (0, 1, 2)
    assert (found["slots"], found["slots_in_use"], found["refusals"], found["warnings"]) == (27, 0, 0, 0)
    assert {status: found[f"jobs{{{status}}}"] for status in Status} == dict.fromkeys(Status, 0) | {
        "done": 2,
        "rejected": 1,
    }
    assert found["end_timestamp_seconds"] >= found["start_timestamp_seconds"] - 1
    assert found["labels of batchgen_run_cost"] == {"manifest": "tried", "account": "local", "unit": ""}
    assert [each.name for each in tmp_path.iterdir() if "prom" in each.name] == ["batchgen.prom"]


def test_a_run_that_stops_early_or_cannot_begin_is_told_too(tmp_path, gateway):
    target = tmp_path / "batchgen.prom"
    path = manifest(tmp_path, gateway, prompts(3, "budget: {max_images: 2}\n"))
    assert batchgen("run", path, "--metrics", target, cwd=tmp_path).returncode == 3
    assert (read(target)["exit_code"], read(target)["reason{budget}"], read(target)["images"]) == (3, 1, 2)
    path.write_text(path.read_text(encoding="utf-8").replace("matrix", "matrx"), encoding="utf-8")
    assert batchgen("run", path, "--metrics", target, cwd=tmp_path).returncode == 2
    found = read(target)
    assert (found["exit_code"], found["reason{manifest_invalid}"]) == (2, 1)
    assert found["labels of batchgen_run_exit_code"]["manifest"] == "tried"
    assert "images" not in found
    assert batchgen("run", path, "--metrics", target, "--unheard-of", cwd=tmp_path).returncode == 2
    assert read(target)["reason{command_invalid}"] == 1


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("no/such/batchgen.prom", "No such file"),
        ("outputs", "is a folder"),
        ("manifest.yaml", "would be replaced"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_sent(tmp_path, gateway, target, said):
    (tmp_path / "outputs").mkdir()
    path = manifest(tmp_path, gateway, prompts(1))
    before = path.read_bytes()
    done = batchgen("run", path, "--metrics", target, cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert said in done.stderr
    assert gateway.usage(tasks=False)["creates_accepted"] == 0
    assert path.read_bytes() == before


def test_a_forgotten_file_name_does_not_replace_the_manifest(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(1))
    before = path.read_bytes()
    assert batchgen("run", "--metrics", path, cwd=tmp_path).returncode == 2
    assert path.read_bytes() == before


def test_without_the_package_there_is_a_sentence(tmp_path, gateway, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    done = batchgen("run", manifest(tmp_path, gateway, prompts(1)), "--metrics", "x.prom", cwd=tmp_path)
    assert (done.returncode, "pip install 'batchgen[metrics]'" in done.stderr) == (2, True)
    assert gateway.usage(tasks=False)["creates_accepted"] == 0


def test_a_disk_that_is_full_at_the_end_changes_no_result(tmp_path, gateway, monkeypatch):
    def full(_path, _registry):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("prometheus_client.write_to_textfile", full)
    path = manifest(tmp_path, gateway, prompts(1))
    done = batchgen("run", path, "--metrics", "x.prom", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.count("The metrics could not be written to x.prom: No space left on device.") == 1


def test_the_file_follows_a_run_that_is_going(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    target = tmp_path / "x.prom"
    stream = io.StringIO()
    seen = metrics.MeteredProgress(target, None, stream=stream)
    counters = Counters(images_wanted=9, slots=4, slots_in_use=3)
    seen.on_start(counters)
    assert (read(target)["active"], read(target)["slots_in_use"]) == (1, 3)
    for images in range(1, 5):
        counters.images_done = images
        now[0] += 5
        seen.on_progress(counters)
    assert read(target)["images_done"] == 3
    assert [line.partition(" ")[0] for line in stream.getvalue().splitlines()] == ["1", "2", "3", "4"]
    assert "exit_code" not in read(target)


def test_a_name_that_is_hostile_stays_a_label(tmp_path):
    target = tmp_path / "x.prom"
    seen = metrics.MeteredProgress(target, None, stream=io.StringIO())
    seen.labels["manifest"] = 'a"} 1\nfake_metric 7'
    seen.on_start(Counters())
    assert "fake_metric" not in {f.name for f in text_string_to_metric_families(target.read_text(encoding="utf-8"))}


def test_several_shards_have_no_series_in_common(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text("version: 1\nname: tried\nprovider: sandbox\nmatrix: {prompt: [a, b]}\n", encoding="utf-8")
    series = []
    for shard in ("1/2", "2/2"):
        words = ("--shard", shard, "--output", shard[0], "--metrics", "m.prom", "--quiet")
        assert batchgen("run", path, *words, cwd=tmp_path).returncode == 0
        lines = (tmp_path / "m.prom").read_text(encoding="utf-8").splitlines()
        series.append({line.rpartition(" ")[0] for line in lines if not line.startswith("#")})
    assert series[0]
    assert not series[0] & series[1]
