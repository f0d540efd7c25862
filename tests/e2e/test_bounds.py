"""Bounds are kept to the image, counted at the gateway: with many slots, whatever fails, and used to the full."""

from __future__ import annotations

import json
import sqlite3
from datetime import datetime

import pytest
from command import batchgen, billed_by_job, manifest, prompts
from output_checks import check_invariant
from sandbox_server import SandboxServer

MANY_FAULTS = "fail=0.15,too_fast=0.1,too_many=0.1,drop_before=0.05,drop_after=0.05,error_before=0.05,error_after=0.05"
CONDITIONS = {
    "no faults": ("kapon", ()),
    "many faults": ("kapon", ("--faults", MANY_FAULTS)),
    "a limit far too high": ("kapon", ("--concurrency", "5")),
    "answers lost for ever": ("anyapi", ("--faults", "fail=0.15,drop_before=0.1,drop_after=0.1")),
}
CONDITION = pytest.mark.parametrize(("profile", "faults"), CONDITIONS.values(), ids=CONDITIONS)
WITH_FAULTS = pytest.mark.parametrize(
    "faults", [CONDITIONS["many faults"][1], CONDITIONS["a limit far too high"][1]], ids=["faults", "limit"]
)
QUICK = ("--blank-images", "--latency", "0.1", "--latency-sigma", "0.5", "--seed", "3")
PRICED = "prices: {default: 0.1}, limits:"
MOST = 23  # images


def billed(gateway):
    """Images that were or will be paid for."""
    return sum(task["n"] for task in gateway.usage()["tasks"] if task["status"] != "failed")


def many(tmp_path, gateway, profile, more=""):
    """50 slots, and 120 images in tasks of one, two and three."""
    text = prompts(20, f"  n: [1, 2, 3]\nrun: {{max_attempts: 20}}\n{more}")
    return manifest(tmp_path, gateway, text, use=profile, concurrency=50)


def unknown_jobs(done):
    return json.loads(done.stdout)["jobs"].get("unknown", 0)


@CONDITION
def test_a_budget_of_images_is_kept_and_used_to_the_full_in_one_run(tmp_path, profile, faults):
    with SandboxServer("--emulate", profile, *QUICK, *faults) as gateway:
        path = many(tmp_path, gateway, profile, f"budget: {{max_images: {MOST}}}\n")
        for _ in range(2):
            done = batchgen("run", path, "--json", cwd=tmp_path)
            assert done.returncode == 3, done.stderr
            assert "max_images" in done.stderr
            assert MOST - 2 - 3 * unknown_jobs(done) <= billed(gateway) <= MOST
        check_invariant(tmp_path / "outputs" / "tried")


@WITH_FAULTS
def test_a_budget_in_money_is_kept_and_used_to_the_full_in_one_run(tmp_path, faults):
    with SandboxServer("--emulate", "kapon", *QUICK, *faults) as gateway:
        path = many(tmp_path, gateway, "kapon", f"budget: {{max_cost: {MOST / 10}}}\n")
        path.write_text(path.read_text(encoding="utf-8").replace("limits:", PRICED), encoding="utf-8")
        for _ in range(2):
            done = batchgen("run", path, "--json", cwd=tmp_path)
            assert done.returncode == 3, done.stderr
            assert "max_cost" in done.stderr
            assert MOST - 2 - 3 * unknown_jobs(done) <= billed(gateway) <= MOST


@WITH_FAULTS
def test_each_run_spends_no_more_than_its_own_max_cost(tmp_path, faults):
    with SandboxServer("--emulate", "kapon", *QUICK, *faults) as gateway:
        path = many(tmp_path, gateway, "kapon")
        path.write_text(path.read_text(encoding="utf-8").replace("limits:", PRICED), encoding="utf-8")
        before = unknown = 0
        for _ in range(2):
            done = batchgen("run", path, "--max-cost", MOST / 10, "--json", cwd=tmp_path)
            assert done.returncode == 3, done.stderr
            unknown, new = unknown_jobs(done), unknown_jobs(done) - unknown
            assert MOST - 2 - 3 * new <= billed(gateway) - before <= MOST
            before = billed(gateway)


@CONDITION
def test_a_limit_begins_so_many_jobs_and_no_other_however_often_they_are_tried(tmp_path, profile, faults):
    with SandboxServer("--emulate", profile, *QUICK, *faults) as gateway:
        path = many(tmp_path, gateway, profile)
        for runs in (1, 2):
            done = batchgen("run", path, "--limit", "11", cwd=tmp_path)
            assert done.returncode in {0, 1}, done.stderr
            begun = {(task["request"]["prompt"], task["n"]) for task in gateway.usage()["tasks"]}
            assert len(begun) <= 11 * runs
        if profile == "kapon":
            assert len(billed_by_job(gateway)) == 22
            assert set(billed_by_job(gateway).values()) == {1}


def test_a_deadline_of_no_time_begins_nothing(tmp_path, gateway):
    path = manifest(tmp_path, gateway, prompts(5))
    done = batchgen("run", path, "--deadline", "0s", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert gateway.usage()["creates_accepted"] == 0


@WITH_FAULTS
def test_nothing_is_begun_after_the_deadline(tmp_path, faults):
    with SandboxServer("--emulate", "kapon", *QUICK, *faults) as gateway:
        path = many(tmp_path, gateway, "kapon", "repeat: 20\n")
        done = batchgen("run", path, "--deadline", "2s", "--log-format", "json", cwd=tmp_path)
        assert done.returncode == 3, done.stderr
        said = [json.loads(line) for line in done.stderr.splitlines()]
        came = next(line["time"] for line in said if "Finishing what is in flight" in line.get("message", ""))
        ledger = sqlite3.connect(tmp_path / "outputs" / "tried" / "state.sqlite3")
        intents = [at for (at,) in ledger.execute("SELECT intended_at FROM attempt")]
        ledger.close()
        assert max(intents) <= datetime.fromisoformat(came).timestamp() * 1000
        assert len(gateway.usage()["tasks"]) <= len(intents)
