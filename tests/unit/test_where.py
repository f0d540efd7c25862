"""`--where`: which images a command is about."""

from __future__ import annotations

import pytest

from batchgen.errors import CommandError
from batchgen.jobs import Job, Parameters
from batchgen.ledger.records import IndexRow, Mark
from batchgen.reports.where import Where

JOB = Job(
    id="1" + "a" * 25,
    prompt="a fox",
    parameters=Parameters(model="kling-v2-1", n=2),
    prompt_id="fox",
    labels={"Category": "Animals", "Level": "a=b"},
)
ROW = IndexRow(
    job=JOB,
    index=0,
    path="images/fox.png",
    sha256="0" * 64,
    bytes=10,
    width=1,
    height=1,
    account="kapon",
    task_id="t",
    attempts=1,
    submitted_at=0,
    finished_at=1,
    cost=1,
    delivered=1,
    warning="",
    mark=Mark.KEEP,
    note="sharp",
    scores={"blank.contrast": 0.25},
)


@pytest.mark.parametrize(
    ("texts", "is_taken"),
    [
        ([], True),
        (["mark=keep"], True),
        (["mark=reject"], False),
        (["mark=reject", "mark=keep"], True),
        (["mark!=reject"], True),
        (["mark!=keep", "mark=keep"], False),
        (["label.Category=Anim*"], True),
        (["label.Category=Plants"], False),
        (["label.Level=a=b"], True),
        (["label.None="], True),
        (["label.None!="], False),
        (["score.blank.contrast>0.2"], True),
        (["score.blank.contrast>=0.25", "score.blank.contrast<0.3"], True),
        (["score.blank.contrast>0.2", "score.blank.contrast<0.25"], False),
        (["score.none>0"], False),
        (["n=2", "model=kling-v2*", "provider=kapon"], True),
        (["n>1"], True),
        (["negative_prompt="], True),
        (["prompt=a fox", "prompt_id=fox", "note=sharp", "file_name=images/*"], True),
    ],
)
def test_conditions(texts, is_taken):
    assert Where.parse(texts).takes(ROW) is is_taken


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mark", "write KEY=VALUE"),
        ("=keep", "write KEY=VALUE"),
        ("modle=a", "Did you mean model?"),
        ("label.=a", "there is no label."),
        ("mark=kept", "a mark is keep, reject, star or empty"),
        ("score.a.b>high", "'high' is not a number"),
    ],
)
def test_what_is_no_condition_is_refused_with_a_hint(text, says):
    with pytest.raises(CommandError, match=says.replace("?", r"\?").replace(".", r"\.")):
        Where.parse([text])
