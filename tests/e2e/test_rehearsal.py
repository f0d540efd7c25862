"""docs/fault-injection.md: each of its commands is run as it stands, each of its faults does what it says."""

from __future__ import annotations

import re
import shlex
import socket

import pytest
from command import ROOT, batchgen, manifest, prompts
from output_checks import rows_of
from sandbox_server import SandboxServer

from batchgen.sandbox.faults.schedule import FaultSchedule, FaultSettings
from batchgen.sandbox.faults.table import FAULTS, IN_ALL

PAGE = (ROOT / "docs" / "fault-injection.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
TABLE = PAGE.partition("## Faults")[2].partition("\n## ")[0]
ROWS = [line.strip("| ").split(" | ") for line in TABLE.splitlines() if line.startswith("| `")]
FAULTS_OF_ROWS = [(re.findall(r"`(\w+)`", row[0]), int(row[-1])) for row in ROWS]


def test_the_page_s_commands_do_what_the_page_says(tmp_path):
    (_, first), (_, providers), (_, then), _ = BLOCKS
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
    export, serve = first.splitlines()
    name, _, key = export.removeprefix("export ").partition("=")
    assert name == "SANDBOX_KEY"
    own = providers.replace("8080", port).replace("}", ", visibility_delay: 2}")
    (tmp_path / "spring.yaml").write_text(
        f"version: 1\nname: spring\nprovider: kapon\n{own}{prompts(20)}", encoding="utf-8"
    )
    words = shlex.split(serve.replace("8080", port))
    assert words[:2] == ["batchgen", "sandbox"]
    with SandboxServer(*words[2:], "--latency", "0.1", "--blank-images", env={name: key}) as gateway:
        for line in then.splitlines():
            command, *rest = shlex.split(line)
            if command == "curl":
                assert rest[-1].replace("8080", port) == f"{gateway.base_url.removesuffix('/kling')}/_usage?tasks=0"
                continue
            done = batchgen(*rest, cwd=tmp_path)
            assert done.returncode == 0, (line, done.stdout, done.stderr)
        usage = gateway.usage(tasks=False)
    assert usage["faults"].keys() == {"fail", "drop_after", "too_many", "truncate"}
    assert usage["images_billed"] == len(rows_of(tmp_path / "outputs" / "storm")) == 20
    assert usage["duplicates"]["images_billed"] == 0
    assert not (tmp_path / "outputs" / "spring").exists()


def test_the_other_command_of_the_page_is_served(tmp_path):
    words = shlex.split(BLOCKS[-1][1].replace("8080", "0"))
    assert words[:2] == ["batchgen", "sandbox"]
    with SandboxServer(*words[2:]) as gateway:
        path = manifest(tmp_path, gateway, prompts(1), use="kling")
        path.write_text(path.read_text(encoding="utf-8").replace("api_key_env", "auth: api_key, api_key_env"))
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        assert [int(row["bytes"]) for row in rows_of(tmp_path / "outputs" / "tried")] == [2_000_000]


def test_the_table_has_every_fault_that_all_sets_once():
    named = [fault for faults, _ in FAULTS_OF_ROWS for fault in faults]
    assert [fault for fault in named if fault not in FAULTS] == []
    assert sorted(fault for fault in named if fault in IN_ALL) == sorted(IN_ALL)
    assert {fault for fault in named if fault not in IN_ALL} == {
        fault for row in FAULTS_OF_ROWS[-3:] for fault in row[0]
    }


QUICK = [
    (fault, code)
    for faults, code in FAULTS_OF_ROWS
    for fault in faults
    if "hang" not in fault and not fault.startswith("callback")  # a minute each; a gateway that can reach us
]


def seed_with_one_fault(fault, rate):
    """The first seed that injects the fault on the first occasion, and on none of the next few."""
    settings, occasion = FaultSettings(rates={fault: rate}), FAULTS[fault].occasion
    for seed in range(1000):
        injected = [FaultSchedule(settings, seed).next(occasion, number) is not None for number in range(1, 8)]
        if injected == [True] + 6 * [False]:
            return seed
    raise AssertionError("no seed injects the fault once")


@pytest.mark.parametrize(("fault", "code"), QUICK, ids=str)
def test_a_fault_does_what_the_table_says(tmp_path, fault, code):
    rate = 0.3 if code == 0 else 1
    seed = 0 if code else seed_with_one_fault(fault, rate)
    faults = ("--faults", f"{fault}={rate}", "--seed", str(seed), "--latency", "0.1", "--blank-images")
    with SandboxServer("--emulate", "kapon", *faults) as gateway:
        done = batchgen("run", manifest(tmp_path, gateway, prompts(6)), cwd=tmp_path)
        usage = gateway.usage(tasks=False)
    assert done.returncode == code, done.stderr
    assert usage["faults"][fault] > 0
    assert usage["duplicates"]["images_billed"] == 0
    assert usage["images_billed"] == (6 if code == 0 else 0)
    assert usage["images_billed"] == len(rows_of(tmp_path / "outputs" / "tried"))


def test_at_anyapi_a_lost_answer_is_held_as_unknown(tmp_path):
    with SandboxServer("--emulate", "anyapi", "--faults", "drop_after=1", "--blank-images") as gateway:
        path = manifest(tmp_path, gateway, prompts(1), use="anyapi")
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
    assert "unknown" in (tmp_path / "outputs" / "tried" / "failures.csv").read_text(encoding="utf-8")
