"""The commands in README.md and docs/ print what the documents say."""

from __future__ import annotations

import re

import pytest
from documents import DOCUMENTS, ROOT, Example, examples, outputs

WITH_COMMANDS = [
    document
    for document in DOCUMENTS
    if any(isinstance(each, Example) for each in examples(document.read_text("utf-8")))
]


@pytest.mark.parametrize("document", WITH_COMMANDS, ids=lambda document: document.stem)
def test_each_command_prints_what_the_document_says(document, tmp_path):
    done = outputs(document, tmp_path)
    assert [(example.command, printed) for example, printed in done] == [
        (example.command, example.output) for example, _ in done
    ]


def test_the_readme_has_examples():
    commands = [each.command for each in examples((ROOT / "README.md").read_text("utf-8")) if isinstance(each, Example)]
    assert {"run", "plan", "validate"} <= {command.split()[1] for command in commands}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
def test_each_link_to_a_file_leads_to_one(document):
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", document.read_text("utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_a_command_s_output_ends_where_the_next_begins():
    text = "```console\n$ batchgen one\na\nb\n$ batchgen two\n```\n"
    assert [(each.command, each.output, text[each.start : each.end]) for each in examples(text)] == [
        ("batchgen one", "a\nb\n", "a\nb\n"),
        ("batchgen two", "", ""),
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
def test_each_file_that_is_named_exists(document):
    names = re.findall(
        r"`((?:batchgen|tests|docs|schemas|manifests|\w+)/[\w/]+\.(?:py|yaml|sql|json))`", document.read_text("utf-8")
    )
    wrong = [name for name in names if not (ROOT / name).exists() and not (ROOT / "batchgen" / name).exists()]
    assert [name for name in wrong if not name.startswith(("outputs/", "prompts/"))] == []
