"""The command line itself: options that were renamed, and what an error of the system means."""

from __future__ import annotations

import json

import pytest

from batchgen.cli import schema
from batchgen.cli.main import main


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [
        ("sandbox --weather fail=0.1", "--weather", "--faults"),
        ("sandbox --spread=0.5", "--spread", "--latency-sigma"),
        ("sandbox --no-paint", "--no-paint", "--blank-images"),
        ("sandbox --images-kept 5", "--images-kept", "--image-ttl"),
        ("sandbox --links-expire 5", "--links-expire", "--link-ttl"),
        ("sandbox --answers url", "--answers", "--response-format"),
        ("sandbox --profile kapon", "--profile", "--emulate"),
        ("sandbox --no-finds-by-external-id", "--no-finds-by-external-id", "--no-lookup-by-external-id"),
        ("doctor m.yaml --patience 3", "--patience", "--timeout"),
        ("run m.yaml --quiet --profile-engine", "--profile-engine", "--timings"),
    ],
)
def test_an_option_that_was_renamed_is_named_with_its_new_name(capsys, command, old, new):
    assert main(command.split()) == 2
    assert f"Unknown option {old}; it is now {new}." in capsys.readouterr().err


def test_an_option_of_another_command_is_not_called_renamed(capsys):
    assert main(["plan", "m.yaml", "--weather", "fail=1"]) == 2
    assert "it is now" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "verify"])
@pytest.mark.parametrize("text", ["providers: 5", "providers: [a]", "providers: {5: {}}", "providers: {a: 5}"])
def test_a_manifest_whose_providers_are_wrong_still_has_its_output(tmp_path, monkeypatch, capsys, command, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.yaml").write_text(f"version: 1\nname: x\nprovider: a\n{text}\n", encoding="utf-8")
    main([command, "m.yaml", "--json"])
    assert json.loads(capsys.readouterr().out)["reason_code"] in {"complete", "command_invalid"}
    assert main([command, "m.yaml", "--provider", "nobody", "--json"]) == 2


@pytest.mark.parametrize("name", ["🦊 foxes.csv", "a\u2028b.csv", "tab\there.csv", "null"])
def test_a_starter_names_any_prompt_file(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{name}.txt").write_text("a fox\n", encoding="utf-8")
    assert main(["init", "--from", f"{name}.txt"]) == 0
    assert main(["validate", "manifest.yaml"]) == 0
    assert capsys.readouterr().err == ""


def failing_with(monkeypatch, error):
    def fail(_options):
        raise error

    monkeypatch.setattr(schema, "execute", fail)
    monkeypatch.delenv("BATCHGEN_TRACEBACK", raising=False)


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (PermissionError(13, "Permission denied", "/x/state.sqlite3"), 2, "disk"),
        (OSError(28, "No space left on device"), 2, "disk"),
        (OSError(22, "Invalid argument"), 70, "defect"),
        (ConnectionResetError("lost"), 70, "defect"),
        (TypeError("wrong"), 70, "defect"),
    ],
    ids=str,
)
def test_only_an_error_of_a_file_or_a_disk_is_advice_to_the_user(monkeypatch, capsys, error, code, reason):
    failing_with(monkeypatch, error)
    assert main(["schema"]) == code
    said = capsys.readouterr().err
    assert ("defect of batchgen" in said) is (reason == "defect")


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied", "/x"), TypeError("wrong")], ids=str)
def test_the_traceback_of_every_foreign_error_can_be_seen(monkeypatch, error):
    failing_with(monkeypatch, error)
    monkeypatch.setenv("BATCHGEN_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main(["schema"])
