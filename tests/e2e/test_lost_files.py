"""Files that go away, come back, or are changed: what was delivered once is known by its hash, and kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from aiohttp import web
from command import batchgen, started, wait_for
from output_checks import check_invariant, rows_of
from scripted_gateway import ScriptedGateway
from scripted_output import files_of, finished, make_older, output_of, run, statuses, write

from batchgen.ledger.store import FILE_NAME, Ledger


@pytest.fixture
def gateway():
    with ScriptedGateway(latency=0) as running:
        yield running


def has_nothing(gateway):
    """The gateway knows no task any more."""
    gateway.answers["query"] = lambda call: call.gateway.no(404, 1203, "no such task")
    gateway.answers["image"] = lambda _: web.Response(status=404)


def mounted(folder, *options):
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", folder], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("a disk can be mounted by root only")


def unmount(folder):
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def drive(tmp_path):
    """Another disk, for the images."""
    folder = tmp_path / "drive"
    folder.mkdir()
    mounted(folder)
    yield folder
    unmount(folder)


def identities(rows):
    return [(row["file_name"], row["sha256"], row["width"], row["warning"]) for row in rows]


# --- away and back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [False, True], ids=["made lately", "gone meanwhile"])
def test_files_that_return_with_their_hash_are_taken_back(tmp_path, gateway, old):
    path = write(tmp_path, gateway, 3)
    before = finished(path)
    if old:
        make_older(path)
    has_nothing(gateway)
    lost, *others = files_of(path)
    away = [lost, *others[:1]]
    for file in away:
        file.rename(tmp_path / file.name)
    assert run(path).returncode == 1
    assert statuses(path) == ["gone"] * 2 * old
    for file in away:
        (tmp_path / file.name).rename(file)
    assert identities(finished(path)) == identities(before)
    assert (statuses(path), gateway.count("create")) == ([], 3)


def test_a_file_that_returns_with_other_bytes_is_not_taken_back(tmp_path, gateway):
    path = write(tmp_path, gateway, 2)
    finished(path)
    make_older(path)
    has_nothing(gateway)
    lost = files_of(path)[0]
    lost.unlink()
    run(path)
    lost.write_bytes(b"something else")
    assert run(path).returncode == 1
    assert statuses(path) == ["gone"]


def test_another_picture_under_a_lost_image_s_name_is_kept_and_said(tmp_path, gateway):
    path = write(tmp_path, gateway, 2)
    before = finished(path)
    saved = files_of(path)[0].read_bytes()
    lost = files_of(path)[0]
    lost.unlink()
    other = gateway.tasks["T1"].image(7)
    gateway.answers["image"] = lambda _: web.Response(body=other)
    done = run(path)
    assert done.returncode == 0
    assert "is not the image that was lost" in done.stderr
    assert "1 image is unusual" in done.stdout
    rows = check_invariant(output_of(path))
    assert lost.read_bytes() == other
    assert before[0]["sha256"] in rows[0]["warning"]
    assert not rows[1]["warning"]

    lost.write_bytes(saved)  # from a backup, over the other one
    assert identities(finished(path)) == identities(before)
    assert not list((output_of(path) / "retired").rglob("*changed*"))


# --- all away at once --------------------------------------------------------------------------------------------


def asks_nothing(path, gateway):
    """The run stops and says why, and has neither asked nor changed anything; afterwards everything is as before."""
    calls = len(gateway.calls)
    done = run(path)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "is a drive not mounted?" in done.stderr
    planned = batchgen("plan", path, cwd=path.parent)
    assert planned.returncode == 3
    assert "is a drive not mounted?" in planned.stderr
    assert len(gateway.calls) == calls


def run_plan(path):
    from command import batchgen

    return batchgen("plan", path, cwd=path.parent)


@pytest.mark.parametrize("how", ["moved", "mount point", "dangling link"])
def test_images_that_are_all_away_stop_the_run_and_are_taken_back(tmp_path, gateway, how):
    path = write(tmp_path, gateway, 5)
    before = finished(path)
    make_older(path)
    images = output_of(path) / "images"
    images.rename(tmp_path / "away")
    if how == "mount point":
        images.mkdir()
    elif how == "dangling link":
        images.symlink_to(tmp_path / "not there")
    has_nothing(gateway)
    asks_nothing(path, gateway)
    if how == "mount point":
        images.rmdir()
    elif how == "dangling link":
        images.unlink()
    (tmp_path / "away").rename(images)
    assert finished(path) == before


def test_images_that_are_all_lost_indeed_are_fetched_again_when_told(tmp_path, gateway):
    path = write(tmp_path, gateway, 5)
    before = finished(path)
    shutil.rmtree(output_of(path) / "images")
    asks_nothing(path, gateway)
    assert finished(path, "--refetch") == before
    assert gateway.count("create") == 5


def test_a_drive_that_is_not_mounted_is_known_though_something_lies_in_its_mount_point(tmp_path, gateway):
    path = write(tmp_path, gateway, 5)
    output = output_of(path)
    (output / "images").mkdir(parents=True)
    mounted(output / "images")
    finished(path)
    unmount(output / "images")
    (output / "images" / "README").write_text("mount the drive here")
    has_nothing(gateway)
    asks_nothing(path, gateway)
    assert statuses(path) == []


def test_a_drive_that_is_unmounted_during_a_run_stops_it_and_loses_nothing(tmp_path, gateway):
    path = write(tmp_path, gateway, 6)
    images = output_of(path) / "images"
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted(disk)
    images.mkdir(parents=True)
    subprocess.run(["mount", "--bind", disk, images], check=True)
    gateway.latency = 3600
    going = started("run", path, cwd=tmp_path)
    wait_for(lambda: gateway.count("create") == 6)
    unmount(images)
    gateway.latency = 0
    _, errors = going.communicate(timeout=60)
    assert going.returncode == 3, errors
    assert "is a drive not mounted?" in errors
    assert not any(images.iterdir())
    subprocess.run(["mount", "--bind", disk, images], check=True)
    try:
        assert len(finished(path)) == 6
        assert gateway.count("create") == 6
    finally:
        unmount(images)
        unmount(disk)


def test_an_output_whose_drive_goes_during_a_run_is_whole_when_the_drive_is_back(tmp_path, gateway):
    path = write(tmp_path, gateway, 4)
    disk, output = tmp_path / "disk", output_of(path)
    disk.mkdir()
    output.mkdir(parents=True)
    mounted(disk)
    subprocess.run(["mount", "--bind", disk, output], check=True)
    gateway.latency = 3600
    going = started("run", path, cwd=tmp_path)
    wait_for(lambda: len(gateway.tasks) == 4)
    unmount(output)
    gateway.latency = 0
    _, errors = going.communicate(timeout=60)
    assert going.returncode == 3, errors
    subprocess.run(["mount", "--bind", disk, output], check=True)
    try:
        assert len(finished(path)) == 4
        assert gateway.count("create") == 4
    finally:
        unmount(output)
        unmount(disk)


def test_a_disk_that_fails_has_not_lost_its_files(tmp_path, gateway):
    path = write(tmp_path, gateway, 2)
    before = finished(path)
    folder = files_of(path)[0].parent
    kept = folder.rename(tmp_path / "kept")
    folder.symlink_to(folder.name)  # a loop: it cannot be told what is there
    done = run(path)
    assert done.returncode == 3, done.stdout + done.stderr
    folder.unlink()
    kept.rename(folder)
    assert finished(path) == before


# --- on another disk ----------------------------------------------------------------------------------------------


def test_a_changed_file_on_another_disk_is_set_aside_like_any_other(tmp_path, gateway, drive):
    path = write(tmp_path, gateway, 2)
    output_of(path).mkdir(parents=True)
    (output_of(path) / "images").symlink_to(drive)
    before = finished(path)
    files_of(path)[0].write_bytes(b"retouched")
    (drive / "kling-v1" / "mine.png").write_bytes(b"mine")
    done = run(path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows_of(output_of(path)) == before
    (kept,) = (output_of(path) / "retired").rglob("*-changed-*")
    assert kept.read_bytes() == b"retouched"


def test_a_file_of_the_user_s_on_another_disk_is_in_nobody_s_way(tmp_path, gateway, drive):
    path = write(tmp_path, gateway, 1)
    output_of(path).mkdir(parents=True)
    (output_of(path) / "images").symlink_to(drive)
    gateway.latency = 3600
    going = started("run", path, cwd=tmp_path)
    wait_for(lambda: len(gateway.tasks) == 1)
    job = next(iter(gateway.billed_by_job()))
    name = drive / "kling-v1" / "16x9" / f"prompt-number-0-{job}-0.png"
    name.parent.mkdir(parents=True)
    name.write_bytes(b"mine")
    gateway.latency = 0
    going.communicate(timeout=60)
    assert going.returncode == 0
    (kept,) = (output_of(path) / "retired").rglob("*-found-*")
    assert kept.read_bytes() == b"mine"


# --- few file descriptors ------------------------------------------------------------------------------------------


def limited(path, words):
    return subprocess.run(
        ["bash", "-c", f"{words}; exec batchgen run manifest.yaml"],
        cwd=path.parent,
        env=os.environ | {"SANDBOX_KEY": "a-key-for-tests"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.mark.parametrize("limit", ["ulimit -Sn 128", "ulimit -n 128"], ids=["soft", "hard"])
def test_few_file_descriptors_lose_no_image(tmp_path, gateway, limit):
    path = write(tmp_path, gateway, 200, limits={"concurrency": 200}, more="run: {downloads: 32}\n")
    done = limited(path, limit)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(check_invariant(output_of(path))) == 200
    assert set(gateway.creates_by_job().values()) == {1}


def test_nothing_is_begun_while_downloads_lack_descriptors(tmp_path, gateway):
    path = write(tmp_path, gateway, 60, limits={"concurrency": 4}, more="run: {give_up_after: 3}\n")
    script = (
        "import errno, pathlib, sys\n"
        "from batchgen.cli.main import main\n"
        "from batchgen.storage import tree\n"
        "full = OSError(errno.EMFILE, 'Too many open files')\n"
        "def no_more(*_, **__): raise tree._not_written(full, pathlib.Path('x'))\n"
        "import batchgen.app.image_store as store\n"
        "store.finish_file = no_more\n"
        "sys.exit(main(['run', 'manifest.yaml']))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"SANDBOX_KEY": "a-key-for-tests"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert "ulimit -n" in done.stderr
    assert gateway.count("create") < 20
    assert len(finished(path)) == 60
    assert set(gateway.creates_by_job().values()) == {1}


def test_the_hash_of_a_lost_file_stays_in_the_ledger(tmp_path, gateway):
    path = write(tmp_path, gateway)
    (row,) = finished(path)
    has_nothing(gateway)
    files_of(path)[0].unlink()
    run(path)
    ledger = Ledger.read(output_of(path) / FILE_NAME)
    (lost,) = ledger.lost_images()
    ledger.db.close()
    assert (lost.path, lost.sha256) == (row["file_name"], row["sha256"])
