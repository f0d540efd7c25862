"""A later export writes only what has changed, and no crash leaves half of one."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile

import pytest
from command import batchgen, batchgen_process
from made_output import MadeImage, file_of, make_output, mark, picture
from PIL import Image

OLD = [MadeImage(prompt=f"prompt {at}") for at in range(30)]
NEW = [MadeImage(prompt=f"new {at}") for at in range(10)]
MIXED = [*OLD[:3], *NEW[:5], *OLD[3:], *NEW[5:]]


def export(folder, *words, kind="parquet", code=0):
    command = ["export", "manifest.yaml", "--format", kind, "--to", "data", "--json", "--quiet", *words]
    done = batchgen(*command, cwd=folder)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def identities(folder):
    """The inode and time of each file of the export, but of what it says of itself."""
    files = [path for path in (folder / "data").rglob("*") if path.is_file() and path.name[0] != "."]
    return {str(path.relative_to(folder / "data")): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def written(before, after):
    return {name for name, identity in after.items() if before.get(name) != identity}


@pytest.mark.parametrize(("kind", "ending"), [("parquet", "parquet"), ("webdataset", "tar")])
def test_ten_new_images_are_written_into_the_last_shard_and_new_ones(kind, ending, tmp_path):
    make_output(tmp_path, OLD)
    export(tmp_path, "--shard-size", 8, kind=kind)
    before = identities(tmp_path)
    assert len(before) == 4  # 8, 8, 8 and 6
    make_output(tmp_path, MIXED)
    found = export(tmp_path, "--shard-size", 8, kind=kind)
    after = identities(tmp_path)
    assert written(before, after) == {f"train-00003.{ending}", f"train-00004.{ending}"}
    assert found["files"] == {"written": 2, "unchanged": 3, "removed": 0}
    assert export(tmp_path, "--shard-size", 8, kind=kind)["files"] == {"written": 0, "unchanged": 5, "removed": 0}
    assert identities(tmp_path) == after


def test_ten_new_images_are_ten_files_and_the_metadata_of_an_imagefolder(tmp_path):
    make_output(tmp_path, OLD)
    export(tmp_path, kind="imagefolder")
    before = identities(tmp_path)
    make_output(tmp_path, MIXED)
    assert export(tmp_path, kind="imagefolder")["files"] == {"written": 11, "unchanged": 30, "removed": 0}
    new = written(before, identities(tmp_path))
    assert len(new) == 11
    assert "train/metadata.jsonl" in new


def test_an_image_that_is_rejected_vanishes_and_its_shard_alone_is_written(tmp_path):
    make_output(tmp_path, OLD)
    export(tmp_path, "--shard-size", 8, kind="webdataset")
    before = identities(tmp_path)
    mark(tmp_path, "prompt 9", "reject")
    export(tmp_path, "--shard-size", 8, kind="webdataset")
    assert written(before, identities(tmp_path)) == {"train-00001.tar"}
    with tarfile.open(tmp_path / "data" / "train-00001.tar") as shard:
        assert len(shard.getnames()) == 7 * 3
    for at in range(24, 30):
        mark(tmp_path, f"prompt {at}", "reject")
    assert export(tmp_path, "--shard-size", 8, kind="webdataset")["files"]["removed"] == 1
    assert "train-00003.tar" not in identities(tmp_path)


def test_files_of_others_stay_and_lost_ones_are_written_again(tmp_path):
    make_output(tmp_path, OLD[:4])
    export(tmp_path, kind="imagefolder")
    (tmp_path / "data" / "README.md").write_text("my dataset")
    lost = next((tmp_path / "data").rglob("*.png"))
    lost.unlink()
    assert export(tmp_path, kind="imagefolder")["files"] == {"written": 1, "unchanged": 4, "removed": 0}
    assert lost.is_file()
    mark(tmp_path, "prompt 0", "reject")
    assert export(tmp_path, kind="imagefolder")["files"]["removed"] == 1
    assert (tmp_path / "data" / "README.md").read_text() == "my dataset"


@pytest.mark.parametrize("words", [["--resize", "8"], ["--strip"], ["--embed"], ["--encode", "webp"]])
def test_other_options_write_every_shard_anew(words, tmp_path):
    make_output(tmp_path, OLD)
    export(tmp_path, "--shard-size", 8)
    assert export(tmp_path, "--shard-size", 8, *words)["files"] == {"written": 4, "unchanged": 0, "removed": 0}


def test_a_folder_that_holds_another_format_is_refused(tmp_path):
    make_output(tmp_path, OLD[:2])
    export(tmp_path)
    assert "holds an export as parquet, not as webdataset" in export(tmp_path, kind="webdataset", code=2)["error"]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format": "parquet", "files": {"../../x": ""}, "shards": {}, "shard_size": 1}']
)
def test_a_state_that_is_not_ours_is_refused(text, tmp_path):
    make_output(tmp_path, OLD[:2])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".batchgen-export.json").write_text(text)
    export(tmp_path, code=2)


@pytest.mark.parametrize("kind", ["jsonl", "zip"])
def test_one_file_with_the_same_bytes_is_not_written_again(kind, tmp_path):
    make_output(tmp_path, OLD[:3])
    command = ["export", "manifest.yaml", "--format", kind, "--to", f"a.{kind}", "--json"]
    batchgen(*command, cwd=tmp_path)
    before = (tmp_path / f"a.{kind}").stat()
    again = json.loads(batchgen(*command, cwd=tmp_path).stdout)
    assert again["files"] == {"written": 0, "unchanged": 1, "removed": 0}
    assert (tmp_path / f"a.{kind}").stat().st_ino == before.st_ino


# --- crashes -------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from batchgen.cli.main import main
from batchgen.export import target
from pathlib import Path
place, number = sys.argv[1], int(sys.argv[2])
def killing(method):
    count = 0
    def call(*args, **named):
        nonlocal count
        count += 1
        if count > number:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*args, **named)
    return call
if place == "write":
    target.FolderTarget.new = killing(target.FolderTarget.new)
elif place == "move":
    Path.replace = killing(Path.replace)
main(sys.argv[3:])
"""


