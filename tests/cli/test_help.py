"""Examples in every `--help`, and the scripts by which shells complete."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from importlib import import_module

import pytest
from command import batchgen

from batchgen.cli.main import COMMANDS, parser_of


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_examples_that_can_be_read(name, tmp_path):
    examples = import_module(f"batchgen.cli.{name}").EXAMPLES.splitlines()
    assert 1 <= len(examples) <= 6
    for example in examples:
        words = shlex.split(example.removeprefix('eval "$(').removesuffix(')"').partition(" > ")[0])
        assert words[:2] == ["batchgen", name]
        assert parser_of(name).parse_args(words[1:]).command == name
    shown = batchgen(name, "--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert all(f"  {example}\n" in shown.stdout for example in examples)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_read_its_script(shell, tmp_path):
    done = batchgen("completion", shell, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)
    assert "max-cost" in done.stdout
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=done.stdout, capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("batchgen re", {"report"}),
        ("batchgen run --ma", {"--max-cost"}),
        ("batchgen run man", {"manifest.yaml"}),
    ],
)
def test_bash_completes_commands_options_and_files(line, offered, tmp_path):
    (tmp_path / "manifest.yaml").touch()
    (tmp_path / "script").write_text(batchgen("completion", "bash", cwd=tmp_path).stdout, encoding="utf-8")
    words = line.split()
    program = (
        f"source ./script; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMP_LINE='{line}';"
        f" COMP_POINT={len(line)}; _shtab_batchgen batchgen '{words[-1]}' '{words[-2]}';"
        f" printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert offered <= {word.strip() for word in done.stdout.splitlines()}, done


def test_without_the_package_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    done = batchgen("completion", "bash", cwd=tmp_path)
    assert (done.returncode, "pip install 'batchgen[completion]'" in done.stderr) == (2, True)
