"""Whether the examples of a definition show how its API answers, so that the sandbox can play it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchgen.errors import CommandError
from batchgen.sandbox.declared_answers import Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchgen.apis.definition import Images, Step
    from batchgen.sandbox.declared_answers import Answers

_WORD, _MARK = "0123456789", "9876543210"  # a number as a text, as marks and ids may have to be
_HINTS = {
    "create": "{step: create, answer: {…}, gives: {task: …}}",
    "running": "{step: query, answer: {…}, gives: {state: running}}",
    "done": "{step: query, answer: {…}, gives: {state: done, images: [https://…]}}",
    "result": "{step: result, answer: {…}, gives: {images: [https://…]}}",
    "images": "{step: create, answer: {…}, gives: {images: [https://…]}}",
    "find": "{step: find, answer: {…}, gives: {task: …}}",
    "list": "{step: list, answer: {…}, gives: {items: 1, mark: …, task: …}}",
}


def check(answers: Answers, steps: Mapping[str, Step], name: str, *, one_image: bool) -> None:
    """Raise CommandError, with the example to add, where an answer cannot be made."""
    for wanted in missing(answers, steps, one_image=one_image):
        raise CommandError(
            f"The sandbox cannot play the API of the account {name!r}: no example of its definition shows such an answer"
            f" as {_HINTS[wanted]}. Add a documented one to `examples`."
        )


def missing(answers: Answers, steps: Mapping[str, Step], *, one_image: bool) -> Iterator[str]:
    """Which answers cannot be made."""
    create = steps["create"]
    numbers = (1,) if one_image else (1, 2)
    if not answers.has_tasks:
        if create.images is not None and create.images.kind != "body" and not _gives(answers, create, numbers):
            yield "images"
        return
    name = answers.name.with_word(_WORD) if answers.name is not None else ""
    task = Wanted(task=name, word=_WORD, mark=_MARK)
    if answers.takes_mark:
        task = Wanted(task=_MARK, word=_MARK, mark=_MARK)
    if answers.name is None or answers.make([create], task) is None:
        yield "create"
    if answers.make([steps["query"]], Wanted(state="running")) is None:
        yield "running"
    if not _gives(answers, steps["query"], numbers, state="done"):
        yield "done"
    if "result" in steps and not _gives(answers, steps["result"], numbers):
        yield "result"
    find: Step | None = steps.get("find")
    while find is not None:
        if answers.make([find], Wanted(items=(task,)) if "items" in find.selectors else task) is None:
            yield "find"
        find = find.alternative
    if "list" in steps and answers.make([steps["list"]], Wanted(items=(task,))) is None:
        yield "list"


def _gives(answers: Answers, step: Step, numbers: Sequence[int], state: str = "") -> bool:
    """Whether an answer can be made with each of these numbers of images."""
    return all(
        answers.make([step], Wanted(state=state, images=_images(answers, step.images, number))) is not None
        for number in numbers
    )


def _images(answers: Answers, images: Images | None, number: int) -> list[Any]:
    texts = [f"https://127.0.0.1/{each}.png" for each in range(number)]
    return [answers.linked(text) for text in texts] if images is not None and images.link is not None else list(texts)
