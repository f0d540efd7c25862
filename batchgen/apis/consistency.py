"""Whether the steps of a definition fit each other: what one reads or asks for, another has to send or use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.apis.definition import OF_ATTEMPT, OF_IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from batchgen.apis.definition import Row, Step
    from batchgen.apis.values import Template

Contradiction = tuple[tuple[str, ...], str, str]  # its path, what is wrong, and what to do


def contradictions(steps: Mapping[str, Step], mark: Template | None) -> Iterator[Contradiction]:
    """What is wrong with a definition that has a create, and whose steps are right each by itself."""
    yield from _of_create(steps)
    yield from _of_files(steps)
    yield from _of_identity(steps, mark)


def doubts(create: Step, rows: Iterable[Row], *, is_called: bool) -> Iterator[Contradiction]:
    """What is possible, and hardly meant. `is_called`: whether the definition says what a callback names."""
    if "callback_url" in create.names and not is_called:
        hint = "Add `callback: {task: S}`, or take `{{ callback_url }}` out."
        yield ("create",), "It sends `callback_url`, but nothing says where a call names its task.", hint
    if create.fine is not None and not any(row.when is not None for row in rows):
        hint = 'Add a row for each code, as in `{when: "code == `402`", means: account}`; else refusals are `unknown`.'
        yield ("create", "fine"), "Errors come with a status below 300, but no row of `errors` reads them.", hint


def _of_create(steps: Mapping[str, Step]) -> Iterator[Contradiction]:
    create, query, result = steps["create"], steps.get("query"), steps.get("result")
    if create.method == "GET":
        yield ("create",), "A create is a post or a put.", ""
    if not create.names & (OF_IMAGE | {"prompt"}):  # what only works on an image may need no prompt
        hint = 'Put it there, as in `prompt: "{{ prompt }}"`.'
        yield ("create",), "`create` does not send the prompt: every job would be the same and be paid.", hint
    for name in ("query", "result"):
        if name in steps and "task" not in steps[name].names:
            yield (
                (name,),
                "It does not say which task it asks for.",
                "Put `{{ task }}` there, as in `get: /v1/tasks/{{ task }}`.",
            )
    if "task" in create.selectors:
        if query is None:
            yield ("create", "task"), "A task is named, but there is no `query`.", "Add the step."
        elif query.images is None and (result is None or result.images is None):
            yield ("query",), "Nothing says where the images are.", "Add `images` to `query` or `result`."
    elif create.images is None:
        hint = "Add `task: S` for a task that is queried, or `images: {…}` for an answer that has them."
        yield ("create",), "Nothing is read out of the answer.", hint
    elif names := sorted(set(steps) & {"query", "result", "find", "list"}):
        message = f"`{names[0]}` is never used: `create` names no task."
        yield (names[0],), message, "Add `task: S` to `create`, or take the step out."


def _of_files(steps: Mapping[str, Step]) -> Iterator[Contradiction]:
    for name, step in steps.items():
        if step.misplaced_files:
            yield (name,), "A file can only be a whole value of `form`.", "Or write `{{ image.b64 }}`."
    if ("upload" in steps) != ("image_uploaded" in steps["create"].names):
        hint = "`create` sends `{{ image.uploaded }}`, and the step `upload` makes it."
        yield ("upload" if "upload" in steps else "create",), "An upload takes two steps.", hint


def _of_identity(steps: Mapping[str, Step], mark: Template | None) -> Iterator[Contradiction]:
    """What `find` and `list` look for has to be in the create."""
    sent = steps["create"].names
    if "find" in steps:
        found: Step | None = steps["find"]
        asked = mark.names if mark is not None else frozenset()
        while found is not None:
            asked = asked | (found.names & OF_ATTEMPT)
            if "items" in found.selectors and ("mark" not in found.selectors or mark is None):
                hint = "Add `mark` here, and at the top of the definition."
                yield ("find",), "A list of tasks is searched, but nothing says by what.", hint
            found = found.alternative
        if not asked or not asked <= sent:
            hint = "Both have to hold the same one of {{ attempt.id }}, {{ attempt.uuid }} and {{ attempt.seed }}."
            yield ("find",), "It asks for an id that `create` does not send.", hint
    if "list" in steps and mark is None:
        yield ("list",), "A list needs `mark`, by which it names our tasks.", "Add `mark: …`."
    if mark is not None and (not mark.names or not mark.names <= sent):
        yield ("mark",), "`create` does not send this mark.", "Put the same value into the create."