def killed(folder, place, number, *words):
    """Run the real command in a process that is killed at a place; it has done the same there so many times."""
    command = [sys.executable, "-c", KILLED, place, str(number), "export", "manifest.yaml", "--quiet", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def contents(folder):
    """What a loader reads: the metadata, each with its file."""
    lines = (folder / "data" / "train" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    for line in map(json.loads, lines):
        with Image.open(folder / "data" / "train" / line["file_name"]) as image:
            image.load()
            assert image.size == (line["width"], line["height"])
    return {json.loads(line)["prompt"] for line in lines}


@pytest.mark.parametrize("number", [0, 1, 4, 12])
def test_a_kill_while_files_are_written_leaves_the_earlier_export(number, tmp_path):
    make_output(tmp_path, OLD[:8])
    export(tmp_path, kind="imagefolder")
    before = identities(tmp_path)
    make_output(tmp_path, [*OLD[:8], *NEW])
    killed(tmp_path, "write", number, "--format", "imagefolder", "--to", "data", "--resize", "12")
    assert {name: each for name, each in identities(tmp_path).items() if ".batchgen" not in name} == before
    assert contents(tmp_path) == {image.prompt for image in OLD[:8]}
    export(tmp_path, "--resize", 12, kind="imagefolder")
    assert len(contents(tmp_path)) == 18
    assert not list((tmp_path / "data").glob(".batchgen-export.new"))


@pytest.mark.parametrize("number", [1, 3, 10])
def test_a_kill_while_files_are_moved_is_finished_by_the_next_export(number, tmp_path):
    make_output(tmp_path, OLD[:8])
    export(tmp_path, kind="imagefolder")
    mark(tmp_path, "prompt 2", "reject")
    make_output(tmp_path, [*OLD[:8], *NEW])
    killed(tmp_path, "move", number, "--format", "imagefolder", "--to", "data", "--resize", "12")
    shutil.rmtree(tmp_path / "outputs" / "tried" / "images")  # the next export has nothing else to write
    export(tmp_path, "--resize", 12, kind="imagefolder")
    assert contents(tmp_path) == {image.prompt for image in [*OLD[:8], *NEW]} - {"prompt 2"}
    assert len(list((tmp_path / "data").rglob("*.png"))) == 17


def test_a_kill_leaves_the_earlier_file(tmp_path):
    make_output(tmp_path, OLD[:3])
    words = ["--format", "zip", "--to", "a.zip"]
    batchgen("export", "manifest.yaml", *words, cwd=tmp_path)
    before = (tmp_path / "a.zip").read_bytes()
    make_output(tmp_path, OLD)
    killed(tmp_path, "move", 0, *words)
    assert (tmp_path / "a.zip").read_bytes() == before
    batchgen("export", "manifest.yaml", *words, cwd=tmp_path)
    assert len(zipfile.ZipFile(tmp_path / "a.zip").namelist()) == 30
    assert not list(tmp_path.glob(".a.zip*"))


@pytest.mark.parametrize("kind", ["parquet", "zip"])
def test_a_disk_that_takes_no_more_leaves_the_earlier_export(kind, tmp_path):
    make_output(tmp_path, OLD[:3])
    words = ["export", "manifest.yaml", "--quiet", "--format", kind, "--to", f"data.{kind}"]
    batchgen(*words, cwd=tmp_path)
    files = [*tmp_path.glob("data*"), *tmp_path.glob("data*/*")]
    before = {path: path.read_bytes() for path in files if path.is_file()}
    make_output(tmp_path, [*OLD[:3], MadeImage(prompt="large", body=picture(50) + bytes(50_000))])
    limit = (24_000, 24_000)  # the list of what is to be exported fits
    done = batchgen_process(*words, cwd=tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert f"data.{kind}: File too large." in done.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert not list(tmp_path.rglob("*.new"))


def test_an_image_that_was_remade_is_written_again(tmp_path):
    make_output(tmp_path, [MadeImage(prompt="a", body=picture(1)), MadeImage(prompt="b", body=picture(2))])
    export(tmp_path, kind="imagefolder")
    name = file_of(tmp_path, "a").name
    shutil.rmtree(tmp_path / "outputs")
    make_output(tmp_path, [MadeImage(prompt="a", body=picture(9)), MadeImage(prompt="b", body=picture(2))])
    assert export(tmp_path, kind="imagefolder")["files"]["written"] == 2
    assert next((tmp_path / "data").rglob(name)).read_bytes() == picture(9)
