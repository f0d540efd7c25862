"""Whether the examples of a definition show how its API answers, so that the sandbox can play it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.errors import CommandError
from batchgen.sandbox.declared_answers import Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchgen.apis.definition import Step
    from batchgen.sandbox.declared_answers import Answers

_DIGITS = "1234567890"  # as ids and marks may have to be


def check(answers: Answers, steps: Mapping[str, Step], *, one_image: bool) -> None:
    """Raise CommandError, with the example to add, where an answer cannot be made."""
    for step, wanted, gives in _needed(answers, steps, (1,) if one_image else (1, 2)):
        if answers.make([step], wanted) is None:
            raise CommandError(
                "The sandbox cannot play this definition: none of its examples shows an answer"
                f" to the step `{step.name}` that gives {gives}. Add a documented one to `examples`:"
                f" {{step: {step.name}, answer: {{…}}, gives: {{{gives}}}}}"
            )


def _needed(
    answers: Answers, steps: Mapping[str, Step], numbers: tuple[int, ...]
) -> Iterator[tuple[Step, Wanted, str]]:
    """Each answer that has to be made: the step, what is read of it, and that in the words of `gives`."""
    name = answers.name.with_word(_DIGITS) if answers.name is not None else _DIGITS
    task = Wanted(task=_DIGITS if answers.takes_mark else name, word=_DIGITS, mark=_DIGITS)
    if answers.has_tasks:
        yield steps["create"], task, "task: …"
        yield steps["query"], Wanted(state="running"), "state: running"
    for step in steps.values():
        if step.images is not None and step.images.kind != "body":
            for number in numbers:
                files = [f"https://127.0.0.1/{each}.png" for each in range(number)]
                images = [answers.linked(file) for file in files] if step.images.link is not None else files
                state = "done" if step.name == "query" else ""
                yield step, Wanted(state=state, images=images), "state: done, images: […]" if state else "images: […]"
        elif step.name == "query":
            yield step, Wanted(state="done"), "state: done"
        if step.name == "list":
            yield step, Wanted(items=(task,)), "items: 1, mark: …, task: …"
        find = step if step.name == "find" else None
        while find is not None:
            yield find, Wanted(items=(task,)) if "items" in find.selectors else task, "task: …"
            find = find.alternative
