"""`batchgen sandbox` as users start it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import pytest
from sandbox_process import ROOT, SandboxProcess


def run(*options):
    return subprocess.run(
        [sys.executable, "-m", "batchgen", "sandbox", *options],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
        check=False,
    )


def test_it_says_where_it_is_and_ends_with_0_when_it_is_told_to():
    sandbox = SandboxProcess("--emulate", "kapon", "--latency", "0.1")
    assert sandbox.base_url.startswith("http://127.0.0.1:")
    assert "kapon" in sandbox.introduction
    assert sandbox.usage(tasks=False)["creates_accepted"] == 0
    assert sandbox.stop() == 0


def test_ctrl_c_ends_it_with_0_too():
    with SandboxProcess() as sandbox:
        assert sandbox._end(signal.SIGINT) == 0


def test_its_example_is_an_account_that_a_manifest_can_have():
    import yaml

    from batchgen.catalog.accounts import parse_account
    from batchgen.catalog.load import builtin

    with SandboxProcess("--concurrency", "5") as sandbox:
        example = sandbox.introduction + "".join(sandbox._process.stdout.readline() for _ in range(3))
    providers = yaml.safe_load(example.partition("\n")[2])["providers"]
    settings = providers["local"]
    base = builtin().raw_accounts[settings.pop("use")]
    account = parse_account("local", base, settings)
    assert account.base_url == sandbox.base_url
    assert account.concurrency == 5


def test_its_example_names_the_variables_of_the_keys_that_it_wants():
    keys = {"MY_KEY": "one", "MY_ACCESS": "two", "MY_SECRET": "three"}
    for options, wanted in (
        (("--emulate", "kapon", "--api-key-env", "MY_KEY"), "api_key_env: MY_KEY"),
        (("--jwt-env", "MY_ACCESS", "MY_SECRET"), "access_key_env: MY_ACCESS, secret_key_env: MY_SECRET"),
    ):
        with SandboxProcess(*options, env=keys) as sandbox:
            example = "".join(sandbox._process.stdout.readline() for _ in range(3))
        assert wanted in example


def test_a_port_in_use_is_a_sentence_and_exit_code_2():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = run("--port", str(taken.getsockname()[1]))
    assert ended.returncode == 2
    assert "cannot listen" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--faults", "unknown=1"),
        ("--concurrency", "0"),
        ("--port", "70000"),
        ("--api-key-env", "BATCHGEN_TEST_NO_SUCH_KEY"),
        ("--state", "."),
    ],
)
def test_options_that_cannot_be_are_a_sentence_and_exit_code_2(options):
    ended = run(*options, *(() if "--port" in options else ("--port", "0")))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.strip().endswith(".")
    assert "Traceback" not in ended.stderr


def test_the_help_names_every_fault_and_the_words_for_rehearsals():
    from batchgen.sandbox.faults.table import FAMILIES, IN_ALL

    text = run("--help").stdout
    for word in (*IN_ALL, *FAMILIES, "forbidden-word", "policy-word", "fail-this-task"):
        assert word in text


def test_pillow_and_fault_injection_are_loaded_only_where_they_are_needed():
    code = (
        "import sys, batchgen.sandbox.server, batchgen.sandbox.settings;"
        "print([name for name in sys.modules if name == 'PIL' or name.startswith('batchgen.sandbox.faults')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
